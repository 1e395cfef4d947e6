"""What a compilation found, as data: the JSON of ``compile``, ``optimize`` and ``profile``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from joulec.around import Around, outside_budget
from joulec.passes.bench import ProfilingTotals
from joulec.passes.graph import Graph, Node
from joulec.passes.search.choices import Choice
from joulec.passes.search.results import Plan, SearchResult
from joulec.passes.verification import Verified
from joulec.profiler.candidate import NO_WORK, Work
from joulec.runtime.manifest import Assigned, Budget, part_assigned

_ROUNDING = 1e-9


def plan_budget(plan: Plan) -> Budget:
    """What a plan is predicted to cost, with the sources of its figures (one search never mixes sources)."""
    costs = [choice.cost for choice in plan.choices if choice.cost.time_s > 0]
    if not costs:
        return Budget(0.0, "estimated")
    time_s = float(plan.totals.time_s)
    if any(cost.energy_j is None for cost in costs):
        return Budget(time_s, costs[0].time_source)
    energy_j = float(plan.totals.energy_j)
    return Budget(time_s, costs[0].time_source, energy_j, costs[0].energy_source, energy_j / time_s)


def plan_assignment(plan: Plan) -> tuple[Assigned, ...]:
    """The plan node by node."""
    return tuple(_assigned(node, choice) for node, choice in plan.assignment.items())


def _assigned(node: Node, choice: Choice) -> Assigned:
    work = choice.algorithm.work(node.spec)
    return Assigned(
        node.name or node.op.name,
        node.op.name,
        choice.algorithm.name,
        choice.cost.time_s,
        choice.cost.energy_j,
        work.flops,
        work.dram_bytes,
    )


def plan_work(plan: Plan) -> Work:
    """What one call of the plan does, as its algorithms state it."""
    return sum((choice.algorithm.work(node.spec) for node, choice in plan.assignment.items()), NO_WORK)


def describe_graph(graph: Graph) -> list[dict[str, Any]]:
    """A graph as JSON: nodes with operator, attributes, epilogue, and the names of what they read and write."""
    names = {value: value.name or f"t{index}" for index, value in enumerate(graph.inputs)}
    described = []
    for index, node in enumerate(graph.nodes):
        for position, value in enumerate(node.outputs):
            names[value] = f"n{index}.{position}"
        described.append(
            {
                "node": node.name or node.op.name,
                "operator": node.op.name,
                "attributes": {key: _plain(value) for key, value in node.op.attributes.items()},
                "epilogue": [str(step) for step in node.epilogue],
                "inputs": [names[value] for value in node.inputs],
                "outputs": [names[value] for value in node.outputs],
                "types": [str(value.type) for value in node.outputs],
            }
        )
    return described


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if not isinstance(value, bytes) else f"{len(value)} bytes"


def search_json(result: SearchResult) -> dict[str, Any]:
    """How a search went."""
    statistics = result.statistics
    return {
        "graphs_expanded": statistics.expanded,
        "graphs_generated": statistics.generated,
        "duplicates": statistics.duplicates,
        "inadmissible": statistics.inadmissible,
        "seconds": statistics.seconds,
        "optimal": result.best.optimal,
        "gap": 0.0 if result.best.optimal else result.best.gap,
        "cut": statistics.cut,
        "substitutions": [{"rule": rule, "count": count} for rule, count in result.substitutions],
    }


def budget_json(budget: Budget | None) -> dict[str, Any]:
    """A budget; all null where nothing is known."""
    return asdict(budget or Budget())


def entry_json(
    result: SearchResult,
    measured: Budget | None,
    errors: Sequence[float | None] | None = None,
    around: Around | None = None,
) -> dict[str, Any]:
    """One entry of the report.

    Args:
        errors: those of the operators, in order.
        around: what runs before and after the graph.
    """
    return {
        "origin": budget_json(outside_budget(around, plan_budget(result.origin))),
        "predicted": budget_json(outside_budget(around, plan_budget(result.best))),
        "measured": budget_json(measured),
        "search": search_json(result),
        "assignment": _assignment_json(result.best, errors, around),
        "conversions": conversions_json(result.best),
    }


def _assignment_json(plan: Plan, errors: Sequence[float | None] | None, around: Around | None) -> list[dict[str, Any]]:
    assignment = plan_assignment(plan)
    if errors is not None:
        assignment = tuple(replace(one, relative_error=e) for one, e in zip(assignment, errors, strict=True))
    head, tail = (None, None) if around is None else (around.parts.head, around.parts.tail)
    before, after = ([] if part is None else [part_assigned(part)] for part in (head, tail))
    return [asdict(assigned) for assigned in (*before, *assignment, *after)]


def conversions_json(plan: Plan) -> dict[str, float | None]:
    """Seconds and joules of conversions between layouts: what a plan costs beyond its operators."""
    costs = [choice.cost for choice in plan.choices]
    time_s = _beyond(float(plan.totals.time_s), [cost.time_s for cost in costs])
    joules = [cost.energy_j for cost in costs if cost.energy_j is not None]
    known = len(joules) == len(costs)
    return {"time_s": time_s, "energy_j": _beyond(float(plan.totals.energy_j), joules) if known else None}


def _beyond(total: float, parts: Sequence[float]) -> float:
    """What a total is above the sum of its parts; 0 where it is but rounding."""
    beyond = total - math.fsum(parts)
    return beyond if beyond > _ROUNDING * total else 0.0


def variant_json(
    name: str | None,
    plan: Plan,
    measured: Budget | None,
    errors: Sequence[float | None] | None,
    around: Around | None = None,
) -> dict[str, Any]:
    """One variant of a batch size; ``errors`` and ``around`` as of `entry_json`."""
    counts = Counter(rule for rule, _ in plan.applied)
    return {
        "variant": name,
        "predicted": budget_json(outside_budget(around, plan_budget(plan))),
        "measured": budget_json(measured),
        "substitutions": [{"rule": rule, "count": count} for rule, count in sorted(counts.items())],
        "assignment": _assignment_json(plan, errors, around),
        "conversions": conversions_json(plan),
    }


def profiling_json(profiling: ProfilingTotals) -> dict[str, Any]:
    """What measuring came to, as ``compile`` and ``optimize`` report it.

    ``journal``, only where the cost database was lost, is where measurements went from then on.
    """
    lost = {} if profiling.journal is None else {"journal": profiling.journal}
    return {
        "measured": profiling.measured,
        "reused": profiling.reused,
        "failed": profiling.failed,
        "seconds": profiling.seconds,
        **lost,
    }


def profile_json(profiling: ProfilingTotals) -> dict[str, Any]:
    """What measuring came to, as ``profile`` reports it, with what failed before and what is still unknown."""
    rest = {"failed_before": profiling.failed_before, "unknown": profiling.unknown}
    return {"profiling": profiling_json(profiling) | rest}


def verified_json(verified: Verified | None) -> dict[str, Any] | None:
    """How the comparison with the original went; null where nothing was compiled."""
    return None if verified is None else asdict(verified)
