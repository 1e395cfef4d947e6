"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Protocol

from joulec.costdb.cost import Measurement
from joulec.passes.search.results import SearchResult, SearchStatistics
from joulec.profiler.candidate import Candidate


class Progress(Protocol):
    """Told of each stage; the command line shows it, the Python API is silent."""

    def stage(self, what: str) -> None:
        """A new stage begins."""

    def batch(self, count: int) -> None:
        """So many candidates are about to be measured, one after another."""

    def candidate(self, candidate: Candidate) -> None:
        """A candidate is about to be measured."""

    def result(self, measurement: Measurement) -> None:
        """An outcome was stored."""

    def search(self, statistics: SearchStatistics, value: float) -> None:
        """A graph was expanded; ``value`` is the best objective so far."""

    def searched(self, batch: int, result: SearchResult) -> None:
        """A search ended."""

    def warn(self, message: str) -> None:
        """Something that the user should know."""


class Silent:
    """Says nothing but warnings, and these through `warnings`."""

    def stage(self, what: str) -> None:
        """Ignored."""

    def batch(self, count: int) -> None:
        """Ignored."""

    def candidate(self, candidate: Candidate) -> None:
        """Ignored."""

    def result(self, measurement: Measurement) -> None:
        """Ignored."""

    def search(self, statistics: SearchStatistics, value: float) -> None:
        """Ignored."""

    def searched(self, batch: int, result: SearchResult) -> None:
        """Ignored."""

    def warn(self, message: str) -> None:
        """Raise a Python warning."""
        import warnings

        warnings.warn(message, stacklevel=3)
