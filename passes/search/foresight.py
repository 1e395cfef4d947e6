"""What an algorithm will most likely cost, by what it cost at another batch size.

How far an algorithm stays above its roofline changes little with the batch, so its time at one batch size is foreseen
from that at another by the ratio of the rooflines. Schedules of one kernel are alike in what the roofline does not
tell (reuse in the caches, work that does not divide evenly), kernels are not: so a schedule is given up for another of
its kernel at a small distance, a kernel for another at a large one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec, Opaque, TensorType
from joulec.passes.search.choices import Entry
from joulec.profiler.entrant import Point

_SCHEDULES = 1.1
"""A schedule this much behind another of its kernel is not tried."""
_KERNELS = 1.5
"""A kernel this much behind another is not tried."""
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes at which somebody may have measured."""

Prefers = Callable[[Point, Point], bool]
"""Whether a rival of the first cost is preferred to a candidate of the second."""


class _Costs(Protocol):
    """What is needed of `joulec.passes.search.costing.MeasuredCosts`."""

    def entries(self, specs: Iterable[NodeSpec]) -> Sequence[Entry]: ...
    def look_up(self, entries: Sequence[Entry]) -> Mapping[CostKey, Cost | Failure]: ...


def at_batch(spec: NodeSpec, batch: int) -> NodeSpec | None:
    """The spec with another leading size of its results and of all inputs that share it.

    Returns:
        None where there is no batch to be told, or an operator whose definition names sizes.
    """
    shape = spec.results[0].shape
    if not shape or isinstance(spec.op, Opaque) or spec.op.is_view:
        return None

    def resized(type: TensorType) -> TensorType:
        return replace(type, shape=(batch, *type.shape[1:])) if type.shape[:1] == shape[:1] else type

    operands = tuple(one if one.constant else replace(one, type=resized(one.type)) for one in spec.operands)
    return replace(spec, operands=operands, results=tuple(map(resized, spec.results)))


@dataclass
class Foresight:
    """Costs at other batch sizes, looked up once.

    Attributes:
        costs: where they are kept; tells the algorithms of a spec too.
    """

    costs: _Costs
    _points: dict[NodeSpec, Mapping[str, Point]] = field(default_factory=dict)

    def prepare(self, specs: Iterable[NodeSpec]) -> None:
        """Look up what is known of some specs at other batch sizes, all at once."""
        new = {spec: self._elsewhere(spec) for spec in specs if spec not in self._points}
        entries = self.costs.entries(dict.fromkeys(other for others in new.values() for other in others))
        known = self.costs.look_up(entries)
        found: dict[NodeSpec, dict[str, tuple[Algorithm, Cost]]] = defaultdict(dict)
        for entry in entries:
            cost = known.get(entry.key)
            if isinstance(cost, Cost):
                found[entry.spec][entry.algorithm.name] = entry.algorithm, cost
        for spec, others in new.items():
            nearest = next((other for other in others if found[other]), None)
            self._points[spec] = {} if nearest is None else self._foreseen(spec, nearest, found[nearest])

    @staticmethod
    def _elsewhere(spec: NodeSpec) -> list[NodeSpec]:
        """The spec at other batch sizes, the nearest first."""
        own = spec.results[0].shape[:1]
        nearest = sorted(_BATCHES, key=lambda batch: abs(math.log(batch / max(*own, 1)))) if own else []
        found = (at_batch(spec, batch) for batch in nearest if (batch,) != own)
        return [one for one in found if one is not None]

    def _foreseen(
        self, spec: NodeSpec, other: NodeSpec, known: Mapping[str, tuple[Algorithm, Cost]]
    ) -> dict[str, Point]:
        """By algorithm of the spec: of its own name there, or the kernel's best where that has no such schedule."""
        above: dict[str, tuple[float, float]] = {}
        for name, (algorithm, cost) in known.items():
            bound_s, kernel = algorithm.lower_bound_s(other), _kernel(name)
            if bound_s <= 0:
                continue
            ratio = cost.time_s / bound_s, cost.power_w or 0.0
            above[name], above[kernel] = ratio, min(above.get(kernel, ratio), ratio)
        points = {}
        for entry in self.costs.entries([spec]):
            name = entry.algorithm.name
            known_as = name if name in above else _kernel(name)
            if known_as in above:
                times, power_w = above[known_as]
                time_s = times * entry.algorithm.lower_bound_s(spec)
                points[name] = Point(time_s, time_s * power_w)
        return points

    def point(self, spec: NodeSpec, algorithm: Algorithm) -> Point | None:
        """Seconds and joules that an algorithm of a prepared spec is foreseen to take; None where nothing tells."""
        return self._points[spec].get(algorithm.name)

    def gives_up(self, spec: NodeSpec, algorithm: Algorithm, prefers: Prefers) -> bool:
        """Whether an algorithm of a prepared spec is foreseen to lose to another by more than foresight errs."""
        points = self._points[spec]
        own = points.get(algorithm.name)
        if own is None:
            return False
        kernel = _kernel(algorithm.name)
        return any(
            prefers(_times(point, _SCHEDULES if _kernel(name) == kernel else _KERNELS), own)
            for name, point in points.items()
        )


def _kernel(name: str) -> str:
    return name.partition("(")[0]


def _times(point: Point, factor: float) -> Point:
    return Point(point.time_s * factor, point.energy_j * factor)
