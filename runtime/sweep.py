"""Throughput, power and energy of a compiled model against its batch size (second paper, Figures 1 and 2)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from joulec.profiler.candidate import Work
from joulec.profiler.meter import Meter
from joulec.runtime.window import BatchAware

_SLOT_S = 0.1


@dataclass(frozen=True)
class Slot:
    """A stretch of a run: when it began, mean watts and share of the device in use (0 to 1); None where not known."""

    t_s: float
    power_w: float | None
    utilization: float | None


@dataclass(frozen=True)
class SizeResult:
    """What one batch size gave.

    Attributes:
        batch: rows of a call.
        variant: of the graph; None where there is one only.
        calls: how many were made.
        latency_s: mean seconds of a call.
        throughput: rows per second.
        mean_power_w: joules by seconds; None where the meter cannot tell.
        max_power_w: highest power seen: the sensor's own peak where it gives one, else the highest slot.
        energy_per_item_j: joules per row.
        utilization: mean share of the device in use.
        slots: the run over time.
    """

    batch: int
    variant: str | None
    calls: int
    latency_s: float
    throughput: float
    mean_power_w: float | None
    max_power_w: float | None
    energy_per_item_j: float | None
    utilization: float | None
    slots: tuple[Slot, ...]


class CpuUtilization:
    """Share of the CPUs that this process may run on that were busy since the last question, others' work included.

    Args:
        stat: Linux's account of its CPUs; elsewhere the answer is None.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._last = self._account()

    def __call__(self) -> float | None:
        last, self._last = self._last, self._account()
        if last is None or self._last is None or self._last[1] == last[1]:
            return None
        return (self._last[0] - last[0]) / (self._last[1] - last[1])

    def _account(self) -> tuple[int, int] | None:
        """Ticks busy and ticks in all, summed over the CPUs."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        busy = total = 0
        try:
            lines = self._stat.read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        for line in lines:
            name, *fields = line.split()
            if name in names:
                ticks = [int(field) for field in fields[:8]]  # guests are counted in user time already
                total += sum(ticks)
                busy += sum(ticks) - ticks[3] - ticks[4]  # idle, waiting for input and output
        return (busy, total) if total else None


def sweep_size(
    call: Callable[[], object],
    batch: int,
    meter: Meter,
    *,
    variant: str | None = None,
    duration_s: float,
    work: Work,
    utilization: Callable[[], float | None],
    clock: Callable[[], float] = time.perf_counter,
) -> SizeResult:
    """Run one batch size for a while.

    Args:
        call: makes one call.
        batch: its rows.
        variant: what it runs, for the result and for a meter that wants to know.
        meter: measures slots of a tenth of a second, or of its own window where that is longer.
        duration_s: how long.
        work: what one call does.
        utilization: share of the device in use since it was last asked.
        clock: monotonic seconds.

    Raises:
        MeterError: the meter failed.
    """
    slot_s = max(_SLOT_S, meter.window_s)
    if isinstance(meter, BatchAware):
        meter.batch(batch, variant or 0)
    slots: list[Slot] = []
    peaks: list[float] = []
    calls, joules, metered_s = 0, 0.0, 0.0
    utilization()
    begun_s = clock()
    while not slots or clock() - begun_s < duration_s:
        meter.begin()
        start_s, done = clock(), 0
        while done == 0 or clock() - start_s < slot_s:
            call()
            done += 1
        reading = meter.end(work.scaled(done))
        calls += done
        slots.append(Slot(start_s - begun_s, reading.power_w, utilization()))
        if reading.power_w is not None and reading.joules is not None:
            joules, metered_s = joules + reading.joules, metered_s + reading.seconds
            peaks.append(reading.peak_w or reading.power_w)
    elapsed_s = clock() - begun_s
    used = [slot.utilization for slot in slots if slot.utilization is not None]
    mean_w = joules / metered_s if metered_s else None
    throughput = calls * batch / elapsed_s
    return SizeResult(
        batch=batch,
        variant=variant,
        calls=calls,
        latency_s=elapsed_s / calls,
        throughput=throughput,
        mean_power_w=mean_w,
        max_power_w=max(peaks, default=None),
        energy_per_item_j=None if mean_w is None else mean_w / throughput,
        utilization=sum(used) / len(used) if used else None,
        slots=tuple(slots),
    )
