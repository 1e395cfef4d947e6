"""What a search for the Relay back end needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from joulec.passes import workbench
from joulec.passes.relay.backend import RelayBackEnd
from joulec.passes.relay.costs import LayoutMeasuredCosts, LayoutRooflineCosts
from joulec.passes.relay.tuned import tuning_records
from joulec.passes.search.choices import CostSource
from joulec.passes.search.objective import Objective
from joulec.passes.workbench import Setup

__all__ = ["Setup", "Workbench"]


class Workbench(workbench.Workbench):
    """Opened resources of a search on Relay modules."""

    roofline_costs = LayoutRooflineCosts
    measured_costs = LayoutMeasuredCosts

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """As of the base, with the user's tuning records.

        Raises:
            TuningRecordsError: the log of AutoTVM cannot be read.
        """
        bench = super().open(setup)
        records = tuning_records(setup.tuning_records, bench.target.target)
        bench.backend = replace(bench.backend, records=records)
        return bench

    def costs(self, objective: Objective | None) -> CostSource:
        """As of the base."""
        found = super().costs(objective)
        if isinstance(found, LayoutRooflineCosts):
            found.monotone = objective is not None and objective.monotone
        return found

    @staticmethod
    def back_end(**given: Any) -> RelayBackEnd:
        """TVM 0.19 on this CPU."""
        return RelayBackEnd(**given)
