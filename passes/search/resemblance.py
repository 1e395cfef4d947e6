"""What an algorithm will most likely cost, by what it cost for an operator of nearly as many channels.

A network has the same operator at many numbers of channels (DenseNet another one in each layer), and substitutions fuse
one thing or another into its store. What wins for one of them wins for its neighbours, by about as much
(`joulec.passes.search.ratios`). Batch sizes count here as well as in `joulec.passes.search.foresight`, so that what was
given up at one is not measured at another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from joulec.costdb.cost import Cost
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec, Opaque, TensorType
from joulec.passes.search.ratios import (
    Bounds,
    Prefers,
    Ratios,
    above_roofline,
    foreseen,
    loses,
    of_one_kernel,
    ratio_of,
)
from joulec.profiler.entrant import Point

_FAR = 1.0
"""Distance from which on operators tell nothing of each other, between the logarithms of their channels."""
_BATCH = 0.1
"""Weight of the batch sizes in it."""
_DISTURBED = 2.0
"""What was left after one look may have been disturbed by as much."""

_START_S = 5e-6
"""What the call of a kernel and the start of its threads take at most."""

_Kind = tuple[Any, ...]


@dataclass
class Resemblance:
    """Costs that were measured, by what is alike but for channels."""

    _seen: dict[NodeSpec, dict[str, tuple[Algorithm, Cost]]] = field(default_factory=lambda: defaultdict(dict))
    _alike: dict[_Kind, dict[NodeSpec, tuple[int, ...]]] = field(default_factory=lambda: defaultdict(dict))
    _above: dict[NodeSpec, Ratios] = field(default_factory=dict)
    _bounds: dict[NodeSpec, Bounds] = field(default_factory=dict)

    def learn(self, spec: NodeSpec, algorithm: Algorithm, cost: Cost) -> None:
        """What an algorithm costs."""
        told = kind_and_channels(spec)
        if told is None:
            return
        self._alike[told[0]][spec] = told[1]
        looked_at = replace(cost, time_s=cost.time_s / _DISTURBED) if cost.spread == math.inf else cost
        if self._seen[spec].get(algorithm.name) != (algorithm, looked_at):
            self._seen[spec][algorithm.name] = algorithm, looked_at
            self._above.pop(spec, None)

    def gives_up(self, spec: NodeSpec, algorithm: Algorithm, algorithms: Iterable[Algorithm], prefers: Prefers) -> bool:
        """Whether an algorithm is foreseen to lose to another of the spec's by more than foresight errs.

        Any operator counts that is alike and of which a schedule of its kernel was measured: so what was given up once
        is not measured either when more is known. Nothing is foreseen by what was foreseen.
        """
        others = self._near(spec, algorithm.name)
        if not others:
            return False
        if spec not in self._bounds:
            self._bounds[spec] = {one.name: one.lower_bound_s(spec) for one in algorithms}
        bounds = self._bounds[spec]
        return any(loses(foreseen(bounds, self._ratios(other)), algorithm.name, prefers) for other in others)

    def foreseen(self, spec: NodeSpec, algorithms: Iterable[Algorithm]) -> Mapping[str, Point]:
        """What algorithms of a spec may cost, at the least that operators of nearly as many channels tell."""
        told = kind_and_channels(spec)
        if told is None:
            return {}
        kind, channels = told
        algorithms = list(algorithms)
        found: dict[str, Point] = {}
        for other in [other for other, own in self._alike[kind].items() if _distance(channels, own) < _FAR]:
            ratios = self._ratios(other)
            for one in algorithms:
                ratio = ratio_of(one.name, ratios)
                if ratio is not None:
                    time_s = _least_s(ratio[0], one.lower_bound_s(other), one.lower_bound_s(spec))
                    point = Point(time_s, time_s * ratio[1])
                    found[one.name] = min(point, found.get(one.name, point), key=lambda point: point.time_s)
        return found

    def _ratios(self, spec: NodeSpec) -> Ratios:
        if spec not in self._above:
            self._above[spec] = above_roofline(spec, self._seen[spec])
        return self._above[spec]

    def _near(self, spec: NodeSpec, name: str) -> list[NodeSpec]:
        """Operators of nearly as many channels that tell something of an algorithm."""
        told = kind_and_channels(spec)
        if told is None:
            return []
        kind, channels = told
        near = (other for other, own in self._alike[kind].items() if _distance(channels, own) < _FAR and other != spec)
        return [other for other in near if any(of_one_kernel(name, one) for one in self._seen[other])]


def _least_s(ratio: float, their_bound_s: float, bound_s: float) -> float:
    """What an operator may take, if another one took so many times its own roofline.

    A part of that may be what starting takes, which a larger one has once as well.
    """
    start_s = min(_START_S, max(ratio - 1.0, 0.0) * their_bound_s)
    without = ratio - start_s / their_bound_s if their_bound_s > 0 else ratio
    return min(ratio * bound_s, start_s + without * bound_s)


def kind_and_channels(spec: NodeSpec) -> tuple[_Kind, tuple[int, ...]] | None:
    """A spec without what is fused into its store, its batch size and numbers of channels, and these last.

    Returns:
        None where it has no planes, or a definition names sizes.
    """
    if isinstance(spec.op, Opaque) or len(spec.results[0].shape) != 4:
        return None
    batch, channels = spec.results[0].shape[0], list[int]()

    def without(type: TensorType, constant: bool) -> tuple[Any, ...]:
        shape = type.shape
        if constant:  # a kernel keeps its sides
            return (type.dtype, len(shape), shape[2:])
        if len(shape) == 4:
            channels.append(shape[1])
            return (type.dtype, "batch" if shape[0] == batch else shape[0], shape[2:])
        return (type.dtype, shape)

    operands = tuple((one.constant, without(one.type, one.constant)) for one in spec.anchor_operands)
    results = tuple(without(type, False) for type in spec.results)
    return (spec.op, operands, results), (batch, *channels)


def _distance(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    if not all(first) or not all(second):
        return math.inf
    batch, *channels = (math.log(one / other) for one, other in zip(first, second, strict=True))
    return math.hypot(_BATCH * batch, *channels)
