"""Searching a model's graphs: what ``compile``, ``optimize`` and ``profile`` share."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from joulec.around import priced
from joulec.benches import open_workbench
from joulec.options import CompileOptions
from joulec.passes.bench import Bench
from joulec.passes.graph import Graph
from joulec.passes.kernels.cuda.target import is_cuda
from joulec.passes.search.by_estimates import SearchByEstimates
from joulec.passes.search.choices import CostingError, CostSource
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.estimates import EstimatedCosts
from joulec.passes.search.forecast import Scout, first_measurements, most_valuable
from joulec.passes.search.large import search
from joulec.passes.search.objective import Objective, as_objective
from joulec.passes.search.results import SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, BoundsError, Totals
from joulec.passes.workbench import Workbench
from joulec.progress import Progress
from joulec.quantities import show_energy, show_time
from joulec.report import profile_json
from joulec.sources import Source, read_sources

_SCOUTED = 60
"""How many graphs a search with estimates expands: far enough to see what the first substitutions bring."""
_PLANNING = 0.1
"""The part of a time budget that may go into estimates."""


@dataclass(frozen=True)
class Searched:
    """A source with the outcome of its search, and the costs on which that rests."""

    source: Source
    result: SearchResult
    costs: CostSource


def objective_of(options: CompileOptions) -> Objective:
    """The objective with its bounds."""
    return as_objective(options.objective, Bounds(options.max_time_s, options.max_energy_j, options.max_power_w))


def search_options(options: CompileOptions) -> SearchOptions:
    """How far to search."""
    return SearchOptions(
        options.alpha, options.budget, options.inner, options.distance, options.search_time_s, options.bound_method
    )


def search_all(
    model: Any,
    options: CompileOptions,
    bench: Bench,
    progress: Progress,
    end_s: float = math.inf,
    planning_s: float | None = None,
    branches: bool = True,
) -> list[Searched]:
    """One search per batch size, all sharing one cost source.

    The operators of the models as they are come first: nothing works without them. Each search then finds by estimates
    which graph will be best, and has measured what that needs (`joulec.passes.search.by_estimates`).

    Args:
        end_s: moment on the monotonic clock at which each search ends.
        planning_s: first measure what promises most (`joulec.passes.search.forecast`), and let finding that out take
            so many seconds at most; None measures as the search asks.
        branches: let the graphs hold both branches of an If where the back end runs only the one that is taken.

    Raises:
        ModelError, ImportModuleError, SourceError: see `read_sources`.
        ObjectiveError: the objective cannot be understood.
        CostingError: an operator cannot be priced.
        BoundsError: the bounds cannot be kept.
    """
    objective = objective_of(options)
    sources, costs = _read(model, options, bench, progress, objective, branches)
    if planning_s is not None and isinstance(costs, MeasuredCosts):
        _measure_the_most_valuable(sources, costs, objective, options, bench, progress, planning_s)
    progress.stage("pricing the model's own operators")
    bench.limit_search(None)
    for source in sources:
        costs.prepare({node.spec for node in source.graph.nodes})
    found: list[Searched] = []
    for source in sources:
        progress.stage(f"searching for batch {source.batch}")
        bench.limit_search(options.search_time_s)
        how, left = search_options(options), _without_parts(objective, source)
        until_s = min(end_s, time.monotonic() + (how.time_limit_s or math.inf))
        result = _search(source.graph, costs, left, _until(until_s, how), bench, progress)
        progress.searched(source.batch, result)
        if not result.met_bounds:
            raise BoundsError(_nearest(source.batch, result.best.totals, left))
        found.append(Searched(source, result, costs))
    return found


def _until(end_s: float, how: SearchOptions) -> SearchOptions:
    """The options of a search that ends at a moment on the monotonic clock."""
    return how if end_s == math.inf else replace(how, time_limit_s=max(end_s - time.monotonic(), 0.0))


def _search(
    graph: Graph, costs: CostSource, objective: Objective, how: SearchOptions, bench: Bench, progress: Progress
) -> SearchResult:
    """The best graph of a model whose own operators are known; where costs can be measured, what that needs is."""
    if isinstance(costs, MeasuredCosts):
        return SearchByEstimates(
            bench.rules, costs, objective, how, bench.tidy, progress.search, bench.limit_search
        ).run(graph)
    return search(graph, bench.rules, costs, objective, how, bench.tidy, progress.search)


def _read(
    model: Any, options: CompileOptions, bench: Bench, progress: Progress, objective: Objective, branches: bool
) -> tuple[list[Source], CostSource]:
    progress.stage("reading the model")
    branches = branches and bench.backend.name == "relax"
    integers = branches and not is_cuda(options.target)
    shapes = options.batch_sizes, options.input_shapes
    sources = read_sources(model, bench.tidy, *shapes, options.entry, branches, integers)
    for note in dict.fromkeys(note for source in sources for note in source.notes):
        progress.warn(note)
    sources = [_priced(source, bench) for source in sources]
    costs = bench.costs(objective)
    if isinstance(costs, MeasuredCosts):
        costs.counts = Counter(node.spec for source in sources for node in source.graph.nodes)
    return sources, costs


def _priced(source: Source, bench: Bench) -> Source:
    """With the costs of what runs before and after the graph, where there is such."""
    if source.around is None or not isinstance(bench, Workbench):
        return source
    with bench.turn():
        return replace(source, around=priced(source.around, bench.meter.meter, bench.target.threads))


def _without_parts(objective: Objective, source: Source) -> Objective:
    """The objective with what its bounds leave beside the parts that are not searched.

    Raises:
        BoundsError: they leave nothing.
    """
    if source.around is None:
        return objective
    bounds, parts = objective.bounds, source.around.parts.there
    time_s, energy_j = (sum(getattr(part, name) or 0.0 for part in parts) for name in ("time_s", "energy_j"))
    left_s = None if bounds.max_time_s is None else bounds.max_time_s - time_s
    left_j = None if bounds.max_energy_j is None else bounds.max_energy_j - energy_j
    for left, spent in ((left_s, show_time(time_s)), (left_j, show_energy(energy_j))):
        if left is not None and left <= 0:
            raise BoundsError(f"batch {source.batch}: what runs outside of the compiled function alone takes {spent}")
    return replace(objective, bounds=replace(bounds, max_time_s=left_s, max_energy_j=left_j))


def _measure_the_most_valuable(
    sources: Sequence[Source],
    costs: MeasuredCosts,
    objective: Objective,
    options: CompileOptions,
    bench: Bench,
    progress: Progress,
    planning_s: float,
) -> None:
    """Measure each operator of the models by one algorithm, then whatever promises most by the estimates."""
    progress.stage("pricing the model's own operators")
    costs.measure_in_order(first_measurements(costs))
    progress.stage("estimating what may save most")
    end_s = time.monotonic() + planning_s

    def scout(estimates: EstimatedCosts) -> Scout:
        how = search_options(options)
        left_s = max(end_s - time.monotonic(), 0.0) / len(sources)
        few = replace(how, budget=min(how.budget, _SCOUTED), time_limit_s=left_s)
        return Scout(bench.rules, estimates, objective, few, bench.tidy)

    try:
        plan = most_valuable(costs, [source.graph for source in sources], scout)
    except CostingError:
        return  # the search says which operator has no known cost
    progress.stage("measuring, the most valuable first")
    costs.measure_in_order(plan)


def profile_model(
    model: Any, options: CompileOptions, progress: Progress, time_budget_s: float | None = None
) -> tuple[dict[str, Any], str | None]:
    """Measure what a search of the model needs, the most valuable first, until all is known or the time is spent.

    Under a time budget the order is that of `joulec.passes.search.forecast`: the model's own operators by one algorithm
    each, the costliest first, then what may save most by estimates, then all else that the search asks for. Without
    one it is the search's own order. Done again it goes on where it ended.

    Returns:
        The report, and what became of measurements where the cost database was lost (else None).
    """
    with open_workbench(options, progress) as bench:
        planning_s = None
        if time_budget_s is not None:
            bench.deadline_s = time.monotonic() + time_budget_s
            planning_s = _PLANNING * time_budget_s
        try:
            search_all(model, options, bench, progress, bench.deadline_s, planning_s)
        except CostingError:
            if time.monotonic() < bench.deadline_s:
                raise
        return profile_json(bench.profiling), None if bench.store is None else bench.store.lost


def _nearest(batch: int, totals: Totals, objective: Objective) -> str:
    bounds = objective.bounds
    asked = [
        f"time ≤ {show_time(bounds.max_time_s)}" if bounds.max_time_s else "",
        f"energy ≤ {show_energy(bounds.max_energy_j)}" if bounds.max_energy_j else "",
        f"power ≤ {bounds.max_power_w:.3g} W" if bounds.max_power_w else "",
    ]
    return (
        f"no graph and assignment keeps {', '.join(filter(None, asked))} at batch {batch}; the nearest takes "
        f"{show_time(float(totals.time_s))}, {show_energy(float(totals.energy_j))}, {float(totals.power_w):.3g} W: "
        "relax the bound"
    )
