"""What to measure first where time is short: an estimate of what each measurement may save.

Nothing but each operator's first algorithm has been measured when this is asked. What is not measured is estimated: by
its cost at another batch size where that is known (`foresight`), else by its roofline, times what measured candidates
of the same kind took over theirs. Worth is in units of the objective:

- **another algorithm of one of the model's operators**: what the objective would fall by if that operator took no more
  than the algorithm's roofline, over all its occurrences (so its share of the model times the possible saving), divided
  by how many of its algorithms come before: each further one is less likely to be the best.
- **the operators that substitutions bring**: a search with the estimates goes the way that the real one will most
  likely go. By how much the best graph in which an operator occurs undercuts the original, divided by how many unknown
  operators that graph needs: it is worth nothing before all of them are known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.passes.graph import Graph, NodeSpec
from joulec.passes.search.choices import Choice, Entry, Options
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.expansion import Expander
from joulec.passes.search.objective import Objective
from joulec.passes.search.outer import OuterSearch, PricedState
from joulec.passes.search.totals import GraphFigures

HEAT = 4
"""Rivals that are measured together: one more costs a quarter of the fastest known one, which runs along each time."""
_KINDS: tuple[slice, ...] = (slice(2), slice(1), slice(1, 2), slice(0))
"""From which measurements a ratio is taken, the most alike first: (operator, family), operator, family, all."""


@dataclass
class EstimatedCosts:
    """Measured costs where they are known, else estimates; a cost source that measures nothing.

    Attributes:
        costs: the source that would measure; its store is looked into.
        known: outcomes found so far.
    """

    costs: MeasuredCosts
    known: dict[CostKey, Cost | Failure] = field(default_factory=dict)
    _options: dict[NodeSpec, Options] = field(default_factory=dict)
    _ratios: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    _drifts: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    _power_w: float = 1.0

    def calibrate(self, specs: Iterable[NodeSpec]) -> None:
        """Learn from all known costs of some operators how far above the roofline, and what is foreseen, they are.

        What does not grow with the batch (a call, a thread's start) is foreseen too large at larger ones.
        """
        entries = self.costs.entries(specs)
        self.known |= self.costs.look_up(entries)
        self.costs.foresight.prepare({entry.spec for entry in entries})
        logs: dict[tuple[str, ...], list[float]] = defaultdict(list)
        drifts: dict[tuple[str, ...], list[float]] = defaultdict(list)
        powers = []
        for entry in entries:
            cost, bound_s = self.known.get(entry.key), entry.algorithm.lower_bound_s(entry.spec)
            if not isinstance(cost, Cost) or bound_s <= 0 or cost.time_s <= 0:
                continue
            for part in _KINDS:
                logs[_kind(entry)[part]].append(math.log(cost.time_s / bound_s))
            foreseen = self.costs.foresight.point(entry.spec, entry.algorithm)
            if foreseen is not None and foreseen.time_s > 0:
                for part in _KINDS:
                    drifts[_kind(entry)[part]].append(math.log(cost.time_s / foreseen.time_s))
            powers += [cost.power_w] if cost.power_w is not None else []
        self._ratios, self._drifts = _means(logs), _means(drifts)
        self._power_w = math.fsum(powers) / len(powers) if powers else 1.0

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Look all specs up in one query, and estimate the rest."""
        entries = self.costs.entries(spec for spec in specs if spec not in self._options)
        self.known |= self.costs.look_up([entry for entry in entries if entry.key not in self.known])
        self.costs.foresight.prepare({entry.spec for entry in entries})
        choices: dict[NodeSpec, list[Choice]] = {spec: [] for spec in specs if spec not in self._options}
        for entry in entries:
            outcome = self.known.get(entry.key)
            if not isinstance(outcome, Failure):
                choices[entry.spec].append(Choice(entry.algorithm, outcome or self._estimate(entry)))
        for spec, some in choices.items():
            free = self.costs.free(spec)
            self._options[spec] = free if free is not None else Options(some)

    def _estimate(self, entry: Entry) -> Cost:
        foreseen = self.costs.foresight.point(entry.spec, entry.algorithm)
        if foreseen is not None:
            drift = _of_kind(self._drifts, entry)
            energy_j = foreseen.energy_j or foreseen.time_s * self._power_w
            return Cost(drift * foreseen.time_s, drift * energy_j, "estimated", "estimated")
        time_s = entry.algorithm.lower_bound_s(entry.spec) * _of_kind(self._ratios, entry)
        model = self.costs.energy_model
        energy_j = time_s * self._power_w if model is None else model(entry.algorithm.work(entry.spec), time_s)
        return Cost(time_s, energy_j, "estimated", "estimated")

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


def _kind(entry: Entry) -> tuple[str, ...]:
    return entry.spec.op.name, entry.algorithm.name.partition("(")[0]


def _means(logs: Mapping[tuple[str, ...], Sequence[float]]) -> dict[tuple[str, ...], float]:
    return {kind: math.exp(math.fsum(some) / len(some)) for kind, some in logs.items()}


def _of_kind(ratios: Mapping[tuple[str, ...], float], entry: Entry) -> float:
    """The ratio of what is most alike; 1 where there is none."""
    kind = _kind(entry)
    return next((ratios[kind[part]] for part in _KINDS if kind[part] in ratios), 1.0)


@dataclass
class Scout(OuterSearch):
    """A search that notes what the graphs that it prices would need to be measured for, and what that may bring.

    Attributes:
        worth: by spec, the best of its graphs' savings over the number of unknown specs in each.
    """

    worth: dict[NodeSpec, float] = field(default_factory=dict)
    _unknown: dict[int, frozenset[NodeSpec]] = field(default_factory=dict)
    _origin: float | None = None

    def _children(self, expander: Expander, state: PricedState, best: PricedState) -> list[PricedState]:
        assert isinstance(self.costs, EstimatedCosts)
        if self._origin is None:
            self._origin = state.price.rank[1]
        found = super()._children(expander, state, best)
        for child in found:
            assert child.move is not None
            added = {node.spec for node in child.move.added if not self.costs.measured(node.spec)}
            self._unknown[child.key] = self._unknown.get(state.key, frozenset()) | added
            saving = self._origin - child.price.rank[1]
            for spec in self._unknown[child.key]:
                worth = saving / len(self._unknown[child.key])
                self.worth[spec] = max(worth, self.worth.get(spec, 0.0))
        return found


def first_measurements(costs: MeasuredCosts) -> list[Entry]:
    """Each of the model's operators by its first algorithm, the costliest first: without them nothing can be told."""
    firsts: dict[NodeSpec, Entry] = {}
    for entry in costs.entries(costs.counts):
        firsts.setdefault(entry.spec, entry)
    return sorted(firsts.values(), key=lambda one: -costs.counts[one.spec] * costs.lower_bound(one.spec)[0])


def most_valuable(costs: MeasuredCosts, graphs: Sequence[Graph], how: Callable[[EstimatedCosts], Scout]) -> list[Entry]:
    """What is worth measuring once the first measurements are made, the most valuable first.

    Args:
        costs: the source of the search to come; its ``counts`` are of all graphs.
        graphs: the models.
        how: the search with the estimates, one for each graph.

    Returns:
        Candidates that may save something by the estimates, rivals in heats of `HEAT`; the search itself asks for all
        else that it needs.
    """
    estimates = EstimatedCosts(costs)
    estimates.calibrate(costs.counts)
    worth: dict[Entry, float] = {}
    for graph in graphs:
        scout = how(estimates)
        scout.run(graph)
        for spec, saving in scout.worth.items():
            _add(worth, estimates, dict.fromkeys(costs.entries([spec]), saving))
        _add(worth, estimates, _own_savings(estimates, scout.objective, graph))
    return _in_heats({entry: saving for entry, saving in worth.items() if saving > 0})


def _in_heats(worth: Mapping[Entry, float]) -> list[Entry]:
    """Rivals a few at a time, so that they take turns with each other; the heat of the greatest mean worth first."""
    rivals: dict[NodeSpec, list[Entry]] = defaultdict(list)
    for entry in sorted(worth, key=lambda entry: (-worth[entry], str(entry.key))):
        rivals[entry.spec].append(entry)
    heats = [some[begin : begin + HEAT] for some in rivals.values() for begin in range(0, len(some), HEAT)]
    heats.sort(key=lambda heat: -math.fsum(worth[entry] for entry in heat) / len(heat))
    return [entry for heat in heats for entry in heat]


def _add(worth: dict[Entry, float], estimates: EstimatedCosts, savings: Mapping[Entry, float]) -> None:
    """Take in savings, each divided by the number of algorithms of its spec that come before it."""
    place: dict[NodeSpec, int] = defaultdict(int)
    for entry, saving in savings.items():
        place[entry.spec] += 1
        if entry.key not in estimates.known:
            worth[entry] = max(saving / place[entry.spec], worth.get(entry, 0.0))


def _own_savings(estimates: EstimatedCosts, objective: Objective, graph: Graph) -> dict[Entry, float]:
    """By how much the objective would fall if one operator took no more than an algorithm's roofline."""
    counts = Counter(node.spec for node in graph.nodes)
    estimates.prepare(counts)
    best = {spec: estimates.fastest(spec) for spec in counts}
    origin = GraphFigures.of(graph).totals(*(math.fsum(counts[s] * best[s][axis] for s in counts) for axis in (0, 1)))
    now = float(objective.value(origin, origin))
    savings = {}
    for entry in estimates.costs.entries(counts):
        bound = estimates.costs.roofline(entry.spec, entry.algorithm)
        time_s, energy_j = (
            counts[entry.spec] * max(had - least, 0.0) for had, least in zip(best[entry.spec], bound, strict=True)
        )
        better = replace(origin, time_s=origin.time_s - time_s, energy_j=origin.energy_j - energy_j)
        savings[entry] = now - float(objective.value(better, origin))
    return savings
