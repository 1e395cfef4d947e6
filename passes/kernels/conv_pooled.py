"""Direct convolution whose rows are pooled while they are in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from joulec.passes.graph import NodeSpec, PooledConv2d
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_tir import (
    Expr,
    Geometry,
    Signature,
    Stmt,
    allocate,
    block,
    buffer,
    ceil_div,
    chosen,
    loop,
    nest,
    padded_source,
    parallel,
    start,
    store,
    zero,
)
from joulec.passes.kernels.epilogue import can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pooled_spec import convolution_of
from joulec.profiler.candidate import Work

_TILES = 2
"""Register tiles that are tried, out of those that `DirectConv` ranks first."""
_TASKS = (4, 8)
"""Into how many tasks per thread the planes are cut: more of them balance better, and compute more rows twice."""


class PooledConv:
    """Any convolution under a maximum pooling whose windows leave no gaps.

    A task computes a strip of pooled rows of one block of channels. The rows of the convolution that it needs stay in
    the cache, channels fastest, so that pooling takes whole vectors; only what is pooled is turned to NCHW. Rows at
    which two strips meet are computed by both.
    """

    name = "pooled_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """The best tiles of one row, each with strips of a few heights."""
        if not isinstance(spec.op, PooledConv2d) or not can_apply(spec) or not spec.operands[1].constant:
            return ()
        pool, inner = spec.op.pooling, convolution_of(spec)
        if pool.dilation != (1, 1) or any(k < s for k, s in zip(pool.kernel, pool.strides, strict=True)):
            return ()
        found: dict[Params, None] = {}
        tiles = [dict(tile) for tile in DirectConv().schedules(inner, target) if dict(tile)["rows"] == 1]
        for tile in tiles[:_TILES]:
            for tasks in _TASKS:
                plan = _Plan.of(spec, tile["vectors"], tile["columns"], 1, target)
                strips = ceil_div(tasks * target.threads, plan.geometry.batch * plan.geometry.groups * plan.blocks)
                strip = ceil_div(plan.height, min(strips, plan.height))
                plan = _Plan.of(spec, tile["vectors"], tile["columns"], strip, target)
                if 4 * plan.rows * plan.width * plan.channels <= target.l2_bytes // 2:
                    found[(("vectors", tile["vectors"]), ("columns", tile["columns"]), ("strip", strip))] = None
        return tuple(found)

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as `DirectConv` reads it; other operands as they are."""
        if index != 1:
            return np.ascontiguousarray(array).reshape(array.shape)
        return DirectConv().pack(convolution_of(spec), params, target, index, array)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = _Plan.chosen(spec, params, target)
        return _Emitter(spec, plan, target).function()

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Rows at which strips meet count twice."""
        plan, geometry = _Plan.chosen(spec, params, target), Geometry.required(convolution_of(spec))
        tasks = geometry.batch * geometry.groups * plan.blocks * ceil_div(plan.height, plan.strip)
        tiles = tasks * plan.rows * ceil_div(plan.used, plan.columns)
        sums = tiles * plan.columns * plan.channels
        window = int(np.prod(plan.op.pooling.kernel))
        pooled = tasks * plan.strip * spec.results[0].shape[3] * plan.channels
        copied = 4 * geometry.batch * geometry.channels * int(np.prod(geometry.padded)) if geometry.needs_padding else 0
        return Work(
            flops=2 * sums * geometry.taps + pooled * window + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes,
            cache_bytes=2 * copied + 4 * tiles * geometry.taps * plan.channels + 8 * sums,
            register_bytes=4 * tiles * geometry.taps * (plan.channels + plan.columns) + 4 * (sums + pooled * window),
        )


@dataclass(frozen=True)
class _Plan:
    """A schedule with what follows from it.

    Attributes:
        op: what is computed.
        geometry: of the convolution.
        channels: output channels of a task.
        columns: of a register tile.
        strip: pooled rows of a task.
        height: pooled rows of a plane.
        width: columns of the padded rows that windows touch.
        used: those of them that the convolution computes.
    """

    op: PooledConv2d
    geometry: Geometry
    vectors: int
    channels: int
    columns: int
    strip: int
    height: int
    width: int
    used: int

    @staticmethod
    def of(spec: NodeSpec, vectors: int, columns: int, strip: int, target: CpuTarget) -> _Plan:
        assert isinstance(spec.op, PooledConv2d)
        pool, geometry = spec.op.pooling, Geometry.required(convolution_of(spec))
        _, _, height, pooled = spec.results[0].shape
        width = (pooled - 1) * pool.strides[1] + pool.kernel[1]
        used = min(geometry.out_width, width - pool.padding[1])
        return _Plan(spec.op, geometry, vectors, vectors * target.lanes, min(columns, used), strip, height, width, used)

    @staticmethod
    def chosen(spec: NodeSpec, params: Params, target: CpuTarget) -> _Plan:
        parts = chosen(params)
        return _Plan.of(spec, parts["vectors"], parts["columns"], parts["strip"], target)

    @property
    def blocks(self) -> int:
        """Blocks of channels of a group."""
        return ceil_div(self.geometry.group_out, self.channels)

    @property
    def overlap(self) -> int:
        """Rows that neighbouring windows share."""
        return self.op.pooling.kernel[0] - self.op.pooling.strides[0]

    @property
    def rows(self) -> int:
        """Rows of the convolution that a strip needs."""
        return self.strip * self.op.pooling.strides[0] + self.overlap


class _Emitter:
    """Emits the loops."""

    def __init__(self, spec: NodeSpec, plan: _Plan, target: CpuTarget) -> None:
        geometry = plan.geometry
        self.plan, self.geometry, self.lanes = plan, geometry, target.lanes
        self.team = geometry.team(target)
        packed = (geometry.groups, plan.blocks, geometry.group_in, *geometry.kernel, plan.channels)
        self.signature = Signature.of(spec, packed)
        self.source, self.prepare = padded_source(geometry, self.team, self.signature)
        self.pooled = spec.results[0].shape[3]

    def function(self) -> Any:
        """The PrimFunc: tasks are (image, group, strip, block of channels)."""
        plan, geometry = self.plan, self.geometry
        extents = (geometry.batch, geometry.groups, ceil_div(plan.height, plan.strip), plan.blocks)
        return self.signature.function(*self.prepare, parallel(self.team, extents, self._strip))

    def _strip(self, n: Expr, g: Expr, t: Expr, o: Expr) -> Stmt:
        """Rows are pooled as soon as they are there."""
        plan, pool = self.plan, self.plan.op.pooling
        lines = buffer((plan.rows, plan.width, plan.channels), "lines")
        first = start(t, plan.height, plan.strip)
        top = first * pool.strides[0] - pool.padding[0]

        def line(index: Expr) -> Stmt:
            return self._line(n, g, o, lines, index, top + index)

        def pooled(p: Expr) -> Stmt:
            fresh = loop(pool.strides[0], lambda r: line(p * pool.strides[0] + plan.overlap + r))
            return block(fresh, self._pool(n, g, o, lines, p, first + p))

        before = loop(plan.overlap, line) if plan.overlap else None
        return block(allocate(lines), before, loop(plan.strip, pooled))

    def _line(self, n: Expr, g: Expr, o: Expr, lines: Any, index: Expr, row: Expr) -> Stmt:
        """One row of the convolution, with what no maximum takes around it."""
        plan, geometry = self.plan, self.geometry
        left = plan.op.pooling.padding[1]
        lowest = tirx.const(-math.inf, "float32")

        def empty(begin: int, count: int) -> Stmt | None:
            if count <= 0:
                return None
            return loop(count, lambda c: self._lanes(lambda lane: store(lines, lowest, index, begin + c, lane)))

        tiles = ceil_div(plan.used, plan.columns)
        computed = block(
            empty(0, left),
            loop(tiles, lambda q: self._tile(n, g, o, lines, index, row, start(q, plan.used, plan.columns))),
            empty(left + plan.used, plan.width - left - plan.used),
        )
        pool = plan.op.pooling
        last = (plan.height - 1) * pool.strides[0] + pool.kernel[0] - pool.padding[0]
        if pool.padding[0] == 0 and last <= geometry.out_height:
            return computed
        return tirx.IfThenElse(tirx.all(row >= 0, row < geometry.out_height), computed, empty(0, plan.width))

    def _lanes(self, body: Callable[[Expr], Stmt]) -> Stmt:
        def vector(v: Expr) -> Stmt:
            return loop(self.lanes, lambda i: body(v * self.lanes + i), "vectorized")

        return loop(self.plan.vectors, vector, "unrolled")

    def _tile(self, n: Expr, g: Expr, o: Expr, lines: Any, index: Expr, row: Expr, column: Expr) -> Stmt:
        """Columns of one row of a block of channels, in registers during the whole reduction."""
        plan, geometry = self.plan, self.geometry
        sums = buffer((plan.columns, plan.channels), "sums", "local")

        def each(body: Callable[[Expr, Expr], Stmt]) -> Stmt:
            return loop(plan.columns, lambda c: self._lanes(lambda lane: body(c, lane)), "unrolled")

        def step(i: Expr, kh: Expr, kw: Expr) -> Stmt:
            def add(c: Expr, lane: Expr) -> Stmt:
                down = row * geometry.strides[0] + kh * geometry.dilation[0]
                across = (column + c) * geometry.strides[1] + kw * geometry.dilation[1]
                value = self.source[n, g * geometry.group_in + i, down, across]
                product = value * self.signature.weights[g, o, i, kh, kw, lane]
                return store(sums, sums[c, lane] + product, c, lane)

            return each(add)

        left = plan.op.pooling.padding[1]
        return block(
            allocate(sums),
            each(lambda c, lane: store(sums, zero(), c, lane)),
            nest((geometry.group_in, *geometry.kernel), step),
            each(lambda c, lane: store(lines, sums[c, lane], index, left + column + c, lane)),
        )

    def _pool(self, n: Expr, g: Expr, o: Expr, lines: Any, p: Expr, row: Expr) -> Stmt:
        """One pooled row: maxima by vectors of channels, turned to NCHW chunk by chunk."""
        plan, geometry, pool = self.plan, self.geometry, self.plan.op.pooling
        chunk = min(self.lanes, self.pooled)
        turned = buffer((chunk, plan.channels), "turned")

        def compute(q: Expr) -> Stmt:
            begin = start(q, self.pooled, chunk)

            def maximum(c: Expr, lane: Expr) -> Stmt:
                window = [
                    lines[p * pool.strides[0] + kh, (begin + c) * pool.strides[1] + kw, lane]
                    for kh in range(pool.kernel[0])
                    for kw in range(pool.kernel[1])
                ]
                value = window[0]
                for other in window[1:]:
                    value = te.max(value, other)
                return store(turned, value, c, lane)

            def out(lane: Expr) -> Stmt:
                channel = o * plan.channels + lane
                where = (n, g * geometry.group_out + channel, row)
                body = loop(chunk, lambda c: self.signature.finish(turned[c, lane], *where, begin + c), "vectorized")
                if geometry.group_out % plan.channels == 0:
                    return body
                return tirx.IfThenElse(channel < geometry.group_out, body, None)

            return block(
                loop(chunk, lambda c: self._lanes(lambda lane: maximum(c, lane))),
                loop(plan.channels, out),
            )

        return block(allocate(turned), loop(ceil_div(self.pooled, chunk), compute))
