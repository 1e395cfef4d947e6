"""What a search for the Relay back end needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from joulec.passes.kernels.target import cpu_target
from joulec.passes.layouts.costs import LayoutRooflineCosts
from joulec.passes.layouts.workbench import LayoutWorkbench
from joulec.passes.relay.backend import RelayBackEnd
from joulec.passes.relay.tuned import tuning_records
from joulec.passes.workbench import Setup

__all__ = ["Setup", "Workbench"]


@dataclass
class _ScheduledCosts(LayoutRooflineCosts):
    """Whatever applies, TVM's own strategy has scheduled it."""

    unscheduled: float = 1.0


class Workbench(LayoutWorkbench):
    """Opened resources of a search on Relay modules."""

    roofline_costs = _ScheduledCosts

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

    @staticmethod
    def back_end(**given: Any) -> RelayBackEnd:
        """TVM 0.19 on this CPU."""
        return RelayBackEnd(**given)
