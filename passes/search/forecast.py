"""What to measure first where time is short: an estimate of what each measurement may save.

Nothing but each operator's first algorithm has been measured when this is asked. What is not measured is estimated
(`joulec.passes.search.estimates`). Worth is in units of the objective:

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph, NodeSpec
from joulec.passes.search.choices import Entry
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.estimates import EstimatedCosts
from joulec.passes.search.expansion import Expander
from joulec.passes.search.objective import Objective
from joulec.passes.search.outer import OuterSearch, PricedState
from joulec.passes.search.totals import GraphFigures

HEAT = 4
"""Rivals that are measured together: one more costs a quarter of the fastest known one, which runs along each time."""


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
    estimates = costs.estimated()
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
