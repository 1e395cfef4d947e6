"""A built candidate where it can be timed: a few calls, or a window of the meter, at a time.

Whoever decides what is measured next need not live where it is measured: `joulec.profiler.race` sits beside the search,
the candidates in a worker process. Here is what they have in common, and the stand of a workload in this process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from joulec.costdb.cost import EnergySource, Failure
from joulec.profiler.candidate import Work, Workload
from joulec.profiler.contention import Contention, own_contention
from joulec.profiler.meter import Meter, PartTime, Reading, Watching
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter
from joulec.profiler.patience import answered

Clock = Callable[[], float]
_Result = TypeVar("_Result")

LEAST_S = 1e-9
"""What a call is said to take when the loop around it takes as long as the call itself: below the clock's reach."""
_COOLING_S = 1.0
_COOLINGS = 3
_SLICES = 20
"""Runs that a window consists of, where calls are short enough."""
_SEEN_CALLS = 50
"""A reading that holds fewer calls than that depends on where it begins within one."""


class CandidateFailed(Exception):
    """A candidate came to grief on its stand.

    Attributes:
        failure: what is to be kept of it.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class OutOfBoundsError(RuntimeError):
    """A candidate wrote where it must not: around its buffers, or into its inputs."""


@runtime_checkable
class Guarded(Protocol):
    """A workload that can tell whether a run wrote outside its buffers."""

    def guard(self) -> None:
        """Mark what lies around the buffers; right before a run."""

    def violation(self, thorough: bool) -> str:
        """What was written where it must not be since `guard`; empty where nothing was.

        Args:
            thorough: look wherever that may be, even if it takes a while.
        """


@dataclass(frozen=True)
class Sample:
    """One timed run.

    Attributes:
        seconds: per call, the loop around it included.
        disturbed: whether others took a processor away meanwhile (`joulec.profiler.contention`).
    """

    seconds: float
    disturbed: bool


@dataclass(frozen=True)
class Gauge:
    """What must be known of a meter to plan its windows.

    Attributes:
        source: the source of its joules.
        window_s: the shortest window that says something.
        update_s: seconds between readings of a sensor that sees only part of the time; 0 of any other.
        average_s: seconds before each update that such a sensor sees.
        constants: of an estimate; None of a sensor.
        idle_w: watts before the first candidate ran, where a sensor told.
    """

    source: EnergySource
    window_s: float
    update_s: float = 0.0
    average_s: float = 0.0
    constants: EnergyConstants | None = None
    idle_w: float | None = None

    @staticmethod
    def of(meter: Meter, idle_w: float | None = None) -> Gauge:
        """What a meter says of itself."""
        constants = meter.constants if isinstance(meter, EstimateMeter) else None
        if isinstance(meter, PartTime) and meter.average_s < meter.update_s:
            return Gauge(meter.source, meter.window_s, meter.update_s, meter.average_s, constants, idle_w)
        return Gauge(meter.source, meter.window_s, constants=constants, idle_w=idle_w)

    def aliases(self, call_s: float) -> bool:
        """Whether a reading holds so few calls that where it begins and ends within one matters."""
        return self.update_s > 0 and call_s > self.average_s / _SEEN_CALLS


class Stand(Protocol):
    """A candidate, built. Methods raise `CandidateFailed` for its own faults and `MeterError` for the meter's."""

    @property
    def work(self) -> Work:
        """What one call does."""

    @property
    def overhead_s(self) -> float:
        """Seconds per call of the loop around it."""

    def warm_up(self, seconds: float) -> float:
        """Run for some seconds, at least twice; returns what a call of the last run took."""

    def sample(self, calls: int, count: int, settle: bool) -> tuple[Sample, ...]:
        """Time ``count`` runs of ``calls`` each; ``settle`` runs once before, as others have used the caches."""

    def window(self, call_s: float, length_s: float, phase_s: float | None) -> Reading:
        """Run for a window of the meter.

        Args:
            call_s: about how long a call takes.
            length_s: how long the window is at least.
            phase_s: how long after an update of the sensor it begins, on a grid of this stand's own; None for at once.
        """


class LocalStand:
    """A workload in this process.

    Args:
        workload: what runs.
        meter: reads the energy.
        work: what one call does.
        clock: monotonic seconds.
        contention: the kernel's account of who took processors away.
        sleep: waits.
    """

    def __init__(
        self,
        workload: Workload,
        meter: Meter,
        work: Work,
        clock: Clock = time.perf_counter,
        contention: Callable[[], Contention] = own_contention,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.work = work
        self.overhead_s = workload.overhead_s()
        self._workload, self._meter = workload, meter
        self._clock, self._contention, self._sleep = clock, contention, sleep
        self._grid_s: float | None = None

    def warm_up(self, seconds: float) -> float:
        """See `Stand.warm_up`."""
        return self.guarded(lambda: warm_up(self._workload, seconds, self._clock), thorough=True)

    def sample(self, calls: int, count: int, settle: bool) -> tuple[Sample, ...]:
        """See `Stand.sample`."""
        return self.guarded(lambda: self._sample(calls, count, settle))

    def _sample(self, calls: int, count: int, settle: bool) -> tuple[Sample, ...]:
        if settle:
            self._workload.run(calls)
        samples = []
        for _ in range(count):
            before = self._contention()
            start_s = self._clock()
            self._workload.run(calls)
            seconds = self._clock() - start_s
            samples.append(Sample(seconds / calls, before.disturbed(self._contention(), seconds)))
        return tuple(samples)

    def window(self, call_s: float, length_s: float, phase_s: float | None) -> Reading:
        """See `Stand.window`.

        A window in which the device was throttled (`Watching`) is thrown away and measured again after a second's rest,
        three times; then it counts.
        """
        return self.guarded(lambda: self._window(call_s, length_s, phase_s))

    def _window(self, call_s: float, length_s: float, phase_s: float | None) -> Reading:
        for attempt in range(_COOLINGS + 1):
            self._wait_for(phase_s)
            reading = self._once(call_s, length_s)
            throttled = isinstance(self._meter, Watching) and self._meter.conditions().throttled
            if attempt == _COOLINGS or not throttled:
                break
            self._sleep(_COOLING_S)
        return reading

    def _once(self, call_s: float, length_s: float) -> Reading:
        calls = max(1, math.ceil(length_s / _SLICES / call_s))
        done = 0
        answered(self._meter.begin, self._meter.name)
        begun_s = self._clock()
        while done == 0 or self._clock() - begun_s < length_s:
            self._workload.run(calls)
            done += calls
        return answered(lambda: self._meter.end(self.work.scaled(done)), self._meter.name)

    def _wait_for(self, phase_s: float | None) -> None:
        """Sleep until ``phase_s`` past a whole number of the sensor's updates since the first window."""
        if self._grid_s is None:
            self._grid_s = self._clock()
        if phase_s is not None and isinstance(self._meter, PartTime):
            self._sleep((phase_s - (self._clock() - self._grid_s)) % self._meter.update_s)

    def guarded(self, run: Callable[[], _Result], thorough: bool = False) -> _Result:
        """What ``run`` returns, unless the workload wrote where it must not.

        Args:
            run: runs it.
            thorough: see `Guarded.violation`.

        Raises:
            OutOfBoundsError: it did.
        """
        guarded = self._workload if isinstance(self._workload, Guarded) else None
        if guarded is not None:
            guarded.guard()
        result = run()
        if guarded is not None and (found := guarded.violation(thorough)):
            raise OutOfBoundsError(found)
        return result


def warm_up(workload: Workload, seconds: float, clock: Clock) -> float:
    """Run for some seconds, in runs that grow to an eighth of them; returns what a call of the last one took.

    There are two calls at least; the first, which pays for first touches, tells nothing.
    """
    begun_s = clock()
    workload.run(1)
    calls = 1
    while True:
        start_s = clock()
        workload.run(calls)
        now_s = clock()
        if now_s - begun_s >= seconds:
            return max((now_s - start_s) / calls, LEAST_S)
        if now_s - start_s < seconds / 8:
            calls *= 2
