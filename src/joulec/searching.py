"""Searching a model's graphs: what ``compile``, ``optimize`` and ``profile`` share."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from joulec.benches import open_workbench
from joulec.options import CompileOptions
from joulec.passes.bench import Bench
from joulec.passes.search.choices import CostingError, CostSource
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.large import search
from joulec.passes.search.objective import Objective, as_objective
from joulec.passes.search.results import SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, BoundsError, Totals
from joulec.progress import Progress
from joulec.quantities import show_energy, show_time
from joulec.report import profile_json
from joulec.sources import Source, read_sources


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
    model: Any, options: CompileOptions, bench: Bench, progress: Progress, end_s: float = math.inf
) -> list[Searched]:
    """One search per batch size, all sharing one cost source.

    The operators of the models as they are come first, for all batch sizes in one look-up: nothing works without them.

    Args:
        end_s: moment on the monotonic clock at which each search ends.

    Raises:
        ModelError, ImportModuleError, SourceError: see `read_sources`.
        ObjectiveError: the objective cannot be understood.
        CostingError: an operator cannot be priced.
        BoundsError: the bounds cannot be kept.
    """
    objective = objective_of(options)
    progress.stage("reading the model")
    sources = read_sources(model, bench.backend.fuses, options.batch_sizes, options.input_shapes)
    costs = bench.costs(objective)
    counts = Counter(node.spec for source in sources for node in source.graph.nodes)
    if isinstance(costs, MeasuredCosts):
        costs.counts = counts
    progress.stage("pricing the model's own operators")
    bench.limit_search(None)
    costs.prepare(counts)
    found = []
    for source in sources:
        progress.stage(f"searching for batch {source.batch}")
        bench.limit_search(options.search_time_s)
        how = search_options(options)
        if end_s < math.inf:
            left_s = max(end_s - time.monotonic(), 0.0)
            how = replace(how, time_limit_s=min(left_s, how.time_limit_s or left_s))
        result = search(source.graph, bench.rules, costs, objective, how, bench.tidy, progress.search)
        progress.searched(source.batch, result)
        if not result.met_bounds:
            raise BoundsError(_nearest(source.batch, result.best.totals, objective))
        found.append(Searched(source, result, costs))
    return found


def profile_model(
    model: Any, options: CompileOptions, progress: Progress, time_budget_s: float | None = None
) -> tuple[dict[str, Any], str | None]:
    """Measure what a search of the model needs, the most valuable first, until all is known or the time is spent.

    First the model's own operators, the costliest first and each by one algorithm before any by a second; then what
    substitutions bring, from the best graph on. Done again it goes on where it ended.

    Returns:
        The report, and what became of measurements where the cost database was lost (else None).
    """
    with open_workbench(options, progress) as bench:
        if time_budget_s is not None:
            bench.deadline_s = time.monotonic() + time_budget_s
        try:
            search_all(model, options, bench, progress, bench.deadline_s)
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
