"""What a search needs beside a model: back end, rules and costs, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from joulec.passes.graph import Graph, NodeSpec, Step
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.objective import Objective


@dataclass
class ProfilingTotals:
    """What measuring came to over all searches.

    Attributes:
        measured: costs found now.
        reused: costs known before, or found by others meanwhile.
        failed: failures found now.
        failed_before: failures known before, or found by others meanwhile; not tried again.
        unknown: still without an outcome.
        seconds: spent on measuring.
        journal: where measurements went once the database was lost; None where it took them all.
    """

    measured: int = 0
    reused: int = 0
    failed: int = 0
    failed_before: int = 0
    unknown: int = 0
    seconds: float = 0.0
    journal: str | None = None


class Fuses(Protocol):
    """The part of a back end that shapes the graphs of a search."""

    @property
    def name(self) -> str:
        """``relax``, ``relay`` or ``replay``."""

    def fuses(self, spec: NodeSpec, step: Step) -> bool:
        """Whether it can price the spec with one more step at the end of its epilogue."""


class Bench(Protocol):
    """Opened resources of a search; a context manager."""

    @property
    def backend(self) -> Fuses:
        """The back end that the costs are for."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The substitutions that the back end can carry out."""

    @property
    def profiling(self) -> ProfilingTotals:
        """What measuring came to so far."""

    @property
    def why(self) -> str:
        """Where energies come from, for people."""

    def tidy(self, graph: Graph) -> Graph:
        """A rewritten graph in the form that the back end prices."""

    def costs(self, objective: Objective | None) -> CostSource:
        """The cost source of a search; ``objective`` decides which candidates need not be measured."""

    def limit_search(self, seconds: float | None) -> None:
        """Measure nothing more after so many seconds from now; None lifts an earlier limit."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
