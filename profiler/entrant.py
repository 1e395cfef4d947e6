"""One candidate of a race: what was seen of it so far, and what it costs for certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulec.costdb.cost import Cost, EnergySource, Failure
from joulec.profiler.meters.estimate import estimate_energy_j
from joulec.profiler.power import MeanPower
from joulec.profiler.stand import LEAST_S, Gauge, Sample, Stand
from joulec.profiler.statistics import Summary, summarise

if TYPE_CHECKING:
    from joulec.profiler.protocol import Adaptive

CERTAIN = 3.0
"""Intervals are taken so many times as wide as their 95% half width before a candidate is stopped on their account."""
HOPELESS = 3.0
"""A candidate is stopped at once if it would lose even at a third of the time seen: disturbance does not treble it."""
_IDLE_SHARE = 0.9
"""A running device draws at least so much of its idle power."""
_SETTLING_S = 0.05
"""Calls as long as this need no run to settle: what others have left in the caches is small beside them."""


@dataclass(frozen=True)
class Point:
    """Seconds and joules of one call; bounds on them, one way or the other."""

    time_s: float
    energy_j: float


class Floor:
    """The least power that the device draws while anything runs on it: a bound on energy before that is measured.

    That is idle power, less a tenth. Should something else have run while idle power was read, a lower reading tells.

    Args:
        idle_w: None where no sensor told.
    """

    def __init__(self, idle_w: float | None) -> None:
        self._lowest_w = idle_w

    @property
    def watts(self) -> float:
        """0 where nothing is known."""
        return 0.0 if self._lowest_w is None else _IDLE_SHARE * self._lowest_w

    def saw(self, watts: float) -> None:
        """A reading of the sensor."""
        if self._lowest_w is not None:
            self._lowest_w = min(self._lowest_w, watts)


@dataclass(frozen=True)
class Stopped:
    """Why a candidate was left.

    Attributes:
        certain: it is behind by more than the intervals of both; else it is so far behind that one look was enough.
        by_energy: energy counted in that.
    """

    certain: bool
    by_energy: bool

    def __str__(self) -> str:
        """For the provenance."""
        what = "time and energy" if self.by_energy else "time"
        if self.certain:
            return f"cannot win: behind a rival in {what} by more than {CERTAIN:g} times the intervals of both"
        return f"cannot win: far behind a rival in {what} at a third of the time seen"


class Entrant:
    """A candidate on its stand.

    Attributes:
        stand: where it runs.
        known: costs of rivals that do not take part.
        failure: what became of it, if it failed.
        stopped: why it was left before it was measured to the full; None where it was not.
        timed: whether its time is known to the precision asked for, or as well as may be.
        spent_s: seconds of samples.
        power: its windows; None where the energy is an estimate.
    """

    def __init__(self, stand: Stand, options: Adaptive, gauge: Gauge, floor: Floor, known: Sequence[Cost] = ()) -> None:
        self.stand = stand
        self.known = known
        self.failure: Failure | None = None
        self.stopped: Stopped | None = None
        self.timed = False
        self.power: MeanPower | None = None
        if gauge.constants is None:
            self.power = MeanPower(gauge, options.energy_precision, options.energy_s)
        self._options, self._gauge, self._floor = options, gauge, floor
        self._calls = 0
        self._call_s = 0.0
        self._samples: list[float] = []
        self._undisturbed: list[float] = []
        self.spent_s = 0.0
        self._timed_after_s = math.inf
        self._summary = Summary(math.inf, math.inf, 0)

    @property
    def running(self) -> bool:
        """Whether it still takes part."""
        return self.failure is None and self.stopped is None

    @property
    def complete(self) -> bool:
        """Whether all of its cost is known as well as it will be."""
        return self.running and self.timed and (self.power is None or self.power.settled)

    @property
    def allowed_s(self) -> float:
        """Seconds of samples that it would be given alone: until its time was known, or until its budget is spent."""
        options = self._options
        budget_s = options.budget_s if self._undisturbed else min(options.patience_s, options.budget_s)
        return min(self._timed_after_s, budget_s)

    @property
    def sampled(self) -> bool:
        """Whether it has as many samples as it needs at least, disturbed or not."""
        return len(self._samples) >= max(2, self._options.least_samples)

    @property
    def time_s(self) -> float:
        """Mean seconds per call so far, the loop around it taken off."""
        return max(self._summary.mean_s - self.stand.overhead_s, LEAST_S)

    def start(self) -> None:
        """Warm up; after that its fastest possible time is known within a factor."""
        self._call_s = self.stand.warm_up(self._options.warmup_s)
        self._calls = max(1, math.ceil(self._options.sample_s / self._call_s))
        self._summary = Summary(self._call_s, math.inf, 1)

    def take(self, alone: bool, stretch: int = 1) -> None:
        """A slice of samples, so many times as long as the first ones."""
        run_s = self._calls * self._call_s
        count = max(1, math.ceil(stretch * self._options.slice_s / run_s))
        taken = self.stand.sample(self._calls, count, settle=not alone and self._call_s < _SETTLING_S)
        self._add(taken)

    def _add(self, taken: Sequence[Sample]) -> None:
        options = self._options
        self._samples += [sample.seconds for sample in taken]
        self._undisturbed += [sample.seconds for sample in taken if not sample.disturbed]
        self.spent_s += self._calls * sum(sample.seconds for sample in taken)
        least = max(2, options.least_samples)
        quiet = len(self._undisturbed) >= least
        self._summary = summarise(self._undisturbed if quiet else self._samples)
        if quiet and self.spent_s >= min(options.least_s, options.budget_s):
            summary = self._summary
            enough = summary.kept >= least and summary.kept * self._calls * summary.mean_s >= options.least_s
            if not self.timed and enough and summary.spread <= options.precision:
                self.timed, self._timed_after_s = True, self.spent_s

    def gauge_power(self) -> None:
        """A block of windows."""
        assert self.power is not None
        self.power.measure(self.stand, self._summary.mean_s)
        self._floor.saw(self.power.lowest_w)

    def guess(self) -> Point:
        """What it costs by what was seen so far; joules are infinite while a sensor has not told."""
        return Point(self.time_s, self._most_j(self.time_s, 0.0))

    def most(self) -> Point:
        """What it costs at most, for certain."""
        if len(self._undisturbed) < self._options.least_samples:
            return Point(math.inf, math.inf)
        time_s = self.time_s * (1 + CERTAIN * self._summary.spread)
        return Point(time_s, self._most_j(time_s, CERTAIN))

    def least(self) -> Point:
        """What it costs at least, for certain."""
        time_s = 0.0
        if len(self._undisturbed) >= self._options.least_samples:
            time_s = max(self.time_s * (1 - CERTAIN * self._summary.spread), 0.0)
        return Point(time_s, self._least_j(time_s))

    def at_best(self) -> Point:
        """What it would cost if disturbance had trebled the least time seen."""
        seen_s = min(self._samples, default=self._call_s) - self.stand.overhead_s
        time_s = max(seen_s, LEAST_S) / HOPELESS
        return Point(time_s, self._least_j(time_s))

    def _most_j(self, time_s: float, certain: float) -> float:
        if self._gauge.constants is not None:
            return estimate_energy_j(self.stand.work, time_s, self._gauge.constants)
        if self.power is None or self.power.mean_w is None or self.power.spread == math.inf:
            return math.inf
        return self.power.mean_w * (1 + certain * self.power.spread) * time_s

    def _least_j(self, time_s: float) -> float:
        if self._gauge.constants is not None:
            return estimate_energy_j(self.stand.work, time_s, self._gauge.constants)
        watts = self._floor.watts
        if self.power is not None and self.power.mean_w is not None and self.power.spread < math.inf:
            watts = max(watts, self.power.mean_w * (1 - CERTAIN * self.power.spread))
        return watts * time_s

    def cost(self) -> Cost:
        """What it costs.

        One that was stopped when it was seen to be far behind has an infinite spread: nothing is claimed of its
        interval. One whose joules were not measured has none, and an energy source only if they are known to be more
        than a rival's.
        """
        time_s = self.time_s
        spread = math.inf if self.stopped is not None and not self.stopped.certain else self._summary.spread
        source: EnergySource | None = self._gauge.source
        if self._gauge.constants is not None:
            energy_j: float | None = estimate_energy_j(self.stand.work, time_s, self._gauge.constants)
        else:
            watts = None if self.power is None else self.power.mean_w
            energy_j = None if watts is None else watts * time_s
            if energy_j is None and self.stopped is not None and not self.stopped.by_energy:
                source = None
        return Cost(time_s, energy_j, "measured", source, spread, self._summary.kept)
