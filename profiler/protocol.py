"""How a workload is timed. Pure but for the workload, the meter, the clock and the kernel's account, all passed in."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from joulec.costdb.cost import Cost
from joulec.profiler.candidate import Work, Workload
from joulec.profiler.contention import Contention, own_contention
from joulec.profiler.meter import Meter
from joulec.profiler.meters.estimate import EstimateMeter, estimate_energy_j
from joulec.profiler.power import PowerWindows
from joulec.profiler.statistics import interval95

Clock = Callable[[], float]

_LEAST_S = 1e-9
"""What a call is said to take when the loop around it takes as long as the call itself: below the clock's reach."""


class MeasurementProtocol(Protocol):
    """A way to measure; its options are its fields."""

    @property
    def version(self) -> str:
        """Name, version and every option that is not the default: ``CostKey.protocol``."""

    def measure(
        self,
        workload: Workload,
        meter: Meter,
        work: Work,
        clock: Clock = time.perf_counter,
        *,
        give_up_s: float | None = None,
    ) -> Cost:
        """Time one workload.

        Args:
            workload: what to time.
            meter: what reads the energy.
            work: what one call does.
            clock: monotonic seconds.
            give_up_s: a call that takes longer makes the workload uninteresting; a protocol may then stop at once.

        Raises:
            MeterError: the meter cannot be read.
            Exception: whatever the workload raises.
        """


@dataclass(frozen=True)
class Summary:
    """Mean of the samples kept.

    Attributes:
        mean_s: mean seconds per call.
        spread: half width of the mean's 95% confidence interval, relative to the mean.
        kept: how many samples were kept.
    """

    mean_s: float
    spread: float
    kept: int


def summarise(samples: Sequence[float]) -> Summary:
    """Mean and confidence interval of the samples that nothing disturbed: those of the fastest mode.

    Disturbance only ever adds time, and often in steps, so that times have several modes of which the fastest is the
    workload's own (Chen and Revels 2016, "Robust benchmarking in noisy environments"). The mode is located by its
    density (as the shorth of Andrews et al. 1972 is): of all intervals that hold a quarter of the samples and end
    within their fastest half, the narrowest. Samples beyond its upper end + 3 × 1.4826 × its width are dropped. For
    normally distributed times that is the median + 3σ and drops next to nothing: the interval reaches from the lower
    quartile to the median, 0.6745 σ. The mean, unlike the minimum, does not fall as samples are added.

    Args:
        samples: seconds per call.
    """
    ordered = sorted(samples)
    count = min(len(ordered), max(3, math.ceil(len(ordered) / 4)))
    ends = range(count - 1, max(count, math.ceil(len(ordered) / 2)))
    end = min(ends, key=lambda last: ordered[last] - ordered[last - count + 1])
    limit = ordered[end] + 3 * 1.4826 * (ordered[end] - ordered[end - count + 1])
    kept = [sample for sample in ordered if sample <= limit]
    mean_s = statistics.fmean(kept)
    return Summary(mean_s, _spread(kept, mean_s), len(kept))


def _spread(samples: Sequence[float], mean_s: float) -> float:
    """Half width of the mean's 95% confidence interval (Student's t), relative to the mean."""
    return interval95(samples) / mean_s if mean_s > 0 else math.inf


@dataclass(frozen=True)
class Adaptive:
    """As many samples as it takes, and no more.

    Warm-up calls for ``warmup_s`` (at least two calls; the first, which pays for first touches, is never used to
    plan). Then samples of so many calls that each lasts ``sample_s``. Those in which others took a processor away from
    this process (`joulec.profiler.contention`) are set aside. Of the rest, those in the fastest mode (`summarise`)
    count: when they span ``least_s`` together, number ``least_samples`` and give a 95% confidence interval of the mean
    within ± ``precision``, it is done. A quiet machine is done at once; on one that is disturbed it goes on, for
    ``patience_s`` where no sample was undisturbed and for ``budget_s`` where some were, and then takes the fastest mode
    of the undisturbed samples or, where they are fewer than ``least_samples``, of all.

    With a real sensor energy windows of their own follow (`joulec.profiler.power.PowerWindows`), until the 95%
    confidence interval of the mean power is within ± ``energy_precision``, for ``energy_s`` at most; with the estimate
    the energy follows from the work and the time.

    A workload that takes longer than ``give_up_s`` in its first undisturbed sample, or in ``least_samples`` disturbed
    ones, is left at the fastest of them: its interval is unknown, so its spread is infinite.

    A call of 100 µs takes about 0.1 s in all.
    """

    precision: float = 0.02
    sample_s: float = 1e-3
    least_samples: int = 5
    least_s: float = 0.05
    warmup_s: float = 0.02
    patience_s: float = 0.5
    budget_s: float = 2.0
    energy_precision: float = 0.02
    energy_s: float = 6.0

    @property
    def version(self) -> str:
        """``adaptive-3``, followed by the options changed."""
        return _version("adaptive-3", self)

    def measure(
        self,
        workload: Workload,
        meter: Meter,
        work: Work,
        clock: Clock = time.perf_counter,
        *,
        give_up_s: float | None = None,
        contention: Callable[[], Contention] = own_contention,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Cost:
        """Time one workload; see the class."""
        overhead_s = workload.overhead_s()
        limit_s = math.inf if give_up_s is None else give_up_s + overhead_s
        summary = self._sample(workload, limit_s, clock, contention)
        time_s = max(summary.mean_s - overhead_s, _LEAST_S)
        if isinstance(meter, EstimateMeter):
            energy_j: float | None = estimate_energy_j(work, time_s, meter.constants)
        else:
            windows = PowerWindows(self.energy_precision, self.energy_s, clock, sleep)
            power_w = windows.mean_w(workload, meter, work, summary.mean_s)
            energy_j = None if power_w is None else power_w * time_s
        return Cost(time_s, energy_j, "measured", meter.source, summary.spread, summary.kept)

    def _sample(
        self, workload: Workload, limit_s: float, clock: Clock, contention: Callable[[], Contention]
    ) -> Summary:
        """Warm up and take samples; ``limit_s`` is the time per call, overhead included, at which to give up."""
        calls = max(1, math.ceil(self.sample_s / _warm_up(workload, self.warmup_s, clock)))
        least_samples, least_s = max(2, self.least_samples), min(self.least_s, self.budget_s)
        samples: list[float] = []
        undisturbed: list[float] = []
        looks_at = least_samples
        begun_s = clock()
        while True:
            before = contention()
            start_s = clock()
            workload.run(calls)
            now_s = clock()
            samples.append((now_s - start_s) / calls)
            if not before.disturbed(contention(), now_s - start_s):
                undisturbed.append(samples[-1])
            if (undisturbed or len(samples) >= least_samples) and min(samples) > limit_s:
                return Summary(min(samples), math.inf, 1)
            spent_s = now_s - begun_s
            patience_s = self.budget_s if undisturbed else min(self.patience_s, self.budget_s)
            if spent_s >= patience_s and len(samples) >= least_samples:
                return summarise(undisturbed if len(undisturbed) >= least_samples else samples)
            if spent_s < least_s or len(undisturbed) < looks_at:
                continue
            looks_at = len(undisturbed) + len(undisturbed) // 10 + 1
            summary = summarise(undisturbed)
            enough = summary.kept >= least_samples and summary.kept * calls * summary.mean_s >= least_s
            if enough and summary.spread <= self.precision:
                return summary


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
        *,
        give_up_s: float | None = None,
    ) -> Cost:
        """Time one workload; see the class."""
        overhead_s = workload.overhead_s()
        call_s = _warm_up(workload, self.warmup_s, clock)
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
        time_s = max(mean_s - overhead_s, _LEAST_S)
        if isinstance(meter, EstimateMeter):
            energy_j: float | None = estimate_energy_j(work, time_s, meter.constants)
        else:
            energy_j = None if reading.power_w is None else reading.power_w * time_s
        return Cost(time_s, energy_j, "measured", meter.source, _spread(samples, mean_s), len(samples))


PROTOCOLS: dict[str, MeasurementProtocol] = {"adaptive": Adaptive(), "paper": Paper()}
"""By the name that the user gives."""


def _version(name: str, protocol: Adaptive | Paper) -> str:
    default, own = vars(type(protocol)()), vars(protocol)
    changed = [f"{key}={value:g}" for key, value in own.items() if value != default[key]]
    return f"{name}({','.join(changed)})" if changed else name


def _warm_up(workload: Workload, seconds: float, clock: Clock) -> float:
    """Run for some seconds, in runs that grow to an eighth of them; returns what a call of the last one took."""
    begun_s = clock()
    workload.run(1)
    calls = 1
    while True:
        start_s = clock()
        workload.run(calls)
        now_s = clock()
        if now_s - begun_s >= seconds:
            return max((now_s - start_s) / calls, _LEAST_S)
        if now_s - start_s < seconds / 8:
            calls *= 2
