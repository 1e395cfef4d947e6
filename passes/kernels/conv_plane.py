"""Convolution with vectors along flattened planes, so that no channel count leaves lanes empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
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
    parallel,
    spread,
    start,
    store,
    vector_loop,
    zero,
)
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work


@dataclass(frozen=True)
class _Planes:
    """How a block of output rows of one group is laid out in the workspace.

    A plane is split into one part per phase of the strides, so that neighbouring outputs read neighbouring inputs.
    Outputs are computed along the pitch of these parts; what falls between two rows is thrown away.

    Attributes:
        geometry: the convolution.
        rows: output rows of a block.
        channels: output channels of a register tile.
        width: positions of a register tile.
    """

    geometry: Geometry
    rows: int
    channels: int
    width: int

    @property
    def pitch(self) -> int:
        """Length of a row of a part."""
        return ceil_div(self.geometry.padded[1], self.geometry.strides[1])

    @property
    def height(self) -> int:
        """Rows of a part."""
        return ceil_div(self.geometry.touched(0, self.rows), self.geometry.strides[0])

    @property
    def tiles(self) -> int:
        """Register tiles that cover the block."""
        return ceil_div((self.rows - 1) * self.pitch + self.geometry.out_width, self.width)

    @property
    def length(self) -> int:
        """Elements of a part: its rows, and what the last tile reads past them."""
        kernel, dilation, strides = self._axes
        down = (kernel[0] - 1) * dilation[0] // strides[0]
        right = (kernel[1] - 1) * dilation[1] // strides[1]
        return max(self.height * self.pitch, self.tiles * self.width + down * self.pitch + right)

    @property
    def phases(self) -> list[tuple[int, int]]:
        """The phases (vertical, horizontal) that some tap reads."""
        vertical, horizontal = (sorted({tap * d % s for tap in range(k)}) for k, d, s in zip(*self._axes, strict=True))
        return list(product(vertical, horizontal))

    @property
    def parts(self) -> int:
        """Parts of a plane, unused ones included."""
        return self.geometry.strides[0] * self.geometry.strides[1]

    @property
    def _axes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        return self.geometry.kernel, self.geometry.dilation, self.geometry.strides

    @property
    def blocks(self) -> int:
        """Tiles of output channels in a group."""
        return ceil_div(self.geometry.group_out, self.channels)

    @property
    def workspace_bytes(self) -> int:
        """What a task keeps in the cache."""
        planes = self.geometry.group_in * self.parts * self.length
        return 4 * (planes + self.channels * self.tiles * self.width)


class _PlaneConv:
    """Tasks are (image, group, block of rows): pad the group's planes into the cache, compute, store by rows."""

    name: str

    def _applies(self, geometry: Geometry) -> bool:
        raise NotImplementedError

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        geometry = Geometry.of(spec)
        if geometry is None or not self._applies(geometry):
            return ()
        found: list[Params] = []
        most = accumulators(target)
        for channels in (1, 2, 4, 8):
            if channels > geometry.group_out or (channels == 1 and geometry.group_out > 1 < geometry.group_in):
                continue
            even = spread(geometry.group_out, channels)
            vectors = max(1, min(8, most // even))
            for budget in (target.l1_bytes * 3 // 4, target.l2_bytes // 2):
                planes = _block(geometry, even, vectors, target, budget)
                params = (("channels", even), ("vectors", planes.width // target.lanes), ("rows", planes.rows))
                if params not in found:
                    found.append(params)
        return tuple(found[:4])

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, channel blocks, I, kH, kW, block]; other operands as they are."""
        if index != 1:
            return np.ascontiguousarray(array)
        blocked = padded_channels(array, Geometry.required(spec).groups, chosen(params)["channels"])
        return np.ascontiguousarray(blocked.transpose(0, 1, 3, 4, 5, 2))

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        geometry, planes = Geometry.required(spec), _planes(spec, params, target)
        signature = Signature.of(
            spec, (geometry.groups, planes.blocks, geometry.group_in, *geometry.kernel, planes.channels)
        )

        def task(n: Expr, g: Expr, b: Expr) -> Stmt:
            first = start(b, geometry.out_height, planes.rows)
            source = buffer((geometry.group_in, planes.parts, planes.length), "planes")
            result = buffer((planes.channels, planes.tiles * planes.width), "flat")

            def channel_block(o: Expr) -> Stmt:
                return block(
                    loop(planes.tiles, lambda t: _tile(planes, target, signature, source, result, (g, o, t))),
                    loop(planes.channels, lambda c: _rows_out(planes, target, signature, result, (n, g, o, c, first))),
                )

            return block(
                allocate(source),
                allocate(result),
                loop(geometry.group_in, lambda i: _rows_in(planes, target, signature, source, (n, g, i, first))),
                loop(planes.blocks, channel_block),
            )

        row_blocks = ceil_div(geometry.out_height, planes.rows)
        return signature.function(parallel(geometry.team(target), (geometry.batch, geometry.groups, row_blocks), task))

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        geometry, planes = Geometry.required(spec), _planes(spec, params, target)
        tasks = geometry.batch * geometry.groups * ceil_div(geometry.out_height, planes.rows)
        computed = planes.channels * planes.tiles * planes.width
        copied = geometry.group_in * len(planes.phases) * planes.height * planes.pitch
        tiles = tasks * planes.blocks * planes.tiles
        moved = 8 * tasks * (copied + planes.blocks * computed)
        return Work(
            flops=2 * tasks * planes.blocks * computed * geometry.taps + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes,
            cache_bytes=moved if planes.workspace_bytes > target.l1_bytes else 0,
            register_bytes=moved + 4 * tiles * geometry.taps * (planes.channels + planes.width),
        )


class DepthwiseConv(_PlaneConv):
    """One input channel per group, any channel multiplier."""

    name = "depthwise_conv"

    def _applies(self, geometry: Geometry) -> bool:
        return geometry.groups > 1 and geometry.group_in == 1


class GroupedConv(_PlaneConv):
    """Several groups of several input channels."""

    name = "grouped_conv"

    def _applies(self, geometry: Geometry) -> bool:
        return geometry.groups > 1 and geometry.group_in > 1


class PlaneConv(_PlaneConv):
    """Convolutions in one group with few output channels; the more channels, the better `DirectConv` does."""

    name = "plane_conv"

    def _applies(self, geometry: Geometry) -> bool:
        return geometry.groups == 1 and not geometry.pointwise and geometry.out_channels <= 128


def _planes(spec: NodeSpec, params: Params, target: CpuTarget) -> _Planes:
    parts = chosen(params)
    return _Planes(Geometry.required(spec), parts["rows"], parts["channels"], parts["vectors"] * target.lanes)


def _block(geometry: Geometry, channels: int, vectors: int, target: CpuTarget, budget: int) -> _Planes:
    """The largest even blocks of rows that fit a budget of bytes and leave every thread a task."""
    threads = geometry.team(target).threads
    wanted = ceil_div(2 * threads if threads > 1 else 1, geometry.batch * geometry.groups)
    pieces = min(wanted, geometry.out_height)
    while True:
        rows = ceil_div(geometry.out_height, pieces)
        flat = _Planes(geometry, rows, channels, target.lanes)
        planes = _Planes(geometry, rows, channels, spread(flat.tiles, vectors) * target.lanes)
        if planes.workspace_bytes <= budget or rows == 1:
            return planes
        pieces = ceil_div(geometry.out_height, rows - 1)


def _rows_in(planes: _Planes, target: CpuTarget, signature: Signature, source: Any, at: tuple[Expr, ...]) -> Stmt:
    """Copy channel i of group g, from output row ``first`` on, into the parts, zeros around it."""
    n, g, i, first = at
    geometry = planes.geometry
    (stride_h, stride_w), top, left = geometry.strides, geometry.top, geometry.left

    def part(phase_h: int, phase_w: int) -> Stmt:
        index = phase_h * stride_w + phase_w
        begin = max(0, ceil_div(left - phase_w, stride_w))
        end = max(begin, min(planes.pitch, (geometry.width - 1 + left - phase_w) // stride_w + 1))

        def row(h: Expr) -> Stmt:
            line = (first + h) * stride_h + (phase_h - top)

            def zeros(low: int, high: int) -> Stmt | None:
                fill = lambda w: store(source, zero(), i, index, h * planes.pitch + low + w)  # noqa: E731
                return vector_loop(high - low, target.lanes, fill) if high > low else None

            def copy(w: Expr) -> Stmt:
                column = (begin + w) * stride_w + (phase_w - left)
                value = signature.data[n, g * geometry.group_in + i, line, column]
                return store(source, value, i, index, h * planes.pitch + begin + w)

            if begin == end:
                return block(zeros(0, planes.pitch))
            inside = block(zeros(0, begin), vector_loop(end - begin, target.lanes, copy), zeros(end, planes.pitch))
            reached = (geometry.out_height - planes.rows + planes.height - 1) * stride_h + phase_h - top
            if top == 0 and reached < geometry.height:
                return inside
            return tirx.IfThenElse(tirx.all(line >= 0, line < geometry.height), inside, zeros(0, planes.pitch))

        return loop(planes.height, row)

    return block(*(part(*phase) for phase in planes.phases))


def _tile(
    planes: _Planes, target: CpuTarget, signature: Signature, source: Any, result: Any, at: tuple[Expr, ...]
) -> Stmt:
    """One register tile: all taps of all input channels of group g for channel block o, tile t."""
    g, o, t = at
    geometry = planes.geometry
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.strides, geometry.dilation
    sums = buffer((planes.channels, planes.width), "sums", "local")

    def each(body: Any) -> Stmt:
        def vector(c: Expr, v: Expr) -> Stmt:
            return loop(target.lanes, lambda j: body(c, v * target.lanes + j), "vectorized")

        return nest((planes.channels, planes.width // target.lanes), vector, "unrolled")

    def step(i: Expr, kh: Expr, kw: Expr) -> Stmt:
        down, right = kh * dilation_h, kw * dilation_w
        part = (down % stride_h) * stride_w + right % stride_w
        shift = down // stride_h * planes.pitch + right // stride_w

        def add(c: Expr, lane: Expr) -> Stmt:
            value = source[i, part, t * planes.width + lane + shift]
            return store(sums, sums[c, lane] + signature.weights[g, o, i, kh, kw, c] * value, c, lane)

        return each(add)

    return block(
        allocate(sums),
        each(lambda c, lane: store(sums, zero(), c, lane)),
        nest((geometry.group_in, *geometry.kernel), step),
        each(lambda c, lane: store(result, sums[c, lane], c, t * planes.width + lane)),
    )


def _rows_out(planes: _Planes, target: CpuTarget, signature: Signature, result: Any, at: tuple[Expr, ...]) -> Stmt:
    """Store the rows of channel c of block o, after the epilogue."""
    n, g, o, c, first = at
    geometry = planes.geometry
    channel = o * planes.channels + c

    def row(h: Expr) -> Stmt:
        def finish(w: Expr) -> Stmt:
            where = (n, g * geometry.group_out + channel, first + h, w)
            return signature.finish(result[c, h * planes.pitch + w], *where)

        return vector_loop(geometry.out_width, target.lanes, finish)

    body = loop(planes.rows, row)
    if geometry.group_out % planes.channels == 0:
        return body
    return tirx.IfThenElse(channel < geometry.group_out, body, None)
