"""How candidates are measured. Pure but for stands, workloads, meters and clocks, all passed in."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from joulec.costdb.cost import Cost
from joulec.profiler.candidate import Work, Workload
from joulec.profiler.entrant import Entrant, Floor
from joulec.profiler.meter import Meter
from joulec.profiler.meters.estimate import EstimateMeter, estimate_energy_j
from joulec.profiler.race import Judge, Race
from joulec.profiler.stand import LEAST_S, Clock, Gauge, Stand, warm_up
from joulec.profiler.statistics import spread_of


class MeasurementProtocol(Protocol):
    """A way to measure; its options are its fields. Either `Adaptive` or `Paper`."""

    @property
    def version(self) -> str:
        """Name, version and every option that is not the default: ``CostKey.protocol``."""


@dataclass(frozen=True)
class Adaptive:
    """As many samples as it takes, and no more; the candidates of one operator in turns (`joulec.profiler.race`).

    Warm-up calls for ``warmup_s`` (at least two calls; the first, which pays for first touches, is never used to
    plan). Then slices of ``slice_s``, of samples of so many calls that each lasts ``sample_s``. Those in which others
    took a processor away from the process (`joulec.profiler.contention`) are set aside. Of the rest, those in the
    fastest mode (`summarise`) count: when they span ``least_s`` together, number ``least_samples`` and give a 95%
    confidence interval of the mean within ± ``precision``, it is done. A quiet machine is done at once. On one that is
    disturbed it goes on, for ``patience_s`` of samples where none was undisturbed and for ``budget_s`` where some were,
    shared by those that take turns, and then takes the fastest mode of the undisturbed samples or, where they are
    fewer than ``least_samples``, of all.

    With a real sensor energy windows of their own follow (`joulec.profiler.power.MeanPower`), until the 95% confidence
    interval of the mean power is within ± ``energy_precision``, for ``energy_s`` at most; with the estimate the energy
    follows from the work and the time.

    A candidate that cannot win is left; its interval is not claimed to be known, so its spread is infinite.

    A call of 100 µs takes about 0.1 s in all.
    """

    precision: float = 0.02
    sample_s: float = 1e-3
    slice_s: float = 0.0125
    least_samples: int = 5
    least_s: float = 0.05
    warmup_s: float = 0.02
    patience_s: float = 0.5
    budget_s: float = 2.0
    energy_precision: float = 0.02
    energy_s: float = 6.0

    @property
    def version(self) -> str:
        """``adaptive-4``, followed by the options changed."""
        return _version("adaptive-4", self)

    def entrant(self, stand: Stand, gauge: Gauge, floor: Floor, known: Sequence[Cost] = ()) -> Entrant:
        """A candidate for a race.

        Args:
            stand: where it runs.
            gauge: its meter.
            floor: shared by all that run on one device.
            known: costs of rivals that do not take part.
        """
        return Entrant(stand, self, gauge, floor, known)

    def race(
        self, entrants: Sequence[Entrant], judge: Judge | None = None, on_round: Callable[[], None] = lambda: None
    ) -> None:
        """Measure candidates in turns; see `joulec.profiler.race.Race`.

        Raises:
            MeterError: the meter cannot be read.
        """
        Race(entrants, self, judge, on_round).run()


@dataclass(frozen=True)
class Paper:
    """The protocol of the energy-aware substitution paper (section 4.1): run for 4 s, then measure for at least 4 s.

    Energy is mean power times mean time over the same window. Every workload is measured in full: nothing is given up.
    """

    warmup_s: float = 4.0
    window_s: float = 4.0
    sample_s: float = 0.1

    @property
    def version(self) -> str:
        """``paper-1``, followed by the options changed."""
        return _version("paper-1", self)

    def measure(
        self,
        workload: Workload,
        meter: Meter,
        work: Work,
        clock: Clock = time.perf_counter,
    ) -> Cost:
        """Time one workload.

        Args:
            workload: what to time.
            meter: what reads the energy.
            work: what one call does.
            clock: monotonic seconds.

        Raises:
            MeterError: the meter cannot be read.
            Exception: whatever the workload raises.
        """
        overhead_s = workload.overhead_s()
        call_s = warm_up(workload, self.warmup_s, clock)
        calls = max(1, math.ceil(self.sample_s / call_s))
        samples: list[float] = []
        meter.begin()
        begun_s = clock()
        while clock() - begun_s < self.window_s or len(samples) < 2:
            start_s = clock()
            workload.run(calls)
            samples.append((clock() - start_s) / calls)
        done = calls * len(samples)
        reading = meter.end(work.scaled(done))
        mean_s = statistics.fmean(samples)
        time_s = max(mean_s - overhead_s, LEAST_S)
        if isinstance(meter, EstimateMeter):
            energy_j: float | None = estimate_energy_j(work, time_s, meter.constants)
        else:
            energy_j = None if reading.power_w is None else reading.power_w * time_s
        return Cost(time_s, energy_j, "measured", meter.source, spread_of(samples, mean_s), len(samples))


PROTOCOLS: dict[str, MeasurementProtocol] = {"adaptive": Adaptive(), "paper": Paper()}
"""By the name that the user gives."""


def _version(name: str, protocol: Adaptive | Paper) -> str:
    default, own = vars(type(protocol)()), vars(protocol)
    changed = [f"{key}={value:g}" for key, value in own.items() if value != default[key]]
    return f"{name}({','.join(changed)})" if changed else name
