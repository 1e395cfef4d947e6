"""Pooling: rows of windows combined in vectors, then their columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import AvgPool2d, MaxPool2d, NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import ends, fits, packed, with_ends
from joulec.passes.kernels.epilogue import can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pool_windows import Row, combination, counts, is_global, runs, window_rows
from joulec.passes.kernels.pooling_blocked import blocked_global_pool, blocked_pool
from joulec.passes.layouts.layout import PLAIN
from joulec.profiler.candidate import Work

_MOST_STATEMENTS = 2048
"""Rows at the border are written out one by one; a pooling that needs more than this is left to TVM."""


class _Pool:
    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Constants in the layout of the result."""
        return packed(spec, params, index, array)


class GlobalPool(_Pool):
    """One value per plane: several vectors of partial results over its positions, then a tree."""

    name = "global_pool"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, MaxPool2d | AvgPool2d) or not can_apply(spec) or not is_global(spec):
            return ()
        schedules: list[Params] = [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]
        blocked = [with_ends(schedules[0], target.lanes, PLAIN)] if fits(spec.operands[0].type, target) else []
        return [*schedules, *blocked]

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: one task per plane, or per block of planes."""
        if ends(params)[0]:
            return blocked_global_pool(spec, params, target)
        batch, channels, *sides = spec.operands[0].type.shape
        plane = math.prod(sides)
        combine, neutral = combination(spec)
        width = target.lanes
        while width < 4 * target.lanes and plane >= 2 * width:
            width *= 2

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            data = operands[0]

            def task(index: Any) -> None:
                partial = loops.local(width)
                loops.vectors(width, width, lambda lane: loops.store(partial, lane, loops.f32(neutral)))

                def take(place: Any, lane: Any) -> None:
                    loops.store(partial, lane, combine(partial[lane], data[index * plane + place]))

                whole, rest = divmod(plane, width)
                loops.repeat(whole, lambda i: loops.vectors(width, width, lambda lane: take(i * width + lane, lane)))
                loops.vectors(rest, target.lanes, lambda lane: take(whole * width + lane, lane))
                value = loops.fold(partial, width, combine)
                if isinstance(spec.op, AvgPool2d):
                    value = value * loops.f32(1 / plane)
                fused = loops.epilogue_buffers(spec, operands)
                loops.store(results[0], index, loops.after_epilogue(spec, value, fused, index, index % channels))

            loops.repeat(batch * channels, task, bool(dict(params)["parallel"]))

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Every element is read once."""
        return Work(spec.flops, spec.bytes, spec.bytes, spec.bytes)


def _both(spec: NodeSpec, target: CpuTarget) -> bool:
    """Whether data and result have a blocked form, whose borders are not too many statements."""
    op = spec.op
    assert isinstance(op, MaxPool2d | AvgPool2d)
    columns = counts(spec.operands[0].type.shape[3], spec.results[0].shape[3], op, 1)
    statements = len(runs(window_rows(spec))) * len(runs(columns)) * op.kernel[0] * op.kernel[1]
    fitting = fits(spec.operands[0].type, target) and fits(spec.results[0], target)
    return fitting and statements <= _MOST_STATEMENTS


class Pool(_Pool):
    """Windows row by row: their rows are combined in vectors into a padded line, then its columns are.

    The line is the only place where padding exists. With a stride of two its even and odd elements are told apart in
    registers.
    """

    name = "pool"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        op = spec.op
        if not isinstance(op, MaxPool2d | AvgPool2d) or not can_apply(spec) or is_global(spec):
            return ()
        border = sum(len(row.inside) + op.kernel[1] for row in window_rows(spec) if len(row.inside) < op.kernel[0])
        if border + op.kernel[0] + op.kernel[1] > _MOST_STATEMENTS:
            return ()
        schedules: list[Params] = [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]
        blocked = [with_ends(schedules[0], target.lanes, target.lanes)] if _both(spec, target) else []
        return [*schedules, *blocked]

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: one task per plane."""
        if ends(params)[0]:
            return blocked_pool(spec, params, target)
        planes = math.prod(spec.results[0].shape[:2])

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            loops.repeat(planes, lambda plane: _Plane(spec, target.lanes, operands, results[0], plane).emit(),
                         bool(dict(params)["parallel"]))  # fmt: skip

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Window rows are read again per output row, from the cache; columns from the line, in the first level."""
        op = spec.op
        assert isinstance(op, MaxPool2d | AvgPool2d)
        batch, channels, out_h, out_w = spec.results[0].shape
        width = spec.operands[0].type.shape[3]
        rows = batch * channels * out_h
        flops = rows * (width * op.kernel[0] + out_w * op.kernel[1]) + len(spec.epilogue) * spec.results[0].size
        registers = 4 * rows * (width * (op.kernel[0] + 1) + out_w * (op.kernel[1] + 1))
        return Work(flops, spec.bytes, 4 * rows * width * min(op.kernel[0], op.strides[0]), registers)


class _Plane:
    """Emits one plane.

    The window rows of a block of output rows are combined before their columns are: stores into the lines are then
    done when loads need them. Narrow planes need more rows for that.
    """

    def __init__(self, spec: NodeSpec, lanes: int, operands: Sequence[Any], result: Any, plane: Any) -> None:
        op = spec.op
        assert isinstance(op, MaxPool2d | AvgPool2d)
        self.spec, self.op, self.lanes, self.result, self.plane = spec, op, lanes, result, plane
        self.data, self.fused = operands[0], loops.epilogue_buffers(spec, operands)
        self.channels = spec.results[0].shape[1]
        self.height, self.width = spec.operands[0].type.shape[2:]
        self.out_h, self.out_w = spec.results[0].shape[2:]
        self.combine, self.neutral = combination(spec)
        needed = (self.out_w - 1) * op.strides[1] + op.dilation[1] * (op.kernel[1] - 1) + 1
        self.left = op.padding[1]
        self.used = min(self.width, needed - self.left)
        self.pitch = -(-(needed + 2 * lanes * op.strides[1]) // lanes) * lanes
        self.columns = counts(self.width, self.out_w, op, 1)
        self.block = 4 if self.width <= 4 * lanes else 2

    def emit(self) -> None:
        """All rows, runs of equal ones in a loop."""
        self.lines = loops.local(self.block * self.pitch)
        self._clear_borders()
        self.scales = self._column_scales()
        for begin, count, row in runs(window_rows(self.spec)):
            full = len(row.inside) == self.op.kernel[0]
            self._run(begin, count, row) if full else self._border(begin, count, row)

    def _border(self, begin: int, count: int, row: Row) -> None:
        for index in range(count):
            self._block(begin + index, 1, row)

    def _run(self, begin: int, count: int, row: Row) -> None:
        whole, rest = divmod(count, self.block)
        loops.repeat(whole, lambda index: self._block(begin + index * self.block, self.block, row))
        if rest:
            self._block(begin + whole * self.block, rest, row)

    def _block(self, first: Any, count: int, row: Row) -> None:
        """``count`` output rows from ``first`` on, all of one kind."""
        for index in range(count):
            self._gather(first + index, index * self.pitch, row)
        for index in range(count):
            self._scatter(first + index, index * self.pitch, row)

    def _clear_borders(self) -> None:
        """Padding at the left and right of every line, and what vectors read beyond its end."""
        for line in range(self.block):
            for begin, length in ((0, self.left), (self.left + self.used, self.pitch - self.left - self.used)):
                self._fill(line * self.pitch + begin, length)

    def _fill(self, begin: int, length: int) -> None:
        loops.vectors(length, self.lanes, lambda i: loops.store(self.lines, begin + i, loops.f32(self.neutral)))

    def _column_scales(self) -> Any:
        """One over the number of columns averaged: a constant, or a line where border columns differ."""
        if isinstance(self.op, MaxPool2d):
            return None
        counts = [column.counted for column in self.columns]
        usual = max(set(counts), key=counts.count)
        if all(count == usual for count in counts):
            return 1 / usual
        scales = loops.local(-(-self.out_w // self.lanes) * self.lanes)
        loops.vectors(self.out_w, self.lanes, lambda i: loops.store(scales, i, loops.f32(1 / usual)))
        for place, count in enumerate(counts):
            if count != usual:
                loops.store(scales, place, loops.f32(1 / count if count else math.nan))
        return scales

    def _gather(self, out_row: Any, line: int, row: Row) -> None:
        """The rows of an output row's windows, combined, into a line."""
        top = out_row * self.op.strides[0] - self.op.padding[0]
        base = (self.plane * self.height + top) * self.width

        def element(place: Any) -> None:
            value = loops.f32(self.neutral) if not row.inside else None
            for index in row.inside:
                read = self.data[base + index * self.op.dilation[0] * self.width + place]
                value = read if value is None else self.combine(value, read)
            loops.store(self.lines, line + self.left + place, value)

        loops.vectors(self.used, self.lanes, element)

    def _scatter(self, out_row: Any, line: int, row: Row) -> None:
        """The columns of a line, combined, into an output row."""
        base = (self.plane * self.out_h + out_row) * self.out_w

        def finish(place: Any, value: Any) -> None:
            if self.scales is not None:
                rows = 1 / row.counted if row.counted else math.nan
                constant = isinstance(self.scales, float)
                value = value * loops.f32(rows * self.scales if constant else rows)
                value = value if constant else value * self.scales[place]
            channel = self.plane % self.channels
            done = loops.after_epilogue(self.spec, value, self.fused, base + place, channel)
            loops.store(self.result, base + place, done)

        stride, dilation = self.op.strides[1], self.op.dilation[1]

        def columns(read: Callable[[int], Any]) -> Any:
            value = read(0)
            for index in range(1, self.op.kernel[1]):
                value = self.combine(value, read(index * dilation))
            return value

        if stride != 2 or self.lanes == 1:
            loops.vectors(
                self.out_w,
                self.lanes,
                lambda i: finish(i, columns(lambda shift: self.lines[line + i * stride + shift])),
            )
            return
        pooled = loops.local(self.lanes)

        def chunk(begin: Any, width: int) -> None:
            whole = tirx.Ramp(0, 1, self.lanes)
            loops.store(pooled, whole, columns(lambda shift: self._every_other(line + begin * 2 + shift)))
            loops.vectors(width, width, lambda lane: finish(begin + lane, pooled[lane]))

        cuts = -(-self.out_w // self.lanes)
        loops.repeat(cuts, lambda index: loops.pieces(self.out_w, self.lanes, index, chunk))

    def _every_other(self, begin: Any) -> Any:
        """Elements begin, begin + 2, … of the lines: two vectors shuffled into one."""
        pair = [self.lines[tirx.Ramp(begin + half * self.lanes, 1, self.lanes)] for half in (0, 1)]
        return tirx.Shuffle(pair, [2 * lane for lane in range(self.lanes)])
