"""What a search for the Relay back end needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from joulec.passes import workbench
from joulec.passes.kernels.target import cpu_target
from joulec.passes.relay.backend import RelayBackEnd
from joulec.passes.relay.costs import LayoutMeasuredCosts, LayoutRooflineCosts
from joulec.passes.relay.relayout import Relayout
from joulec.passes.relay.tuned import tuning_records
from joulec.passes.relay.workload import RelayPayload
from joulec.passes.search.choices import CostSource
from joulec.passes.search.objective import Objective
from joulec.passes.workbench import Setup
from joulec.profiler.candidate import Candidate

__all__ = ["Setup", "Workbench"]


class Workbench(workbench.Workbench):
    """Opened resources of a search on Relay modules."""

    roofline_costs = LayoutRooflineCosts
    measured_costs = LayoutMeasuredCosts

    @classmethod
    def open(cls, setup: Setup, warn: Callable[[str], None] = lambda message: None) -> Self:
        """As of the base, with the user's tuning records.

        Raises:
            TuningRecordsError: the log of AutoTVM cannot be read.
        """
        records = tuning_records(setup.tuning_records, cpu_target(setup.target, setup.threads or 1).target)
        bench = super().open(setup, warn)
        bench.backend = replace(bench.backend, records=records)
        return bench

    def costs(self, objective: Objective | None) -> CostSource:
        """As of the base."""
        found = super().costs(objective)
        if isinstance(found, LayoutRooflineCosts):
            found.monotone = objective is not None and objective.monotone
        return found

    def measure(self, candidates: Sequence[Candidate], *rest: Any) -> None:
        """As of the base; conversions even when a search's time is over, for without them no assignment has a cost."""
        end = self._search_end_s
        if all(_is_conversion(candidate) for candidate in candidates):
            self._search_end_s = math.inf
        try:
            super().measure(candidates, *rest)
        finally:
            self._search_end_s = end

    @staticmethod
    def back_end(**given: Any) -> RelayBackEnd:
        """TVM 0.19 on this CPU."""
        return RelayBackEnd(**given)


def _is_conversion(candidate: Candidate) -> bool:
    return isinstance(candidate.payload, RelayPayload) and isinstance(candidate.payload.spec.op, Relayout)
