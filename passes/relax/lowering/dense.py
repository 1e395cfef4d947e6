"""Products with the rows of a weight, as recurrent layers need them at every step: scheduled, and without a transpose.

Each result is the dot product of two contiguous rows. Partial sums are kept per lane of a vector, for several rows of
the weight at once, and are added up at the end.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, s_tir, te

from joulec.passes.relax.lowering.site import Site

_LANES = (16, 8, 4)
_ROWS = (8, 4, 2)
_PARALLEL_FROM = 1 << 19
"""Multiplications from which on threads pay, with what waking them takes."""


def by_vectors(data: Any, count: int) -> bool:
    """Whether rows of data and so many rows of a weight are worth `rows_product`; never under a GPU's target."""
    target = tvm.target.Target.current(allow_none=True)
    if target is not None and target.kind.name == "cuda":
        return False
    return int(data.ty.shape.values[1]) > _LANES[-1] and count % _ROWS[-1] == 0


def widened(site: Site, rows: Any) -> Any:
    """Rows whose length is no whole number of the shortest vectors, with zeros up to the next of the longest ones.

    Rows shorter than a long vector are filled up to a short one. Zeros on both sides of a product change nothing.
    """
    *lead, depth = (int(size) for size in rows.ty.shape.values)
    if depth % _LANES[-1] == 0:
        return rows
    missing = -depth % (_LANES[0] if depth > _LANES[0] else _LANES[-1])
    return site.emit(relax.op.nn.pad(rows, [0, 0] * len(lead) + [0, missing]))


def rows_product(site: Site, data: Any, weight: Any, place: int, begin: int, count: int) -> Any:
    """``data[b, k] · weight[place, begin + j, k]`` summed over k.

    Args:
        data: float32, [batch, depth], `widened`.
        weight: float32, [parts, rows, depth], likewise.
        place: which part of the weight.
        begin: first row.
        count: number of rows.

    Returns:
        An expression of [batch, count].
    """
    batch, depth = (int(size) for size in data.ty.shape.values)
    rows = int(weight.ty.shape.values[1])
    parts = int(weight.ty.shape.values[0])
    function = _product(batch, depth, parts, rows, place, begin, count)
    known = site.builder.add_func(function, f"onnx_{site.node.op_type}_product")
    return site.emit(relax.op.call_tir(known, relax.Tuple([data, weight]), relax.TensorType((batch, count), "float32")))


def _product(batch: int, depth: int, parts: int, rows: int, place: int, begin: int, count: int) -> Any:
    lanes = next(lanes for lanes in _LANES if depth % lanes == 0 and depth > lanes)
    x = te.placeholder((batch, depth), "float32", name="x")
    w = te.placeholder((parts, rows, depth), "float32", name="w")
    k = te.reduce_axis((0, depth // lanes), "k")
    partial = te.compute(
        (batch, count, lanes),
        lambda b, j, lane: te.sum(x[b, k * lanes + lane] * w[place, begin + j, k * lanes + lane], axis=[k]),
        name="partial",
    )
    lane = te.reduce_axis((0, lanes), "lane")
    total = te.compute((batch, count), lambda b, j: te.sum(partial[b, j, lane], axis=[lane]), name="total")
    schedule = s_tir.Schedule(te.create_prim_func([x, w, total]))
    block, summed = schedule.get_sblock("partial"), schedule.get_sblock("total")
    together = next(rows for rows in _ROWS if count % rows == 0)
    b, j, inner = schedule.get_loops(summed)
    outer, row = schedule.split(j, [None, together])
    schedule.reorder(outer, b, row, inner)
    if batch * count * depth >= _PARALLEL_FROM:
        schedule.parallel(outer)
    schedule.compute_at(block, b)
    *_, own, vector, reduced = schedule.get_loops(block)
    schedule.reorder(reduced, own, vector)
    schedule.vectorize(vector)
    schedule.unroll(own)
    schedule.set_scope(block, 0, "local")
    schedule.decompose_reduction(block, reduced)
    schedule.unroll(row)
    schedule.unroll(inner)
    return (
        schedule.mod["main"]
        .without_attr("global_symbol")
        .with_attr("tirx.is_scheduled", True)
        .with_attr("op_pattern", 8)
    )
