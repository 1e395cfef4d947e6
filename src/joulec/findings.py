"""What a compilation found beyond its JSON report: plans, what each substitution brought, and the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulec.explain import explain
from joulec.frontiers import Frontiers
from joulec.passes.bench import Bench
from joulec.passes.rules import equation
from joulec.passes.search.choices import CostingError
from joulec.passes.search.results import Plan
from joulec.searching import Searched, objective_of, search_options


@dataclass(frozen=True)
class Finding:
    """One batch size.

    Attributes:
        batch: the batch size.
        origin: the canonical graph under its fastest algorithms.
        best: the plan that is best under the objective.
        steps: from the original to the best graph, as `joulec.explain.explain` tells them.
        equations: what each rule on the way says, by its name.
        frontier: the plans that no other one beats in time and energy, fastest first.
        no_frontier: why there is none; empty where there is one.
    """

    batch: int
    origin: Plan
    best: Plan
    steps: Sequence[Mapping[str, Any]]
    equations: Mapping[str, str]
    frontier: Sequence[Plan] = ()
    no_frontier: str = ""


def find(one: Searched, bench: Bench, frontiers: Frontiers) -> Finding:
    """Gather what is to be told of a batch size, while the costs are at hand."""
    options = frontiers.options
    told = explain(one, bench, objective_of(options), search_options(options))
    applied = {name for name, _ in one.result.best.applied}
    frontier: Sequence[Plan] = ()
    reason = ""
    try:
        frontier = frontiers.of(one)
    except CostingError as error:
        reason = str(error)
    return Finding(
        one.source.batch,
        one.result.origin,
        one.result.best,
        told["steps"],
        {rule.name: equation(rule) for rule in bench.rules if rule.name in applied},
        frontier,
        reason,
    )
