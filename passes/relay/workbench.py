"""What a search for the Relay back end needs."""

from __future__ import annotations

from typing import Any

from joulec.passes import workbench
from joulec.passes.relay.backend import RelayBackEnd
from joulec.passes.relay.costs import LayoutMeasuredCosts, LayoutRooflineCosts
from joulec.passes.workbench import Setup

__all__ = ["Setup", "Workbench"]


class Workbench(workbench.Workbench):
    """Opened resources of a search on Relay modules."""

    roofline_costs = LayoutRooflineCosts
    measured_costs = LayoutMeasuredCosts

    @staticmethod
    def back_end(**given: Any) -> RelayBackEnd:
        """TVM 0.19 on this CPU."""
        return RelayBackEnd(**given)
