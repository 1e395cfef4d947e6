"""Cost sources: measurements kept in a store and completed by a profiler, and a roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from joulec.costdb.cost import Cost, CostKey, EnergySource, Failure
from joulec.passes.backend import Algorithm, BackEnd
from joulec.passes.graph import NodeSpec, Opaque
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.objective import Objective
from joulec.profiler.candidate import Candidate, Work

EnergyModel = Callable[[Work, float], float]
"""Joules of work done in some seconds; a straight line over the seconds."""
_HOPELESS = 3.0
"""A candidate is given up if it would lose even at a third of the time seen: disturbance does not treble it."""


class Store(Protocol):
    """The part of a cost store that costing reads."""

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """All known outcomes among the keys, in one look-up."""


class Measure(Protocol):
    """Measures candidates; outcomes reach the store as they are found."""

    def __call__(
        self,
        candidates: Sequence[Candidate],
        keep_going: Callable[[Candidate], bool],
        learn: Callable[[CostKey, Cost | Failure], None],
        give_up_s: Callable[[Candidate], float | None],
    ) -> None:
        """Measure the candidates in order, telling each outcome.

        Asked before each: whether it is still worth it, and beyond which time per call it is not worth thoroughness.
        """


@dataclass(frozen=True)
class _Unpriced:
    """What costs nothing (views) or cannot be measured (effects: they would be had a thousand times over)."""

    name: str

    def work(self, spec: NodeSpec) -> Work:
        return Work(0.0, 0.0)

    def lower_bound_s(self, spec: NodeSpec) -> float:
        return 0.0


_VIEW, _EFFECT = _Unpriced("view"), _Unpriced("effect")


def _unpriced(spec: NodeSpec) -> _Unpriced | None:
    """Its only algorithm where a spec has no price. An effect stands in every graph alike, so it decides nothing."""
    if spec.op.is_view:
        return _VIEW
    return _EFFECT if isinstance(spec.op, Opaque) and not spec.op.pure else None


@dataclass(frozen=True)
class Entry:
    """One algorithm of one spec, and where its cost is kept."""

    key: CostKey
    spec: NodeSpec
    algorithm: Algorithm


@dataclass
class MeasuredCosts:
    """Costs from a store; what is unknown is measured where a profiler is at hand.

    Attributes:
        backend: knows algorithms, keys and candidates.
        store: what is known already.
        measure: None looks up only.
        objective: decides which candidates can still win; None measures everything.
        energy_source: source of the joules that are asked for.
        energy_model: joules of (work, seconds) where energy is an estimate; None where a sensor measures it.
        on_known: told the outcomes that a look-up found.
        counts: how often a spec occurs in what is searched, where that is known; else once.
    """

    backend: BackEnd
    store: Store
    energy_source: EnergySource
    measure: Measure | None = None
    objective: Objective | None = None
    energy_model: EnergyModel | None = None
    on_known: Callable[[Mapping[CostKey, Cost | Failure]], None] = lambda known: None
    counts: Mapping[NodeSpec, int] = field(default_factory=dict)
    _options: dict[NodeSpec, Options] = field(default_factory=dict)
    _bounds: dict[NodeSpec, tuple[float, float]] = field(default_factory=dict)

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Look all specs up in one query, then measure what is unknown and may win."""
        unseen = sorted((spec for spec in set(specs) if spec not in self._options), key=str)
        for spec in unseen:
            free = self.free(spec)
            if free is not None:
                self._options[spec] = free
        entries = self.entries(spec for spec in unseen if spec not in self._options)
        known = self._measured(entries, None)
        found: dict[NodeSpec, list[Choice]] = {spec: [] for spec in unseen if spec not in self._options}
        for entry in entries:
            outcome = known.get(entry.key)
            if isinstance(outcome, Cost) and (outcome.energy_j is not None or not self._needs_energy):
                found[entry.spec].append(Choice(entry.algorithm, outcome))
        for spec, choices in found.items():
            self._options[spec] = Options(choices)

    def entries(self, specs: Iterable[NodeSpec]) -> list[Entry]:
        """All algorithms of some specs; none of what has no price."""
        priced = [spec for spec in specs if _unpriced(spec) is None]
        return [
            Entry(self.backend.key(spec, one), spec, one) for spec in priced for one in self.backend.algorithms(spec)
        ]

    def free(self, spec: NodeSpec) -> Options | None:
        """The only choice of a spec that has no price; None for all others."""
        algorithm = _unpriced(spec)
        if algorithm is None:
            return None
        return Options([Choice(algorithm, Cost(0.0, 0.0, "measured", self.energy_source))])

    def measure_in_order(self, wanted: Sequence[Entry]) -> None:
        """Measure what is unknown of some candidates and may win, in this order; what it gives is in the store."""
        self._measured(self.entries(dict.fromkeys(entry.spec for entry in wanted)), wanted)

    def _measured(self, entries: Sequence[Entry], wanted: Sequence[Entry] | None) -> dict[CostKey, Cost | Failure]:
        """Outcomes of all algorithms of some specs: looked up at once, then measured where wanted (None: all)."""
        known = self.store.get_many([entry.key for entry in entries]) if entries else {}
        self.on_known(dict(known))
        if self.measure is not None:
            race = _Race(self, known, entries)
            missing = race.contenders(race.ordered(entries) if wanted is None else wanted)
            if missing:
                self.measure(missing, race.may_win, known.__setitem__, race.give_up_s)
        return known

    @property
    def _needs_energy(self) -> bool:
        return self.objective is not None and self.objective.vectorised and self.objective.uses_energy

    def knows(self, spec: NodeSpec) -> bool:
        """Whether the spec was prepared."""
        return spec in self._options

    def options(self, spec: NodeSpec) -> Options:
        """Algorithms of a prepared spec with known cost; where the objective needs it, with known energy."""
        return self._options[spec]

    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]:
        """Roofline of the best algorithm where nothing is known, the known minimum elsewhere."""
        if _unpriced(spec) is not None:
            return 0.0, 0.0
        known = self._options.get(spec)
        if known is not None and len(known):
            return float(known.times.min()), float(known.energies.min())
        if spec not in self._bounds:
            bounds = [self.roofline(spec, algorithm) for algorithm in self.backend.algorithms(spec)]
            self._bounds[spec] = (
                min((seconds for seconds, _ in bounds), default=0.0),
                min((joules for _, joules in bounds), default=0.0),
            )
        return self._bounds[spec]

    def roofline(self, spec: NodeSpec, algorithm: Algorithm) -> tuple[float, float]:
        """Seconds and joules below which the algorithm cannot fall; 0 J where a sensor would have to tell."""
        seconds = algorithm.lower_bound_s(spec)
        return seconds, 0.0 if self.energy_model is None else self.energy_model(algorithm.work(spec), seconds)


class _Race:
    """Which candidates of a batch may still beat what is known of their spec.

    A candidate is out when its roofline is worse in time and in energy than one algorithm that is already measured,
    and the objective never rewards that (it is monotone).
    """

    def __init__(self, costs: MeasuredCosts, known: Mapping[CostKey, Cost | Failure], entries: Sequence[Entry]) -> None:
        self._costs = costs
        self._known = known
        self._entrants: dict[CostKey, tuple[NodeSpec, Algorithm]] = {}
        self._rivals: dict[NodeSpec, list[CostKey]] = {}
        for entry in entries:
            self._entrants[entry.key] = (entry.spec, entry.algorithm)
            self._rivals.setdefault(entry.spec, []).append(entry.key)

    def ordered(self, entries: Sequence[Entry]) -> list[Entry]:
        """The most valuable first.

        Each spec's first algorithm comes before any other's second, so that time that runs out leaves as few specs as
        may be without any; among these, what takes the most time by its roofline, over all its occurrences, is first.
        """
        place = {key: place for rivals in self._rivals.values() for place, key in enumerate(rivals)}
        worth = {spec: self._costs.counts.get(spec, 1) * self._costs.lower_bound(spec)[0] for spec in self._rivals}
        return sorted(entries, key=lambda entry: (place[entry.key], -worth[entry.spec]))

    def contenders(self, entries: Sequence[Entry]) -> list[Candidate]:
        """Candidates without a known outcome that may win."""
        backend = self._costs.backend
        missing = [entry for entry in entries if entry.key not in self._known]
        candidates = [backend.candidate(entry.spec, entry.algorithm) for entry in missing]
        return [candidate for candidate in candidates if self.may_win(candidate)]

    def may_win(self, candidate: Candidate) -> bool:
        """Whether the roofline leaves the candidate a chance against what is known by now."""
        objective = self._judge()
        if objective is None:
            return True
        spec, algorithm = self._entrants[candidate.key]
        seconds, joules = self._costs.roofline(spec, algorithm)
        rivals = (self._known.get(key) for key in self._rivals[spec])
        return not any(
            isinstance(rival, Cost)
            and seconds > rival.time_s
            and (not objective.uses_energy or (rival.energy_j is not None and joules > rival.energy_j))
            for rival in rivals
        )

    def give_up_s(self, candidate: Candidate) -> float | None:
        """Seconds per call beyond which the candidate is worse than a rival, in energy too where that counts."""
        objective = self._judge()
        if objective is None:
            return None
        spec, algorithm = self._entrants[candidate.key]
        rivals = [rival for key in self._rivals[spec] if isinstance(rival := self._known.get(key), Cost)]
        times = [rival.time_s for rival in rivals]
        if objective.uses_energy:
            work = algorithm.work(spec)
            times = [max(rival.time_s, self._seconds_to_spend(rival.energy_j, work)) for rival in rivals]
        return _HOPELESS * min(times) if times else None

    def _seconds_to_spend(self, joules: float | None, work: Work) -> float:
        """How long doing the work may take until it has cost so many joules."""
        model = self._costs.energy_model
        if model is None or joules is None:
            return math.inf
        at_once_j = model(work, 0.0)
        power_w = model(work, 1.0) - at_once_j
        if at_once_j >= joules:
            return 0.0
        return (joules - at_once_j) / power_w if power_w > 0 else math.inf

    def _judge(self) -> Objective | None:
        """The objective, where being worse in time (and energy, where that counts) rules a candidate out."""
        objective = self._costs.objective
        if objective is None or not objective.monotone or objective.bounds.max_power_w is not None:
            return None
        return None if objective.uses_energy and self._costs.energy_model is None else objective


@dataclass
class RooflineCosts:
    """Prices everything by a roofline of the device: nothing is measured, time and energy are estimates.

    Attributes:
        backend: knows algorithms.
        energy_model: joules of (work, seconds).
    """

    backend: BackEnd
    energy_model: EnergyModel
    _options: dict[NodeSpec, Options] = field(default_factory=dict)

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Price all specs."""
        for spec in specs:
            if spec not in self._options:
                self._options[spec] = Options(self._price(spec))

    def _price(self, spec: NodeSpec) -> list[Choice]:
        free = _unpriced(spec)
        if free is not None:
            return [Choice(free, Cost(0.0, 0.0, "estimated", "estimated"))]
        choices = []
        for algorithm in self.backend.algorithms(spec):
            work, seconds = algorithm.work(spec), algorithm.lower_bound_s(spec)
            cost = Cost(seconds, self.energy_model(work, seconds), "estimated", "estimated")
            choices.append(Choice(algorithm, cost))
        return choices

    def knows(self, spec: NodeSpec) -> bool:
        """Whether the spec was prepared."""
        return spec in self._options

    def options(self, spec: NodeSpec) -> Options:
        """Algorithms of a prepared spec with their estimate."""
        return self._options[spec]

    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]:
        """The estimate itself."""
        self.prepare([spec])
        options = self._options[spec]
        return (float(options.times.min()), float(options.energies.min())) if len(options) else (0.0, 0.0)
