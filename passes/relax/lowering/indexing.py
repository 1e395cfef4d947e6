"""Operators that read or write at places that other tensors name; a negative place counts from the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import te, tirx, topi

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site
from joulec.passes.relax.lowering.unary import c, cast_scalar

_RANKED = 1024
"""Longest axis whose elements are ranked by comparing all with all."""


def place(index: Any, size: int) -> Any:
    """A place from the beginning; one outside of the tensor is kept inside, so that nothing else is read."""
    index = tirx.Cast("int64", index)
    counted = tirx.Select(index < c(index, 0), index + c(index, size), index)
    return tirx.max(tirx.min(counted, c(index, size - 1)), c(index, 0))


def _gather(site: Site) -> Exprs | None:
    shape, places = site.shape(0), site.shape(1)
    axis = site.attribute("axis", 0) % len(shape)
    if math.prod(shape) == 0:
        return None
    out = (*shape[:axis], *places, *shape[axis + 1 :])

    def whole(x: Any, index: Any) -> Any:
        def one(*i: Any) -> Any:
            chosen = index[tuple(i[axis : axis + len(places)])]
            return x[(*i[:axis], place(chosen, shape[axis]), *i[axis + len(places) :])]

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], site.operands[1])]


def _gather_elements(site: Site) -> Exprs | None:
    shape = site.shape(0)
    axis = site.attribute("axis", 0) % len(shape)

    def whole(x: Any, index: Any) -> Any:
        def one(*i: Any) -> Any:
            return x[tuple(place(index[i], shape[d]) if d == axis else p for d, p in enumerate(i))]

        return te.compute(index.shape, one)

    return [site.te(whole, site.operands[0], site.operands[1])]


def _gather_nd(site: Site) -> Exprs | None:
    shape, places = site.shape(0), site.shape(1)
    batch = site.attribute("batch_dims", 0)
    depth = places[-1]
    out = (*places[:-1], *shape[batch + depth :])
    lead = len(places) - 1

    def whole(x: Any, index: Any) -> Any:
        def one(*i: Any) -> Any:
            chosen = [place(index[(*i[:lead], k)], shape[batch + k]) for k in range(depth)]
            return x[(*i[:batch], *chosen, *i[lead:])]

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], site.operands[1])]


_WAYS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _scatter_elements(site: Site) -> Exprs | None:
    axis = site.attribute("axis", 0) % len(site.shape(0))
    way = _WAYS[site.attribute("reduction", "none")]
    if site.dtype(0) == "bool":
        return None
    index = site.cast(_counted(site, axis), "int64")
    return [
        site.te(lambda x, i, u: topi.scatter_elements(x, i, u, axis, way), site.operands[0], index, site.operands[2])
    ]


def _counted(site: Site, axis: int) -> Any:
    size = site.shape(0)[axis]
    return site.te(lambda index: te.compute(index.shape, lambda *i: place(index[i], size)), site.operands[1])


def _scatter_nd(site: Site) -> Exprs | None:
    """Each row of indices names where a slice of the updates goes."""
    shape, places = site.shape(0), site.shape(1)
    depth = places[-1]
    way = _WAYS[site.attribute("reduction", "none")]
    if depth == 0 or site.dtype(0) == "bool":
        return None
    inner = math.prod(shape[depth:])
    strides = [math.prod(shape[k + 1 : depth]) for k in range(depth)]
    count = math.prod(places[:-1])

    def flat(index: Any) -> Any:
        def one(row: Any, column: Any) -> Any:
            at = tirx.const(0, "int64")
            for k in range(depth):
                at = at + place(index[row, k], shape[k]) * tirx.const(strides[k], "int64")
            return at * tirx.const(inner, "int64") + tirx.Cast("int64", column)

        return te.compute((count, inner), one)

    index = site.te(flat, site.reshape(site.operands[1], (count, depth)))
    data = site.reshape(site.operands[0], (math.prod(shape),))
    updates = site.reshape(site.operands[2], (count * inner,))
    index = site.reshape(index, (count * inner,))
    found = site.te(lambda x, i, u: topi.scatter_elements(x, i, u, 0, way), data, index, updates)
    return [site.reshape(found, shape)]


def _one_hot(site: Site) -> Exprs | None:
    if site.result is None:
        return None
    out = site.result.shape
    axis = site.attribute("axis", -1) % len(out)
    depth = out[axis]

    def whole(index: Any, values: Any) -> Any:
        def one(*i: Any) -> Any:
            chosen = cast_scalar(index[tuple(p for d, p in enumerate(i) if d != axis)], "int64")
            counted = tirx.Select(chosen < c(chosen, 0), chosen + c(chosen, depth), chosen)
            return tirx.Select(counted == tirx.Cast("int64", i[axis]), values[1], values[0])

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], site.operands[2])]


def _top_k(site: Site) -> Exprs | None:
    """Each element's rank is counted; of equal elements the first comes first. Longer axes are left to an engine."""
    known = next((result for result in site.results if result is not None), None)
    shape = site.shape(0)
    axis = site.attribute("axis", -1) % len(shape)
    if known is None or shape[axis] > _RANKED or site.dtype(0) == "bool":
        return None
    largest, kept = bool(site.attribute("largest", 1)), tuple(known.shape)

    def places(x: Any) -> Any:
        other, chosen = te.reduce_axis((0, shape[axis])), te.reduce_axis((0, shape[axis]))

        def ahead(*i: Any) -> Any:
            one, mine = x[_at(i, axis, other)], x[i]
            better = one > mine if largest else one < mine
            first = tirx.any(better, tirx.all(one == mine, other < i[axis]))
            return te.sum(tirx.Cast("int64", first), axis=other)

        ranks = te.compute(shape, ahead)
        return te.compute(
            kept,
            lambda *i: te.max(
                tirx.Select(
                    ranks[_at(i, axis, chosen)] == tirx.Cast("int64", i[axis]),
                    tirx.Cast("int64", chosen),
                    tirx.const(0, "int64"),
                ),
                axis=chosen,
            ),
        )

    index = site.te(places, site.operands[0])
    values = site.te(lambda x, at: te.compute(kept, lambda *i: x[_at(i, axis, at[i])]), site.operands[0], index)
    return [one for place, one in enumerate((values, index)) if site.wants(place)]


def _at(indices: Sequence[Any], axis: int, place: Any) -> tuple[Any, ...]:
    return tuple(place if d == axis else index for d, index in enumerate(indices))


def _tensor_scatter(site: Site) -> Exprs | None:
    """Writes a stretch of a cache from a place per batch on, around the end in circular mode."""
    shape, new = site.shape(0), site.shape(1)
    axis = site.attribute("axis", -2) % len(shape)
    circular = site.attribute("mode", "linear") == "circular"
    extra = [site.operands[2]] if site.has(2) else []

    def whole(x: Any, update: Any, *starts: Any) -> Any:
        def one(*i: Any) -> Any:
            start = tirx.Cast("int64", starts[0][i[0]]) if starts else tirx.const(0, "int64")
            at = tirx.Cast("int64", i[axis]) - start
            if circular:
                at = at + tirx.Select(at < c(at, 0), c(at, shape[axis]), c(at, 0))  # starts lie inside of the axis
            inside = tirx.all(at >= c(at, 0), at < c(at, new[axis]))
            return tirx.if_then_else(inside, update[tuple(at if d == axis else p for d, p in enumerate(i))], x[i])

        return te.compute(x.shape, one)

    return [site.te(whole, site.operands[0], site.operands[1], *extra)]


LOWERINGS: Mapping[str, Lowering] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "TensorScatter": _tensor_scatter,
}
