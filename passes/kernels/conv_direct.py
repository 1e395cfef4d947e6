"""Direct convolution: a vector of output channels times broadcast inputs, a tile of output columns in registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.blocks import fits, packed, with_ends
from joulec.passes.kernels.conv_tir import (
    Expr,
    Geometry,
    Signature,
    Stmt,
    accumulators,
    allocate,
    block,
    buffer,
    ceil_div,
    chosen,
    loop,
    nest,
    padded_channels,
    padded_source,
    parallel,
    spread,
    start,
    store,
    zero,
)
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.layouts.layout import PLAIN
from joulec.profiler.candidate import Work


class DirectConv:
    """Any convolution; the input stays NCHW and is copied only where it must be padded.

    A tile is ``vectors`` vectors of output channels by ``rows`` x ``columns`` positions, all in registers during the
    whole reduction; it is turned to NCHW in the first-level cache on its way out. A 1x1 convolution of stride 1 runs
    over the plane as one long row.
    """

    name = "direct_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        geometry = Geometry.of(spec)
        if geometry is None or geometry.group_out * 2 < min(target.lanes, geometry.out_channels):
            return ()
        height, width = _plane(geometry)
        ranked: list[tuple[float, Params]] = []
        for vectors, rows, columns in _tiles(geometry, target):
            held = vectors * rows * columns
            computed = ceil_div(geometry.group_out, vectors * target.lanes) * vectors * target.lanes
            computed *= ceil_div(height, rows) * rows * ceil_div(width, columns) * columns
            loads = 1 + (vectors + 0.25 * rows * columns) / held
            params = (("vectors", vectors), ("rows", rows), ("columns", columns))
            ranked.append((computed * max(1.0, 8 / held) * loads, params))
        found = [params for _, params in sorted(set(ranked))[:4]]
        if fits(spec.results[0], target) and geometry.group_out % target.lanes == 0:
            found.append(with_ends(found[0], PLAIN, target.lanes))
        return tuple(found)

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, channel blocks, I, kH, kW, block]; other operands as they are."""
        geometry = Geometry.required(spec)
        if index != 1:
            return packed(spec, params, index, array)
        width = chosen(params)["vectors"] * target.lanes
        return np.ascontiguousarray(padded_channels(array, geometry.groups, width).transpose(0, 1, 3, 4, 5, 2))

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        geometry, parts = Geometry.required(spec), chosen(params)
        team = geometry.team(target)
        height, width = _plane(geometry)
        vectors, rows, columns = parts["vectors"], parts["rows"], parts["columns"]
        channels = vectors * target.lanes
        blocks, tall, wide = ceil_div(geometry.group_out, channels), ceil_div(height, rows), ceil_div(width, columns)
        shape = (geometry.groups, blocks, geometry.group_in, *geometry.kernel, channels)
        signature = Signature.of(spec, shape, params)
        source, prepare = padded_source(geometry, team, signature)

        def at(row: Expr, column: Expr) -> tuple[Expr, Expr]:
            flat = geometry.pointwise
            return (column // geometry.width, column % geometry.width) if flat else (row, column)

        def tile(n: Expr, g: Expr, o: Expr, h: Expr, w: Expr) -> Stmt:
            sums, turned = (
                buffer((rows * columns, channels), "sums", "local"),
                buffer((rows * columns, channels), "turned"),
            )

            def each(body: Any) -> Stmt:
                def lane(r: Expr, c: Expr, v: Expr) -> Stmt:
                    return loop(target.lanes, lambda i: body(r, c, v * target.lanes + i), "vectorized")

                return nest((rows, columns, vectors), lane, "unrolled")

            def step(i: Expr, kh: Expr, kw: Expr) -> Stmt:
                def add(r: Expr, c: Expr, lane: Expr) -> Stmt:
                    row = (h + r) * geometry.strides[0] + kh * geometry.dilation[0]
                    column = (w + c) * geometry.strides[1] + kw * geometry.dilation[1]
                    value = source[(n, g * geometry.group_in + i, *at(row, column))]
                    product = value * signature.weights[g, o, i, kh, kw, lane]
                    return store(sums, sums[r * columns + c, lane] + product, r * columns + c, lane)

                return each(add)

            def out(lane: Expr) -> Stmt:
                channel = o * channels + lane

                def finish(r: Expr, c: Expr) -> Stmt:
                    where = (n, g * geometry.group_out + channel, *at(h + r, w + c))
                    return signature.finish(turned[r * columns + c, lane], *where)

                body = loop(rows, lambda r: loop(columns, lambda c: finish(r, c), "vectorized"))
                if geometry.group_out % channels == 0:
                    return body
                return tirx.IfThenElse(channel < geometry.group_out, body, None)

            def out_blocked(r: Expr, c: Expr, v: Expr) -> Stmt:
                def finish(i: Expr) -> Stmt:
                    lane = v * target.lanes + i
                    where = (n, g * geometry.group_out + o * channels + lane, *at(h + r, w + c))
                    return signature.finish(sums[r * columns + c, lane], *where)

                body = loop(target.lanes, finish, "vectorized")
                if geometry.group_out % channels == 0:
                    return body
                return tirx.IfThenElse(o * channels + v * target.lanes < geometry.group_out, body, None)

            clear = each(lambda r, c, lane: store(sums, zero(), r * columns + c, lane))
            reduce = nest((geometry.group_in, *geometry.kernel), step)
            if signature.writes:
                return block(allocate(sums), clear, reduce, nest((rows, columns, vectors), out_blocked, "unrolled"))
            return block(
                allocate(turned),
                allocate(sums),
                clear,
                reduce,
                each(lambda r, c, lane: store(turned, sums[r * columns + c, lane], r * columns + c, lane)),
                loop(channels, out),
            )

        def line(n: Expr, g: Expr, o: Expr, t: Expr) -> Stmt:
            return loop(wide, lambda q: tile(n, g, o, start(t, height, rows), start(q, width, columns)))

        if _weights_bytes(geometry, channels) * 2 <= target.l2_bytes and not geometry.pointwise:
            extents = (geometry.batch, geometry.groups, tall, blocks)
            body = parallel(team, extents, lambda n, g, t, o: line(n, g, o, t))
        elif geometry.pointwise:
            body = parallel(
                team,
                (geometry.batch, geometry.groups, blocks, wide),
                lambda n, g, o, q: tile(n, g, o, start(0, 1, 1), start(q, width, columns)),
            )
        else:
            body = parallel(team, (geometry.batch, geometry.groups, blocks, tall), line)
        return signature.function(*prepare, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        geometry, parts = Geometry.required(spec), chosen(params)
        height, width = _plane(geometry)
        tile = parts["rows"] * parts["columns"]
        channels = parts["vectors"] * target.lanes
        tiles = geometry.batch * geometry.groups * ceil_div(geometry.group_out, channels)
        tiles *= ceil_div(height, parts["rows"]) * ceil_div(width, parts["columns"])
        multiplies = tiles * tile * channels * geometry.taps
        copied = 4 * geometry.batch * geometry.channels * int(np.prod(geometry.padded)) if geometry.needs_padding else 0
        streamed = 4 * tiles * geometry.taps * channels
        return Work(
            flops=2 * multiplies + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes,
            cache_bytes=2 * copied + streamed,
            register_bytes=4 * tiles * (geometry.taps * (channels + tile) + 3 * tile * channels),
        )


def _plane(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns over which tiles run."""
    if geometry.pointwise:
        return 1, geometry.out_height * geometry.out_width
    return geometry.out_height, geometry.out_width


def _weights_bytes(geometry: Geometry, channels: int) -> int:
    return 4 * geometry.groups * ceil_div(geometry.group_out, channels) * channels * geometry.taps


def _tiles(geometry: Geometry, target: CpuTarget) -> Iterator[tuple[int, int, int]]:
    """(vectors, rows, columns) that fit the accumulators and cover the output evenly."""
    height, width = _plane(geometry)
    most = accumulators(target) if target.registers >= 32 else accumulators(target) - 2  # broadcasts need their own
    for vectors in (1, 2, 4, 8) if height * width <= 2 else (1, 2, 4):
        if (vectors - 1) * target.lanes >= geometry.group_out:
            break
        positions = most // vectors
        columns = spread(width, positions)
        yield vectors, 1, columns
        rows = spread(height, positions // columns)
        if rows > 1:
            yield vectors, rows, columns
        if vectors == 1 and columns > positions // 2 > 0:
            yield vectors, 1, spread(width, positions // 2)
