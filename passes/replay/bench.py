"""What a search on replayed rows needs: no compiler, no meter and no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from joulec.passes.bench import ProfilingTotals
from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Graph
from joulec.passes.replay.backend import ReplayBackEnd, ReplayCosts
from joulec.passes.replay.rows import read_rows
from joulec.passes.rules import RULES, Rule
from joulec.passes.rules.placement import PlaceConcat, displace
from joulec.passes.search.objective import Objective

SCHEME = "mlsys20:"
"""How the name of a file of rows begins where a cost database could be named."""


@dataclass(frozen=True)
class ReplayBench:
    """A file of rows, opened; see `joulec.passes.bench.Bench`.

    Attributes:
        path: the file.
        backend: prices nodes by its rows.
        profiling: nothing is ever measured.
    """

    path: Path
    backend: ReplayBackEnd
    profiling: ProfilingTotals = field(default_factory=ProfilingTotals)

    @staticmethod
    def open(path: Path, excluded: Sequence[str] = ()) -> ReplayBench:
        """Read a file of rows.

        Args:
            excluded: names of algorithms that must not be used.

        Raises:
            ReplayError: the file cannot be read, or a line is no row.
        """
        return ReplayBench(path, ReplayBackEnd(read_rows(path), frozenset(excluded)))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All substitutions; the measured engine can write into slices."""
        return (*RULES, PlaceConcat(self.backend.writes_slices))

    @property
    def why(self) -> str:
        """Where energies come from, for people."""
        return f"replayed rows of {self.path}"

    def tidy(self, graph: Graph) -> Graph:
        """Canonical, and with concats copied where their operands can no longer be written in place."""
        return displace(canonicalise(graph, self.backend.fuses), self.backend.writes_slices)

    def costs(self, objective: Objective | None) -> ReplayCosts:
        """The rows as a cost source; the objective rules nothing out, as nothing is measured."""
        return ReplayCosts(self.backend)

    def limit_search(self, seconds: float | None) -> None:
        """Nothing is measured."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""
