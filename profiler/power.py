"""Mean power of a workload that runs again and again, from as many windows of a meter as that takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from joulec.profiler.candidate import Work, Workload
from joulec.profiler.meter import Meter, PartTime, Reading, Watching
from joulec.profiler.statistics import interval95

_PHASES = 4
"""Windows of one block: their starts lie a fourth of a call apart, as the sensor sees it."""
_LEAST = 3
"""Windows, or blocks of them, that an interval needs at least."""
_GOLDEN = 0.6180339887498949
_COOLING_S = 1.0
_COOLINGS = 3
_LONGEST_S = 1.0
_SLICES = 20
"""Runs that a window consists of, where calls are short enough."""


@dataclass(frozen=True)
class PowerWindows:
    """Windows until the 95% confidence interval of the mean is narrow enough.

    Where the meter knows its own spread and calls are short beside what a reading averages, one window may do; while
    its spread is too wide, the next one is twice as long and takes its place. A meter that says nothing of its spread
    is asked three times at least.

    A sensor that sees only part of the time (`PartTime`) meets a long call always at the same place where the two
    periods divide each other. So the windows of a block start at four equally spaced phases of the call relative to
    the sensor's grid, and each block a golden section of that spacing later (a rule that is exact for all but the
    harmonics that fall on it); blocks, not windows, make the interval.

    A window in which the device was throttled (`Watching`) is thrown away and measured again after a second's rest,
    three times; then it counts.

    Attributes:
        precision: half width of the interval, relative.
        budget_s: after so long it ends, narrow or not.
        clock: monotonic seconds.
        sleep: waits.
    """

    precision: float = 0.02
    budget_s: float = 6.0
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    def mean_w(self, workload: Workload, meter: Meter, work: Work, call_s: float) -> float | None:
        """Watts while the workload runs, the loop around its calls included; None where the meter cannot tell.

        Args:
            workload: what runs.
            meter: what reads.
            work: what one call does.
            call_s: seconds of one call.

        Raises:
            MeterError: the meter cannot be read.
        """
        begun_s = self.clock()
        phases = _PHASES if _aliases(meter, call_s) else 1
        blocks: list[float] = []
        stretch = 1.0
        while True:
            block: list[float] = []
            reading: Reading | None = None
            for phase in range(phases):
                if phases > 1:
                    share = (phase + len(blocks) * _GOLDEN % 1) / phases
                    self._wait_for(meter, begun_s, share * call_s)
                reading = self._window(workload, meter, work, call_s, stretch)
                if reading.power_w is None:
                    return None
                block.append(reading.power_w)
            blocks.append(statistics.fmean(block))
            mean_w = statistics.fmean(blocks)
            if phases == 1 and reading is not None and reading.spread is not None:
                narrow = reading.spread <= self.precision
                stretch, blocks = 2 * stretch, []
            else:
                narrow = len(blocks) >= _LEAST and interval95(blocks) <= self.precision * mean_w
            if narrow or self.clock() - begun_s >= self.budget_s:
                return mean_w

    def _wait_for(self, meter: Meter, grid_s: float, offset_s: float) -> None:
        """Sleep until ``offset_s`` past a whole number of the sensor's updates since ``grid_s``."""
        if isinstance(meter, PartTime):
            self.sleep((offset_s - (self.clock() - grid_s)) % meter.update_s)

    def _window(self, workload: Workload, meter: Meter, work: Work, call_s: float, stretch: float) -> Reading:
        for attempt in range(_COOLINGS + 1):
            reading = self._once(workload, meter, work, call_s, stretch)
            if attempt == _COOLINGS or not (isinstance(meter, Watching) and meter.conditions().throttled):
                break
            self.sleep(_COOLING_S)
        return reading

    def _once(self, workload: Workload, meter: Meter, work: Work, call_s: float, stretch: float) -> Reading:
        length_s = stretch * meter.window_s
        if not _aliases(meter, call_s):  # whole calls or many: a part of one at the ends must not matter
            length_s = max(length_s, min(_SLICES * call_s, _LONGEST_S))
        calls = max(1, math.ceil(length_s / _SLICES / call_s))
        done = 0
        meter.begin()
        begun_s = self.clock()
        while done == 0 or self.clock() - begun_s < length_s:
            workload.run(calls)
            done += calls
        return meter.end(work.scaled(done))


def _aliases(meter: Meter, call_s: float) -> bool:
    """Whether a reading holds so few calls that where it begins and ends within one matters."""
    if not isinstance(meter, PartTime) or meter.average_s >= meter.update_s:
        return False
    return call_s > meter.average_s / 50


def idle_power_w(meter: Meter, sleep: Callable[[float], None] = time.sleep, seconds: float = 0.5) -> float | None:
    """Watts while nothing of ours runs, over a window of the meter at least; None where the meter cannot tell.

    Raises:
        MeterError: the meter cannot be read.
    """
    meter.begin()
    sleep(max(seconds, meter.window_s))
    return meter.end().power_w
