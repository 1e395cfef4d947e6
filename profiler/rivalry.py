"""Who can still win among candidates for the same work, as the search says; and what is kept of those who cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from joulec.costdb.cost import Cost, Failure
from joulec.profiler.candidate import Candidate
from joulec.profiler.entrant import Point


class Rivalry(Protocol):
    """Which candidate can still win, by the objective."""

    @property
    def judges(self) -> bool:
        """Whether it can tell at all; else `prefers` is not asked."""

    def prefers(self, rival: Point, candidate: Point) -> bool:
        """Whether a rival that costs at most so much is preferred to a candidate that costs at least so much."""

    def known(self, candidate: Candidate) -> Sequence[Cost]:
        """What is known of the candidate's rivals."""

    def pacemaker(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best of these rivals' rivals that is known to the full: runs with them, so that drift hits it alike."""


def unfinished(outcome: Cost | Failure, judges: bool) -> bool:
    """Whether a candidate was left before it was measured to the full, so that what is kept will not do now.

    It will do where it is known to lose: not where nothing is claimed of its interval, where its energy was not looked
    at, or where it was only bounded and nobody judges by bounds. `joulec.profiler.entrant.Entrant.cost` says how that
    is kept.

    Args:
        outcome: what is kept.
        judges: whether candidates are left on account of bounds now.
    """
    if isinstance(outcome, Failure):
        return False
    if outcome.spread == math.inf or outcome.energy_source is None:
        return True
    return not judges and outcome.energy_j is None
