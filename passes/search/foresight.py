"""What an algorithm will most likely cost, by what it cost at another batch size.

How far an algorithm stays above its roofline changes little with the batch, so its time at one batch size is foreseen
from that at another by the ratio of the rooflines (`joulec.passes.search.ratios`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec, Opaque, TensorType
from joulec.passes.search.choices import Entry
from joulec.passes.search.ratios import Prefers, above_roofline, foreseen, loses
from joulec.passes.search.resemblance import Resemblance
from joulec.profiler.entrant import Point

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes at which somebody may have measured."""


class _Costs(Protocol):
    """What is needed of `joulec.passes.search.costing.MeasuredCosts`."""

    resemblance: Resemblance

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
                self.costs.resemblance.learn(entry.spec, entry.algorithm, cost)
        for spec, others in new.items():
            nearest = next((other for other in others if found[other]), None)
            if nearest is None:
                self._points[spec] = {}
                continue
            bounds = {one.algorithm.name: one.algorithm.lower_bound_s(spec) for one in self.costs.entries([spec])}
            self._points[spec] = foreseen(bounds, above_roofline(nearest, found[nearest]))

    @staticmethod
    def _elsewhere(spec: NodeSpec) -> list[NodeSpec]:
        """The spec at other batch sizes, the nearest first."""
        own = spec.results[0].shape[:1]
        nearest = sorted(_BATCHES, key=lambda batch: abs(math.log(batch / max(*own, 1)))) if own else []
        found = (at_batch(spec, batch) for batch in nearest if (batch,) != own)
        return [one for one in found if one is not None]

    def point(self, spec: NodeSpec, algorithm: Algorithm) -> Point | None:
        """Seconds and joules that an algorithm of a prepared spec is foreseen to take; None where nothing tells."""
        return self._points[spec].get(algorithm.name)

    def names(self, spec: NodeSpec) -> Collection[str]:
        """The algorithms of a prepared spec of which something is foreseen."""
        return self._points[spec].keys()

    def gives_up(self, spec: NodeSpec, algorithm: Algorithm, prefers: Prefers) -> bool:
        """Whether an algorithm of a prepared spec is foreseen to lose to another by more than foresight errs."""
        return loses(self._points[spec], algorithm.name, prefers)
