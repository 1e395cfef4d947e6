"""What a search needs where layouts stand on edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from joulec.passes import workbench
from joulec.passes.layouts.costs import LayoutMeasuredCosts, LayoutRooflineCosts
from joulec.passes.layouts.layout import Relayout
from joulec.passes.search.choices import CostSource
from joulec.passes.search.objective import Objective
from joulec.profiler.candidate import Candidate


class LayoutWorkbench(workbench.Workbench):
    """Opened resources of a search that assigns layouts together with algorithms."""

    roofline_costs = LayoutRooflineCosts
    measured_costs = LayoutMeasuredCosts

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


def _is_conversion(candidate: Candidate) -> bool:
    spec = getattr(candidate.payload, "spec", None)
    return spec is not None and isinstance(spec.op, Relayout)
