"""Convolution as a matrix product: out[O, positions] = W[O, K] * in[K, positions], vectors along the positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import NodeSpec
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
from joulec.profiler.candidate import Work


class GemmConv:
    """1x1 convolutions of stride 1 without padding, on the input as it stands: nothing is packed or unpacked.

    A tile of ``channels`` output channels by ``vectors`` vectors of positions stays in registers during the whole
    reduction. The last tile of positions is moved back to end with the plane.
    """

    name = "gemm_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        geometry = Geometry.of(spec)
        if geometry is None or not geometry.pointwise:
            return ()
        return _ranked(geometry, target)[:3]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, channel blocks, K, block]; other operands as they are."""
        return _packed(Geometry.required(spec), params, index, array)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        geometry, parts = Geometry.required(spec), chosen(params)
        team = geometry.team(target)
        tile = _Tile(geometry, parts["channels"], parts["vectors"], target.lanes)
        signature = Signature.of(spec, tile.packed)

        def compute(n: Expr, g: Expr, o: Expr, q: Expr) -> Stmt:
            p = start(q, geometry.positions, tile.width)

            def value(k: Expr, lane: Expr) -> Expr:
                position = p + lane
                where = (n, g * geometry.group_in + k, position // geometry.width, position % geometry.width)
                return signature.data[where]

            return tile.product(signature, n, g, o, p, value)

        tiles = ceil_div(geometry.positions, tile.width)
        if 4 * geometry.group_in * geometry.positions * 2 <= target.l2_bytes:
            return signature.function(parallel(team, (geometry.batch, geometry.groups, tile.blocks, tiles), compute))
        extents = (geometry.batch, geometry.groups, tiles, tile.blocks)
        swapped = parallel(team, extents, lambda n, g, q, o: compute(n, g, o, q))
        return signature.function(swapped)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        return _work(spec, params, target, 0)


class Im2colConv:
    """Any convolution: windows are gathered into panels in the second-level cache, then multiplied like `GemmConv`."""

    name = "im2col_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        geometry = Geometry.of(spec)
        if geometry is None or geometry.taps < 2 or geometry.group_out < 4:
            return ()
        return _ranked(geometry, target)[:1]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, channel blocks, K, block]; other operands as they are."""
        return _packed(Geometry.required(spec), params, index, array)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        geometry, parts = Geometry.required(spec), chosen(params)
        team = geometry.team(target)
        tile = _Tile(geometry, parts["channels"], parts["vectors"], target.lanes)
        signature = Signature.of(spec, tile.packed)
        source, prepare = padded_source(geometry, team, signature)
        pitch = geometry.padded[1] if geometry.needs_padding else geometry.width
        span = _span(geometry, tile.width, target)
        tiles = ceil_div(span, tile.width)
        kernel_h, kernel_w = geometry.kernel

        def chunk(n: Expr, g: Expr, q: Expr) -> Stmt:
            first = start(q, geometry.positions, span)
            origin = buffer((span,), "origin", dtype="int32")
            panel = buffer((tiles, geometry.taps, tile.width), "panel")

            def locate(j: Expr) -> Stmt:
                row, column = (first + j) // geometry.out_width, (first + j) % geometry.out_width
                return store(origin, row * (geometry.strides[0] * pitch) + column * geometry.strides[1], j)

            def gather(t: Expr, i: Expr, kh: Expr, kw: Expr) -> Stmt:
                tap = (i * kernel_h + kh) * kernel_w + kw
                shift = kh * (geometry.dilation[0] * pitch) + kw * geometry.dilation[1]

                def lane(j: Expr) -> Stmt:
                    at = origin[start(t, span, tile.width) + j] + shift
                    value = source[n, g * geometry.group_in + i, at // pitch, at % pitch]
                    return store(panel, value, t, tap, j)

                return loop(tile.width, lane)

            def compute(o: Expr, t: Expr) -> Stmt:
                p = first + start(t, span, tile.width)
                return tile.product(signature, n, g, o, p, lambda k, lane: panel[t, k, lane])

            return block(
                allocate(origin),
                allocate(panel),
                loop(span, locate),
                nest((tiles, geometry.group_in, kernel_h, kernel_w), gather),
                nest((tile.blocks, tiles), compute),
            )

        chunks = ceil_div(geometry.positions, span)
        return signature.function(*prepare, parallel(team, (geometry.batch, geometry.groups, chunks), chunk))

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        geometry = Geometry.required(spec)
        width = chosen(params)["vectors"] * target.lanes
        span = _span(geometry, width, target)
        columns = ceil_div(geometry.positions, span) * ceil_div(span, width) * width
        copied = geometry.batch * geometry.groups * geometry.taps * columns
        if geometry.needs_padding:
            copied += geometry.batch * geometry.channels * int(np.prod(geometry.padded))
        return _work(spec, params, target, copied)


class _Tile:
    """The product of one register tile."""

    def __init__(self, geometry: Geometry, channels: int, vectors: int, lanes: int) -> None:
        self.geometry, self.channels, self.vectors, self.lanes = geometry, channels, vectors, lanes
        self.width = vectors * lanes
        self.blocks = ceil_div(geometry.group_out, channels)
        self.packed = (geometry.groups, self.blocks, geometry.taps, channels)

    def product(
        self, signature: Signature, n: Expr, g: Expr, o: Expr, p: Expr, value: Callable[[Expr, Expr], Expr]
    ) -> Stmt:
        """Compute and store channels of block ``o`` at positions from ``p`` on; ``value(k, lane)`` is the input."""
        geometry = self.geometry
        sums = buffer((self.channels, self.width), "sums", "local")

        def row(c: Expr, body: Callable[[Expr], Stmt]) -> Stmt:
            def vector(v: Expr) -> Stmt:
                return loop(self.lanes, lambda i: body(v * self.lanes + i), "vectorized")

            return loop(self.vectors, vector, "unrolled")

        def each(body: Callable[[Expr, Expr], Stmt]) -> Stmt:
            return loop(self.channels, lambda c: row(c, lambda lane: body(c, lane)), "unrolled")

        def step(k: Expr) -> Stmt:
            def add(c: Expr, lane: Expr) -> Stmt:
                weight = signature.weights[g, o, k, c]
                return store(sums, sums[c, lane] + weight * value(k, lane), c, lane)

            return each(add)

        def finish(c: Expr) -> Stmt:
            channel = o * self.channels + c

            def out(lane: Expr) -> Stmt:
                row_, column = (p + lane) // geometry.out_width, (p + lane) % geometry.out_width
                return signature.finish(sums[c, lane], n, g * geometry.group_out + channel, row_, column)

            if geometry.group_out % self.channels == 0:
                return row(c, out)
            return tirx.IfThenElse(channel < geometry.group_out, row(c, out), None)

        return block(
            allocate(sums),
            each(lambda c, lane: store(sums, zero(), c, lane)),
            loop(geometry.taps, step),
            loop(self.channels, finish, "unrolled"),
        )


def _tiles(geometry: Geometry, target: CpuTarget) -> Iterator[tuple[int, int]]:
    """(channels, vectors) that fit the accumulators; vectors that fit the plane."""
    most = accumulators(target)
    for vectors in (1, 2, 3, 4):
        if vectors * target.lanes <= geometry.positions:
            yield spread(geometry.group_out, most // vectors), vectors


def _ranked(geometry: Geometry, target: CpuTarget) -> list[Params]:
    scored = []
    broadcast = 0.05 if target.lanes == 16 else 0.25  # AVX-512 broadcasts an operand within the multiply-add
    for channels, vectors in _tiles(geometry, target):
        width, held = vectors * target.lanes, channels * vectors
        computed = ceil_div(geometry.positions, width) * width * ceil_div(geometry.group_out, channels) * channels
        score = computed * max(1.0, 8 / held) * (1 + (0.5 * vectors + broadcast * channels) / held)
        scored.append((score, (("channels", channels), ("vectors", vectors))))
    return [params for _, params in sorted(scored)]


def _packed(geometry: Geometry, params: Params, index: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if index != 1:
        return np.ascontiguousarray(array)
    blocked = padded_channels(array, geometry.groups, chosen(params)["channels"])
    groups, blocks, channels = blocked.shape[:3]
    return np.ascontiguousarray(blocked.reshape(groups, blocks, channels, geometry.taps).transpose(0, 1, 3, 2))


def _span(geometry: Geometry, width: int, target: CpuTarget) -> int:
    """Positions of a panel: half the second-level cache, and a chunk for every thread where the plane has enough."""
    fitting = max(1, target.l2_bytes // 2 // (4 * geometry.taps * width)) * width
    shared = ceil_div(ceil_div(geometry.positions, geometry.team(target).threads), width) * width
    return max(width, min(fitting, shared, geometry.positions))


def _work(spec: NodeSpec, params: Params, target: CpuTarget, copied: int) -> Work:
    """Work of the product plus ``copied`` elements written to and read from workspaces."""
    geometry, parts = Geometry.required(spec), chosen(params)
    channels, width = parts["channels"], parts["vectors"] * target.lanes
    tiles = geometry.batch * geometry.groups * ceil_div(geometry.group_out, channels)
    tiles *= ceil_div(geometry.positions, width)
    return Work(
        flops=2 * tiles * channels * width * geometry.taps + len(spec.epilogue) * spec.results[0].size,
        dram_bytes=spec.bytes,
        cache_bytes=8 * copied + 4 * tiles * geometry.taps * min(channels, width),
        register_bytes=4 * (tiles * (geometry.taps * (channels + width) + channels * width) + 2 * copied),
    )
