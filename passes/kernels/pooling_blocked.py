"""Pooling of blocked activations: a vector of channels per position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from joulec.passes.graph import AvgPool2d, MaxPool2d, NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import operand_types, result_types
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pool_windows import Row, combination, counts, runs, window_rows


def blocked_pool(spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
    """Windows of a block of channels, position by position; tasks are (image, block, output row)."""
    op, lanes = spec.op, target.lanes
    assert isinstance(op, MaxPool2d | AvgPool2d)
    batch, channels, out_h, out_w = spec.results[0].shape
    height, width = spec.operands[0].type.shape[2:]
    blocks = channels // lanes
    rows, columns = runs(window_rows(spec)), runs(counts(width, out_w, op, 1))
    combine, neutral = combination(spec)

    def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
        data, fused = operands[0], loops.epilogue_buffers(spec, operands)

        def window(plane: Any, at: tuple[Any, Any], row: Row, column: Row) -> None:
            top = at[0] * op.strides[0] - op.padding[0]
            corner = loops.bind((plane * height + top) * width + at[1] * op.strides[1] - op.padding[1])
            value: Any = None
            for i in row.inside:
                for j in column.inside:
                    place = corner + (i * op.dilation[0] * width + j * op.dilation[1])
                    read = data[loops.run(place * lanes, lanes)]
                    value = read if value is None else combine(value, read)
            if value is None:
                value = loops.splat(loops.f32(neutral), lanes)
            if isinstance(op, AvgPool2d):
                counted = row.counted * column.counted
                value = value * loops.splat(loops.f32(1 / counted if counted else math.nan), lanes)
            offset = loops.bind(((plane * out_h + at[0]) * out_w + at[1]) * lanes)
            loops.finish_vector(spec, value, fused, (results[0], offset, plane % blocks * lanes), lanes)

        def line(plane: Any, y: Any, row: Row) -> None:
            for begin, count, column in columns:

                def position(x: Any, begin: int = begin, column: Row = column) -> None:
                    window(plane, (y, begin + x), row, column)

                loops.repeat(count, position)

        def task(index: Any) -> None:
            plane = loops.bind(index // out_h)
            ranges = [
                (count, lambda y, begin=begin, row=row: line(plane, loops.bind(begin + y), row))
                for begin, count, row in rows
            ]
            loops.either(index % out_h, ranges)

        loops.repeat(batch * blocks * out_h, task, bool(dict(params)["parallel"]))

    return loops.prim_func(operand_types(spec, params), result_types(spec, params), body)


def blocked_global_pool(spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
    """One value per plane: several vectors of partial results over its positions; tasks are blocks."""
    batch, channels, *sides = spec.operands[0].type.shape
    plane, lanes = math.prod(sides), target.lanes
    combine, neutral = combination(spec)
    sums = min(4, plane)

    def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
        data, fused = operands[0], loops.epilogue_buffers(spec, operands)

        def task(index: Any) -> None:
            partial = [loops.local(lanes) for _ in range(sums)]
            own = loops.run(0, lanes)
            for one in partial:
                loops.store(one, own, loops.splat(loops.f32(neutral), lanes))

            def take(place: Any, one: Any) -> None:
                read = data[loops.run((index * plane + place) * lanes, lanes)]
                loops.store(one, own, combine(one[own], read))

            whole, rest = divmod(plane, sums)

            def some(i: Any) -> None:
                for k, one in enumerate(partial):
                    take(i * sums + k, one)

            loops.repeat(whole, some)
            for k in range(rest):
                take(whole * sums + k, partial[k])
            total = partial[0][own]
            for one in partial[1:]:
                total = combine(total, one[own])
            if isinstance(spec.op, AvgPool2d):
                total = total * loops.splat(loops.f32(1 / plane), lanes)
            channel = index % (channels // lanes) * lanes
            loops.finish_vector(spec, total, fused, (results[0], index * lanes, channel), lanes)

        loops.repeat(batch * channels // lanes, task, bool(dict(params)["parallel"]))

    return loops.prim_func(operand_types(spec, params), spec.results, body)
