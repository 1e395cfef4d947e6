"""Costs of what was not measured, estimated by what was.

What an algorithm of an operator is taken to cost, the most telling first:

1. its cost at another batch size (`joulec.passes.search.foresight`), times what those of the model were off by;
2. its cost for an operator of the model that is alike but for channels (`joulec.passes.search.resemblance`);
3. its roofline, times what measured candidates of the same kind took over theirs.

Estimates rest on the model's own operators, not on what a search measured on its way: with the same costs known, they
are the same whatever the order in which they became known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec
from joulec.passes.search.choices import Choice, Entry, Options
from joulec.passes.search.foresight import Foresight
from joulec.passes.search.resemblance import Resemblance
from joulec.profiler.candidate import Work
from joulec.profiler.entrant import Point

_KINDS: tuple[slice, ...] = (slice(2), slice(1), slice(1, 2), slice(0))
"""From which measurements a ratio is taken, the most alike first: (operator, family), operator, family, all."""


class Known(Protocol):
    """What is needed of `joulec.passes.search.costing.MeasuredCosts`."""

    @property
    def foresight(self) -> Foresight: ...
    @property
    def energy_model(self) -> Callable[[Work, float], float] | None: ...
    def entries(self, specs: Iterable[NodeSpec]) -> list[Entry]: ...
    def free(self, spec: NodeSpec) -> Options | None: ...
    def look_up(self, entries: Sequence[Entry]) -> dict[CostKey, Cost | Failure]: ...
    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]: ...
    def roofline(self, spec: NodeSpec, algorithm: Algorithm) -> tuple[float, float]: ...
    def serves(self, outcome: Cost | Failure | None) -> TypeGuard[Cost]: ...


class _Ratios:
    """How many times what was expected measured candidates took, by kind; of each operator the fastest counts.

    Sums are compared, so that those tell most that take the most time.
    """

    def __init__(self) -> None:
        self._best: dict[tuple[str, ...], dict[NodeSpec, tuple[float, float]]] = defaultdict(dict)

    def learn(self, entry: Entry, time_s: float, expected_s: float) -> None:
        for part in _KINDS:
            best = self._best[_kind(entry)[part]]
            best[entry.spec] = min((time_s, expected_s), best.get(entry.spec, (time_s, expected_s)))

    def of(self, entry: Entry) -> float:
        """The ratio of what is most alike; 1 where there is none."""
        kind = _kind(entry)
        best = next((self._best[kind[part]] for part in _KINDS if kind[part] in self._best), {})
        return math.fsum(one[0] for one in best.values()) / math.fsum(one[1] for one in best.values()) if best else 1.0


def _kind(entry: Entry) -> tuple[str, ...]:
    return entry.spec.op.name, entry.algorithm.name.partition("(")[0]


_NOTHING = Point(0.0, 0.0)


@dataclass
class EstimatedCosts:
    """Measured costs where they are known, else estimates; a cost source that measures nothing.

    Attributes:
        costs: the source that would measure; its store is looked into.
        sparse: whether an operator of which some algorithm was measured may have others that are worth it; else those
            were left as hopeless, and have no cost.
        stake: what is added to the cost of an operator that would have to be measured: so it has to promise as much.
        known: outcomes found so far.
    """

    costs: Known
    sparse: bool = True
    stake: Point = _NOTHING
    known: dict[CostKey, Cost | Failure] = field(default_factory=dict)
    _options: dict[NodeSpec, Options] = field(default_factory=dict)
    _above: _Ratios = field(default_factory=_Ratios)
    _drifts: _Ratios = field(default_factory=_Ratios)
    _power_w: float = 1.0
    _kin: Resemblance = field(default_factory=Resemblance)
    _guessed: set[NodeSpec] = field(default_factory=set)

    def calibrate(self, specs: Iterable[NodeSpec]) -> None:
        """Learn from all known costs of some operators how far above the roofline, and what is foreseen, they are.

        What does not grow with the batch (a call, a thread's start) is foreseen too large at larger ones.
        """
        entries = self.costs.entries(sorted(specs, key=str))
        self.known |= self.costs.look_up(entries)
        self.costs.foresight.prepare({entry.spec for entry in entries})
        above, drifts, powers = _Ratios(), _Ratios(), list[float]()
        for entry in entries:
            cost, bound_s = self.known.get(entry.key), entry.algorithm.lower_bound_s(entry.spec)
            if not isinstance(cost, Cost) or bound_s <= 0 or cost.time_s <= 0:
                continue
            self._kin.learn(entry.spec, entry.algorithm, cost)
            above.learn(entry, cost.time_s, bound_s)
            foreseen = self.costs.foresight.point(entry.spec, entry.algorithm)
            if foreseen is not None and foreseen.time_s > 0:
                drifts.learn(entry, cost.time_s, foreseen.time_s)
            powers += [cost.power_w] if cost.power_w is not None else []
        self._above, self._drifts = above, drifts
        self._power_w = math.fsum(powers) / len(powers) if powers else 1.0

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Look all specs up in one query, and estimate the rest."""
        entries = self.costs.entries(spec for spec in specs if spec not in self._options)
        self.known |= self.costs.look_up([entry for entry in entries if entry.key not in self.known])
        self.costs.foresight.prepare({entry.spec for entry in entries})
        rivals: dict[NodeSpec, list[Entry]] = {spec: [] for spec in specs if spec not in self._options}
        for entry in entries:
            rivals[entry.spec].append(entry)
        for spec, some in rivals.items():
            free = self.costs.free(spec)
            self._options[spec] = free if free is not None else Options(self._choices(spec, some))

    def _choices(self, spec: NodeSpec, entries: Sequence[Entry]) -> list[Choice]:
        """Algorithms of one spec with what they cost, failures left out."""
        outcomes = [(entry, self.known.get(entry.key)) for entry in entries]
        measured = [Choice(entry.algorithm, cost) for entry, cost in outcomes if self.costs.serves(cost)]
        if measured and not self.sparse:
            return measured
        unknown = [entry for entry, outcome in outcomes if outcome is None]
        if unknown:
            self._guessed.add(spec)
        kin = self._kin.foreseen(spec, [entry.algorithm for entry in entries])
        if kin and not self.sparse:  # what no such operator was measured by was left as hopeless there
            known_by = {*kin, *self.costs.foresight.names(spec)}
            unknown = [entry for entry in unknown if entry.algorithm.name in known_by]
        return measured + [Choice(entry.algorithm, self._estimate(entry, kin)) for entry in unknown]

    def _estimate(self, entry: Entry, kin: Mapping[str, Point]) -> Cost:
        foreseen = self.costs.foresight.point(entry.spec, entry.algorithm)
        if foreseen is not None:
            drift = self._drifts.of(entry)
            return self._cost(entry, drift * foreseen.time_s, drift * foreseen.energy_j)
        near = kin.get(entry.algorithm.name)
        if near is not None:
            return self._cost(entry, near.time_s, near.energy_j)
        return self._cost(entry, entry.algorithm.lower_bound_s(entry.spec) * self._above.of(entry))

    def _cost(self, entry: Entry, time_s: float, energy_j: float = 0.0) -> Cost:
        """An estimate; where nothing tells joules, they follow from the time."""
        model = self.costs.energy_model
        if not energy_j:
            energy_j = time_s * self._power_w if model is None else model(entry.algorithm.work(entry.spec), time_s)
        stake = self.staked(entry.spec)
        return Cost(time_s + stake.time_s, energy_j + stake.energy_j, "estimated", "estimated")

    def staked(self, spec: NodeSpec) -> Point:
        """What of an unknown spec's cost is at stake."""
        return self.stake

    def guesses(self, specs: Iterable[NodeSpec]) -> bool:
        """Whether the cost of any prepared spec rests on an estimate."""
        return not self._guessed.isdisjoint(specs)

    def knows(self, spec: NodeSpec) -> bool:
        """Whether the spec was prepared."""
        return spec in self._options

    def options(self, spec: NodeSpec) -> Options:
        """Algorithms of a prepared spec, failures left out."""
        return self._options[spec]

    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]:
        """See `CostSource.lower_bound`."""
        return self.costs.lower_bound(spec)

    def fastest(self, spec: NodeSpec) -> tuple[float, float]:
        """Seconds and joules of a prepared spec's fastest measured algorithm; of the estimates where there is none."""
        choices = self._options[spec].choices
        known = [choice for choice in choices if choice.cost.time_source != "estimated"]
        return min((choice.time_s, choice.energy_j) for choice in known or choices)

    def measured(self, spec: NodeSpec) -> bool:
        """Whether nothing has to be measured to know what the spec costs by some algorithm."""
        return self.costs.free(spec) is not None or any(
            isinstance(self.known.get(entry.key), Cost) for entry in self.costs.entries([spec])
        )
