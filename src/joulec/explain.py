"""Why a search chose what it chose: what each substitution brought, and why one does not apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from joulec.options import OptionError
from joulec.passes.bench import Bench
from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Match, Rule, equation, find
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import Objective
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import GraphFigures, Totals
from joulec.searching import Searched


def explain(
    one: Searched, bench: Bench, objective: Objective, options: SearchOptions, rule: str | None = None
) -> dict[str, Any]:
    """Explain the outcome of a search.

    Args:
        rule: the rule whose near-matches are wanted; None explains the way to the best graph.

    Returns:
        ``{"steps": [...]}``: first the best algorithms on the original graph, then each substitution, with ``value``
        (of the objective), ``time_s``, ``energy_j`` after it and how much each fell (``saved_…``); or ``{"rule",
        "equation", "original": [...], "best": [...]}`` with ``nodes``, ``applies`` and ``reason`` for each place.

    Raises:
        OptionError: there is no such rule.
    """
    if rule is not None:
        return _places(one, bench, rule)
    origin = one.result.origin.totals
    inner = InnerSearch(objective, origin, options.inner, options.distance, options.bound_method)
    steps = []
    before, value = origin, float(objective.value(origin, origin))
    for name, graph in (("algorithms", one.source.graph), *one.result.best.applied):
        one.costs.prepare({node.spec for node in graph.nodes})
        choices = [one.costs.options(node.spec) for node in graph.nodes]
        edges = edge_tables(graph, choices, one.costs)
        solved = inner.solve(choices, GraphFigures.of(graph), edges)
        steps.append(_step(name, value, solved.value, before, solved.totals))
        before, value = solved.totals, solved.value
    return {"objective": objective.name, "steps": steps}


def _step(name: str, old: float, new: float, before: Totals, after: Totals) -> dict[str, Any]:
    return {
        "rule": name,
        "value": new,
        "time_s": float(after.time_s),
        "energy_j": float(after.energy_j),
        "saved_value": old - new,
        "saved_time_s": float(before.time_s - after.time_s),
        "saved_energy_j": float(before.energy_j - after.energy_j),
    }


def _places(one: Searched, bench: Bench, name: str) -> dict[str, Any]:
    """Where the rule applies and nearly applies, in the original and in the best graph."""
    chosen = rules_named(bench, name)

    def places(graph: Graph) -> Iterator[dict[str, Any]]:
        for _, found in find(graph, chosen):
            applies = isinstance(found, Match)
            yield {
                "nodes": [_named(node) for node in found.nodes],
                "applies": applies,
                "reason": None if isinstance(found, Match) else found.reason,
            }

    return {
        "rule": name,
        "equation": equation(chosen[0]),
        "original": list(places(one.source.graph)),
        "best": list(places(one.result.best.graph)),
    }


def rules_named(bench: Bench, name: str) -> tuple[Rule, ...]:
    """The rules of a name.

    Raises:
        OptionError: there is none.
    """
    chosen = tuple(rule for rule in bench.rules if rule.name == name)
    if not chosen:
        known = ", ".join(dict.fromkeys(rule.name for rule in bench.rules))
        raise OptionError(f"--explain {name}: there is no such rule; there are {known}")
    return chosen


def _named(node: Node) -> str:
    return node.name or node.op.name
