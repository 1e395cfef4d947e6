"""What the inner search chooses from, and what it returns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from joulec.costdb.cost import Cost, CostKey
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec
from joulec.passes.search.hull import Hull


class CostingError(RuntimeError):
    """A graph that cannot be priced: some operator has no algorithm with a known cost."""


@dataclass(frozen=True)
class Choice:
    """One algorithm for one spec with its cost."""

    algorithm: Algorithm
    cost: Cost

    @property
    def time_s(self) -> float:
        """Seconds per execution."""
        return self.cost.time_s

    @property
    def energy_j(self) -> float:
        """Joules per execution; not a number where they are unknown, so that no sum hides it."""
        return float("nan") if self.cost.energy_j is None else self.cost.energy_j


@dataclass(frozen=True)
class Entry:
    """One algorithm of one spec, and where its cost is kept."""

    key: CostKey
    spec: NodeSpec
    algorithm: Algorithm


class Options:
    """All choices of one spec, as arrays too; nodes of equal spec share one, which is known by its identity."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = tuple(choices)
        self.times = np.array([choice.time_s for choice in choices])
        self.energies = np.array([choice.energy_j for choice in choices])
        self._cheapest: dict[tuple[float, float], tuple[int, tuple[float, float]]] = {}

    def __len__(self) -> int:
        return len(self.choices)

    def cheapest(self, time_weight: float, energy_weight: float) -> int:
        """Index of the least weighted sum of seconds and joules; a weight of 0 leaves its term out."""
        return self._find(time_weight, energy_weight)[0]

    def cheapest_point(self, time_weight: float, energy_weight: float) -> tuple[float, float]:
        """(seconds, joules) of the least weighted sum."""
        return self._find(time_weight, energy_weight)[1]

    def _find(self, time_weight: float, energy_weight: float) -> tuple[int, tuple[float, float]]:
        weights = (time_weight, energy_weight)
        if weights not in self._cheapest:
            terms = [w * part for w, part in zip(weights, (self.times, self.energies), strict=True) if w != 0]
            index = int(np.argmin(sum(terms))) if terms else 0
            self._cheapest[weights] = index, (float(self.times[index]), float(self.energies[index]))
        return self._cheapest[weights]

    @cached_property
    def hull(self) -> Hull:
        """The whole lower hull of the choices."""
        return Hull.of(self.times, self.energies)


class CostSource(Protocol):
    """Where costs come from: measurements kept in a database, replayed rows, or a roofline."""

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Make sure that the costs of all specs are at hand, measuring what is unknown."""

    def options(self, spec: NodeSpec) -> Options:
        """All algorithms of a spec with known cost; empty where the spec cannot be computed.

        The spec was prepared before.
        """

    def knows(self, spec: NodeSpec) -> bool:
        """Whether the spec was prepared, so that asking for it measures nothing."""

    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]:
        """Seconds and joules below which no algorithm of the spec can fall, known without measuring."""
