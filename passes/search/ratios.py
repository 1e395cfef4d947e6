"""What algorithms of one operator tell of those of another that is nearly the same.

How many times its roofline an algorithm takes changes little from one to the other. Schedules of one kernel are alike
in what the roofline does not tell (reuse in the caches, work that does not divide evenly), kernels are not: so a
schedule is given up for another of its kernel at a small distance, a kernel for another at a large one, and neither for
one of other layouts, which may spare conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from joulec.costdb.cost import Cost
from joulec.passes.backend import Algorithm
from joulec.passes.graph import NodeSpec
from joulec.profiler.entrant import Point

_SCHEDULES = 1.1
"""A schedule this much behind another of its kernel is not tried."""
_KERNELS = 1.5
"""A kernel this much behind another is not tried."""

Ratios = dict[str, tuple[float, float]]
"""By algorithm, and by kernel the least: how many times its roofline it takes, and its power in W."""
Bounds = Mapping[str, float]
"""By algorithm: the roofline in seconds."""
Prefers = Callable[[Point, Point], bool]
"""Whether a rival of the first cost is preferred to a candidate of the second."""


def above_roofline(spec: NodeSpec, known: Mapping[str, tuple[Algorithm, Cost]]) -> Ratios:
    """Of algorithms of a spec, by name, with their costs."""
    above: Ratios = {}
    for name, (algorithm, cost) in known.items():
        bound_s, kernel = algorithm.lower_bound_s(spec), _kernel(name)
        if bound_s > 0:
            ratio = cost.time_s / bound_s, cost.power_w or 0.0
            above[name], above[kernel] = ratio, min(above.get(kernel, ratio), ratio)
    return above


def foreseen(bounds: Bounds, above: Ratios) -> dict[str, Point]:
    """By algorithm of a spec: at its own ratio, or at the kernel's least where that schedule is not known."""
    points = {}
    for name, bound_s in bounds.items():
        ratio = ratio_of(name, above)
        if ratio is not None:
            points[name] = Point(ratio[0] * bound_s, ratio[0] * bound_s * ratio[1])
    return points


def ratio_of(name: str, above: Ratios) -> tuple[float, float] | None:
    """Of an algorithm, or the least of its kernel where that schedule is not known; None where neither is."""
    return above.get(name, above.get(_kernel(name)))


def loses(points: Mapping[str, Point], name: str, prefers: Prefers) -> bool:
    """Whether an algorithm is behind another of its layouts by more than foresight errs."""
    own = points.get(name)
    if own is None:
        return False
    return any(
        prefers(_times(point, _SCHEDULES if of_one_kernel(name, other) else _KERNELS), own)
        for other, point in points.items()
        if _layouts(other) == _layouts(name)
    )


def of_one_kernel(name: str, other: str) -> bool:
    """Whether two algorithms are schedules of one kernel for the same layouts."""
    return _kernel(name) == _kernel(other) and _layouts(name) == _layouts(other)


def _kernel(name: str) -> str:
    return name.partition("(")[0]


def _layouts(name: str) -> str:
    """As a name has them; empty where it reads and writes row-major."""
    return next((part for part in name.partition("(")[2].split(",") if "->" in part), "")


def _times(point: Point, factor: float) -> Point:
    return Point(point.time_s * factor, point.energy_j * factor)
