"""What a search for the Relax back end needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from joulec.passes.canonical import canonicalise, place
from joulec.passes.graph import Graph
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.layouts.workbench import LayoutWorkbench
from joulec.passes.relax.agreement import Agreements
from joulec.passes.relax.backend import RelaxBackEnd
from joulec.passes.rules import Rule
from joulec.passes.rules.pooled import PoolInConvolution
from joulec.passes.workbench import Setup

__all__ = ["Setup", "Workbench"]


class Workbench(LayoutWorkbench):
    """Opened resources of a search on Relax modules."""

    compiles_for_gpus = True

    @classmethod
    def open(cls, setup: Setup, warn: Callable[[str], None] = lambda message: None) -> Self:
        """See `joulec.passes.workbench.Workbench.open`."""
        bench = super().open(setup, warn)
        if bench.store is not None:
            compiler = f"{bench.backend.compiler} {bench.target.target}"
            known = Agreements(bench.store, bench.device.fingerprint, compiler, bench.target.target)
            bench.backend = replace(bench.backend, agreements=known)
        return bench

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All substitutions, and those for which there are kernels."""
        if not isinstance(self.target, CpuTarget):
            return super().rules
        return (*super().rules, PoolInConvolution(self.backend.has_kernel))

    def tidy(self, graph: Graph) -> Graph:
        """Canonical, and with each concat saying what is written in place."""
        return place(canonicalise(graph, self.backend.fuses), self.backend.takes_parts)

    @staticmethod
    def back_end(**given: Any) -> RelaxBackEnd:
        """TVM 0.27 on this CPU, or its GPU."""
        return RelaxBackEnd(**given)
