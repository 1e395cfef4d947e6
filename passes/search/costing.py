"""Cost sources: measurements kept in a store and completed by a profiler, and a roofline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeGuard

from joulec.costdb.cost import Cost, CostKey, EnergySource, Failure
from joulec.passes.backend import Algorithm, BackEnd
from joulec.passes.graph import NodeSpec, Opaque
from joulec.passes.search.choices import Choice, Entry, Options
from joulec.passes.search.contest import Contest
from joulec.passes.search.estimates import EstimatedCosts
from joulec.passes.search.foresight import Foresight
from joulec.passes.search.objective import Objective
from joulec.passes.search.resemblance import Resemblance
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.rivalry import Rivalry

EnergyModel = Callable[[Work, float], float]
"""Joules of work done in some seconds; a straight line over the seconds."""


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
        rivalry: Rivalry,
    ) -> None:
        """Measure the candidates in order, those of one spec that follow each other in turns; tell each outcome.

        ``keep_going`` is asked before each whether it is still worth it, ``rivalry`` who can still win.
        """


@dataclass(frozen=True)
class Unpriced:
    """What costs nothing (views) or cannot be measured (effects: they would be had a thousand times over).

    Attributes:
        name: ``view`` or ``effect``.
        reads: layout of the operands, where the back end knows of any; 0 is row-major.
        writes: layout of the results.
    """

    name: str
    reads: int = 0
    writes: int = 0

    def work(self, spec: NodeSpec) -> Work:
        return Work(0.0, 0.0)

    def lower_bound_s(self, spec: NodeSpec) -> float:
        return 0.0


_VIEW, _EFFECT = Unpriced("view"), Unpriced("effect")


def _unpriced(spec: NodeSpec) -> Unpriced | None:
    """Its only algorithm where a spec has no price. An effect stands in every graph alike, so it decides nothing."""
    if spec.op.is_view:
        return _VIEW
    return _EFFECT if isinstance(spec.op, Opaque) and not spec.op.pure else None


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
        hurried: whether the time for measuring is limited.
        asked: how many candidates were given to be measured so far.
        counts: how often a spec occurs in what is searched, where that is known; else once.
        foresight: what costs at other batch sizes tell; candidates that it gives up are not measured.
        resemblance: the same of costs at other numbers of channels.
    """

    backend: BackEnd
    store: Store
    energy_source: EnergySource
    measure: Measure | None = None
    objective: Objective | None = None
    energy_model: EnergyModel | None = None
    on_known: Callable[[Mapping[CostKey, Cost | Failure]], None] = lambda known: None
    hurried: Callable[[], bool] = lambda: False
    counts: Mapping[NodeSpec, int] = field(default_factory=dict)
    asked: int = 0
    _options: dict[NodeSpec, Options] = field(default_factory=dict)
    foresight: Foresight = field(init=False)
    resemblance: Resemblance = field(default_factory=Resemblance)
    _bounds: dict[NodeSpec, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.foresight = Foresight(self)

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
            if self.serves(outcome):
                found[entry.spec].append(Choice(entry.algorithm, outcome))
        for spec, choices in found.items():
            self._options[spec] = Options(choices)

    def estimated(self, *, sparse: bool = True) -> EstimatedCosts:
        """What is known, and estimates for all else; see `EstimatedCosts`."""
        return EstimatedCosts(self, sparse)

    @contextmanager
    def as_known(self) -> Iterator[None]:
        """Within it nothing is measured: what is unknown has no algorithm."""
        measure, self.measure = self.measure, None
        try:
            yield
        finally:
            self.measure = measure

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
        known = self.look_up(entries)
        self.on_known(dict(known))
        if self.measure is not None:
            contest = Contest(self, known, entries)
            for candidates in contest.rounds(contest.ordered(entries) if wanted is None else wanted):
                self.asked += len(candidates)
                self.measure(candidates, contest.may_win, contest.learn, contest)
        return known

    def look_up(self, entries: Sequence[Entry]) -> dict[CostKey, Cost | Failure]:
        """What the store knows of some algorithms, in one query.

        Where energy is an estimate, it follows from the time and the work by today's constants, whatever they were.
        """
        known = self.store.get_many([entry.key for entry in entries]) if entries else {}
        if self.energy_model is not None:
            for entry in entries:
                cost = known.get(entry.key)
                if isinstance(cost, Cost):
                    energy_j = self.energy_model(entry.algorithm.work(entry.spec), cost.time_s)
                    known[entry.key] = replace(cost, energy_j=energy_j)
        return known

    def serves(self, outcome: Cost | Failure | None) -> TypeGuard[Cost]:
        """Whether an outcome is a cost, with its energy where the objective needs that."""
        objective = self.objective
        needs_energy = objective is not None and objective.vectorised and objective.uses_energy
        return isinstance(outcome, Cost) and (outcome.energy_j is not None or not needs_energy)

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


@dataclass
class RooflineCosts:
    """Prices everything by a roofline of the device: nothing is measured, time and energy are estimates.

    Attributes:
        backend: knows algorithms.
        energy_model: joules of (work, seconds).
        unscheduled: how much slower than its roofline the algorithm that always applies, the last of several, is taken
            to be: by default nobody has scheduled it.
    """

    backend: BackEnd
    energy_model: EnergyModel
    unscheduled: float = 8.0
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
        algorithms = self.backend.algorithms(spec)
        for algorithm in algorithms:
            work, seconds = algorithm.work(spec), algorithm.lower_bound_s(spec)
            if len(algorithms) > 1 and algorithm is algorithms[-1]:
                seconds *= self.unscheduled
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
