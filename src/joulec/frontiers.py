"""The frontier between time and energy of each batch size, traced when first asked for and kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from joulec.options import CompileOptions
from joulec.passes.bench import Bench
from joulec.passes.search.frontier import WEIGHTS, FrontierSearch
from joulec.passes.search.objective import weighted
from joulec.passes.search.results import Plan
from joulec.progress import Progress
from joulec.searching import Searched, objective_of, search_options


@dataclass
class Frontiers:
    """Traces frontiers as ``compile`` does: one budget of graphs for all weights together, winning graphs only."""

    options: CompileOptions
    bench: Bench
    progress: Progress
    _traced: dict[int, Sequence[Plan]] = field(default_factory=dict)

    def of(self, one: Searched) -> Sequence[Plan]:
        """The plans of a batch size that no other one beats in time and energy, fastest first.

        Raises:
            CostingError: energies are not known, so that there is no frontier.
        """
        batch = one.source.batch
        if batch not in self._traced:
            self.progress.stage(f"tracing the frontier for batch {batch}")
            self.bench.limit_search(self.options.search_time_s)
            how = search_options(self.options)
            share = replace(how, budget=math.ceil(how.budget / len(WEIGHTS)))
            costs = self.bench.costs(weighted(0.5))
            search = FrontierSearch(self.bench.rules, costs, share, self.bench.tidy, self.progress.search, exact=False)
            self._traced[batch] = search.run(one.source.graph, objective_of(self.options).bounds)
        return self._traced[batch]
