"""Operators that only move data: concat, split, transpose. (A reshape is a view: it needs no kernel.)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import Concat, NodeSpec, Split, Transpose
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import fits, operand_types, packed, result_types, with_ends
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.squares import transposed
from joulec.profiler.candidate import Work

VIEW_WORK = Work(0.0, 0.0)
"""What a view (a reshape) costs: nothing."""

_PIECE = 16 * 1024
"""Elements that one task copies of a long run."""
_SHORT = 1024
"""Rows up to so many elements are copied whole by one task."""
_DTYPES = {"float32", "float64", "int32", "int64"}


class _Movement:
    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Constants in the layout that is read."""
        return packed(spec, params, index, array)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Every element is loaded once and stored once."""
        return Work(0.0, spec.bytes, spec.bytes, spec.bytes)


class Copies(_Movement):
    """Concat and split: runs of consecutive elements copied between one whole and its parts.

    What a concat has in place is left alone. Along channels, whole blocks are as consecutive as whole planes.
    """

    name = "copies"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Concat | Split) or spec.epilogue or spec.results[0].dtype not in _DTYPES:
            return ()
        schedules: list[Params] = [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]
        types = [*(operand.type for operand in spec.operands), *spec.results]
        if spec.op.axis == 1 and all(type.dtype == "float32" and fits(type, target) for type in types):
            schedules.append(with_ends(schedules[0], target.lanes, target.lanes))
        return schedules

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        op = spec.op
        assert isinstance(op, Concat | Split)
        sources = [operand.type for operand in spec.operands]
        joins = isinstance(op, Concat)
        parts, whole = (sources, spec.results[0]) if joins else (spec.results, sources[0])
        rows = math.prod(whole.shape[: op.axis])
        lengths = [part.size // rows for part in parts]
        offsets = np.cumsum([0, *lengths]).tolist()
        row = offsets[-1]
        lanes = _lanes(spec, target)
        parallel = bool(dict(params)["parallel"])
        in_place = op.in_place if isinstance(op, Concat) else ()
        copied = [part for part in range(len(parts)) if not in_place or not in_place[part]]

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            small, large = (operands, results[0]) if joins else (results, operands[0])

            def copy(part: int, index: Any, begin: Any, length: int) -> None:
                def element(position: Any) -> None:
                    own = index * lengths[part] + begin + position
                    shared = index * row + offsets[part] + begin + position
                    if joins:
                        loops.store(large, shared, small[part][own])
                    else:
                        loops.store(small[part], own, large[shared])

                loops.vectors(length, lanes, element)

            def short(index: Any) -> None:
                for part in copied:
                    copy(part, index, 0, lengths[part])

            def runs(part: int) -> tuple[int, Callable[[Any], None]]:
                cuts = -(-lengths[part] // _PIECE)

                def run(index: Any) -> None:
                    cut = index % cuts if cuts > 1 else 0
                    loops.pieces(lengths[part], _PIECE, cut, lambda begin, size: copy(part, index // cuts, begin, size))

                return rows * cuts, run

            if row <= _SHORT:
                loops.repeat(rows, short, parallel)
                return
            ranges = [runs(part) for part in copied]
            if parallel:
                loops.repeat(sum(count for count, _ in ranges), lambda index: loops.either(index, ranges), True)
                return
            for count, run in ranges:
                loops.repeat(count, run)

        return loops.prim_func(operand_types(spec, params), result_types(spec, params), body)


class Permute(_Movement):
    """Transpose: runs copied where the last axis stays last, else square tiles transposed in registers."""

    name = "permute"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Transpose) or spec.epilogue or spec.results[0].dtype not in _DTYPES:
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        op = spec.op
        assert isinstance(op, Transpose)
        axes = permuted_axes(spec.operands[0].type.shape, op.permutation)
        parallel = bool(dict(params)["parallel"])
        lanes = _lanes(spec, target)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            if axes[-1][1] == 1:
                _copy_runs(operands[0], results[0], axes, lanes, target.threads if parallel else 1)
            else:
                _transpose_tiles(operands[0], results[0], axes, lanes, parallel)

        return loops.prim_func([spec.operands[0].type], spec.results, body)


def permuted_axes(shape: Sequence[int], permutation: Sequence[int]) -> list[tuple[int, int]]:
    """The result's axes as (extent, stride in the operand), merged where both sides run on."""
    strides = loops.row_major(shape)
    axes: list[tuple[int, int]] = []
    for axis in permutation:
        extent, stride = shape[axis], strides[axis]
        if extent == 1:
            continue
        if axes and axes[-1][1] == extent * stride:
            axes[-1] = (axes[-1][0] * extent, stride)
        else:
            axes.append((extent, stride))
    return axes or [(1, 1)]


def _lanes(spec: NodeSpec, target: CpuTarget) -> int:
    return max(1, target.lanes * 4 // np.dtype(spec.results[0].dtype).itemsize)


def _copy_runs(source: Any, result: Any, axes: Sequence[tuple[int, int]], lanes: int, threads: int) -> None:
    *outer, (extent, _) = axes
    extents = [axis[0] for axis in outer]
    rows = math.prod(extents)
    piece = loops.piece_size(extent, rows, lanes, threads)
    cuts = -(-extent // piece)

    def task(index: Any) -> None:
        row, cut = index // cuts, index % cuts if cuts > 1 else 0
        base = loops.ravel(loops.unravel(row, extents), [stride for _, stride in outer])

        def run(begin: Any, length: int) -> None:
            loops.vectors(
                length, lanes, lambda i: loops.store(result, row * extent + begin + i, source[base + begin + i])
            )

        loops.pieces(extent, piece, cut, run)

    loops.repeat(rows * cuts, task, threads > 1)


def _transpose_tiles(source: Any, result: Any, axes: Sequence[tuple[int, int]], lanes: int, parallel: bool) -> None:
    """The axis that is contiguous in the operand against the one that is contiguous in the result, tile by tile."""
    extents = [extent for extent, _ in axes]
    strides = [stride for _, stride in axes]
    own = loops.row_major(extents)
    inner = strides.index(1)
    others = [axis for axis in range(len(axes) - 1) if axis != inner]
    down, along = extents[inner], extents[-1]
    bands = -(-down // lanes)

    def task(index: Any) -> None:
        at = loops.unravel(index // bands, [extents[axis] for axis in others])
        reads = loops.ravel(at, [strides[axis] for axis in others])
        writes = loops.ravel(at, [own[axis] for axis in others])

        def band(begin: Any, height: int) -> None:
            def square(position: Any) -> None:
                column = position * lanes
                transposed(
                    lambda row: source[tirx.Ramp(reads + begin + (column + row) * strides[-1], 1, lanes)],
                    lambda row, value: loops.store(
                        result, tirx.Ramp(writes + (begin + row) * own[inner] + column, 1, lanes), value
                    ),
                    lanes,
                )

            squares = along // lanes if height == lanes and lanes > 1 else 0
            loops.repeat(squares, square)
            done = squares * lanes
            loops.repeat(
                height,
                lambda row: loops.vectors(
                    along - done,
                    lanes,
                    lambda i: loops.store(
                        result,
                        writes + (begin + row) * own[inner] + done + i,
                        source[reads + begin + row + (done + i) * strides[-1]],
                    ),
                ),
            )

        loops.pieces(down, lanes, index % bands if bands > 1 else 0, band)

    loops.repeat(math.prod(extents[axis] for axis in others) * bands, task, parallel)
