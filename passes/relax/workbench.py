"""What a search for the Relax back end needs."""

from __future__ import annotations

from typing import Any

from joulec.passes import workbench
from joulec.passes.relax.backend import RelaxBackEnd
from joulec.passes.workbench import Setup

__all__ = ["Setup", "Workbench"]


class Workbench(workbench.Workbench):
    """Opened resources of a search on Relax modules."""

    compiles_for_gpus = True

    @staticmethod
    def back_end(**given: Any) -> RelaxBackEnd:
        """TVM 0.27 on this CPU, or its GPU."""
        return RelaxBackEnd(**given)
