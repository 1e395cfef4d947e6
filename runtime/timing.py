"""How long calls of a compiled function take on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.contention import Contention, own_contention
from joulec.profiler.meter import Meter
from joulec.profiler.meters.estimate import EstimateMeter, estimate_energy_j
from joulec.profiler.statistics import summarise
from joulec.runtime.manifest import Budget

_JUDGED = 3
"""How many windows must agree."""
_AGREEMENT = 0.03


@dataclass(frozen=True)
class Timing:
    """What calls of one entry cost.

    Attributes:
        mean_s: mean seconds per call, over all calls, disturbed ones too.
        median_s: median seconds per call, over all calls.
        min_s: fastest call.
        calls: how many were timed.
        windows: in how many windows.
        spread: by how much the slowest of the three fastest windows exceeds the fastest, relative.
        budget: time and, where a meter was given, energy per call of an undisturbed window (`time_calls`).
    """

    mean_s: float
    median_s: float
    min_s: float
    calls: int
    windows: int
    spread: float
    budget: Budget


def time_calls(
    call: Callable[[], object],
    *,
    repeats: int,
    window_s: float,
    most_windows: int,
    meter: Meter | None = None,
    work: Work = NO_WORK,
    clock: Callable[[], float] = time.perf_counter,
    contention: Callable[[], Contention] = own_contention,
) -> Timing:
    """Time calls in windows until the three fastest windows agree within 3%.

    Neighbours on the machine slow whole stretches, by up to the factor of threads that must share a processor, and
    never speed one up. So windows are compared and the fast ones believed: a window's time is that of its fastest mode
    (`joulec.profiler.statistics.summarise`), and the budget is that of the median of the three fastest windows. Windows
    in which others took processors away from this process (`joulec.profiler.contention`) are judged only where it ends
    without three others. The budget's energy is the mean power over that window times that time (first paper, section
    4.1: energy is mean power times mean time), or the estimate for that time and the work.

    Args:
        call: makes one call.
        repeats: calls at least, over all windows.
        window_s: length of a window at least; at least the meter's own, and two calls.
        most_windows: after so many windows it ends, agreed or not; never before three.
        meter: measures energy.
        work: what one call does.
        clock: monotonic seconds.
        contention: the kernel's account of who took processors away.

    Raises:
        MeterError: the meter failed.
    """
    length_s = max(window_s, meter.window_s if meter else 0.0)
    seconds: list[float] = []
    windows: list[Budget] = []
    undisturbed: list[Budget] = []
    while True:
        before, start_s = contention(), clock()
        calls, budget = _window(call, length_s, meter, work, clock)
        seconds += calls
        windows.append(budget)
        if not before.disturbed(contention(), clock() - start_s):
            undisturbed.append(budget)
        over = len(windows) >= max(most_windows, _JUDGED)
        judged = undisturbed if len(undisturbed) >= _JUDGED or not over else windows
        if len(judged) < _JUDGED or len(seconds) < repeats:
            continue
        fastest = sorted(judged, key=_time_s)[:_JUDGED]
        spread = _time_s(fastest[-1]) / _time_s(fastest[0]) - 1
        if spread <= _AGREEMENT or over:
            mean_s, median_s = statistics.fmean(seconds), statistics.median(seconds)
            middle = fastest[_JUDGED // 2]
            return Timing(mean_s, median_s, min(seconds), len(seconds), len(windows), spread, middle)


def _time_s(budget: Budget) -> float:
    assert budget.time_s is not None
    return budget.time_s


def _window(
    call: Callable[[], object], length_s: float, meter: Meter | None, work: Work, clock: Callable[[], float]
) -> tuple[Sequence[float], Budget]:
    """One window: its calls' seconds and what one of them costs undisturbed."""
    seconds: list[float] = []
    if meter:
        meter.begin()
    start_s = last_s = clock()
    while len(seconds) < 2 or last_s - start_s < length_s:
        call()
        now_s = clock()
        seconds.append(now_s - last_s)
        last_s = now_s
    time_s = summarise(seconds).mean_s
    if meter is None:
        return seconds, Budget(time_s, "measured")
    reading = meter.end(work.scaled(len(seconds)))
    joules = None if reading.power_w is None else reading.power_w * time_s
    if isinstance(meter, EstimateMeter) and joules is not None:
        joules = estimate_energy_j(work, time_s, meter.constants)
    if joules is None:
        return seconds, Budget(time_s, "measured")
    return seconds, Budget(time_s, "measured", joules, reading.source, joules / time_s)
