"""Matrix products of two run-time operands (or a batch of constant ones), with leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import MatMul, NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.epilogue import can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.matmul import Matrix, Product, emit_tile, is_packable, tiles
from joulec.profiler.candidate import Work


class Matmul:
    """Product whose right operand is read as it is, or, where it is stored transposed, turned panel by panel."""

    name = "matmul"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Tile shapes, on one thread or all."""
        if not isinstance(spec.op, MatMul) or not can_apply(spec) or is_packable(spec):
            return ()
        return [
            (("rows", rows), ("vectors", vectors), ("parallel", choice))
            for rows, vectors in tiles(_product(spec), target)[:2]
            for choice in loops.spread(target, spec.bytes + spec.flops // 8)
        ]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: one task per product and panel of columns."""
        op = spec.op
        assert isinstance(op, MatMul)
        chosen = dict(params)
        product, lead = _product(spec), _lead(spec)
        lanes, height = target.lanes, chosen["rows"]
        width = chosen["vectors"] * lanes
        shape = spec.results[0].shape
        areas = (product.rows * product.depth, product.depth * product.columns)
        steps = [_batch_strides(spec, index, area) for index, area in enumerate(areas)]

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            left, right = operands[:2]
            fused = loops.epilogue_buffers(spec, operands)

            def panel(batch: Any, first: Any, columns: int) -> None:
                at = loops.unravel(batch, lead)
                of_left, of_right = (loops.ravel(at, stride) for stride in steps)
                matrix = _right(op, Matrix(right, of_right, product.columns), first, product, columns)

                def tile(top: Any, rows: int) -> None:
                    line = loops.bind(batch * product.rows + top)
                    corner = loops.bind(line * product.columns + first)
                    start = loops.bind(first)

                    def keep(row: int, along: Any, value: Any) -> None:
                        offset = corner + row * product.columns + along
                        channel = (line + row) // shape[2] % shape[1] if len(shape) == 4 else start + along
                        loops.store(results[0], offset, loops.after_epilogue(spec, value, fused, offset, channel))

                    emit_tile(
                        rows,
                        columns,
                        lanes,
                        product.depth,
                        Matrix(left, of_left, product.depth).moved(top, 0),
                        matrix,
                        keep,
                    )

                whole, rest = divmod(product.rows, height)
                loops.repeat(whole, lambda index: tile(index * height, height))
                if rest:
                    tile(whole * height, rest)

            panels = -(-product.columns // width)

            def task(index: Any) -> None:
                which = index % panels if panels > 1 else 0
                loops.pieces(
                    product.columns, width, which, lambda first, columns: panel(index // panels, first, columns)
                )

            loops.repeat(math.prod(lead) * panels, task, bool(chosen["parallel"]))

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """The right operand is read once per tile of rows, the left once per panel."""
        chosen = dict(params)
        product, batch = _product(spec), math.prod(_lead(spec))
        tiled = -(-product.rows // chosen["rows"])
        panels = -(-product.columns // (chosen["vectors"] * target.lanes))
        right = 4 * batch * product.depth * product.columns * tiled
        left = 4 * batch * product.rows * product.depth
        registers = right + left * product.columns / target.lanes
        return Work(spec.flops, spec.bytes, right + left * panels, registers)


def _own_lead(spec: NodeSpec, index: int) -> tuple[int, ...]:
    return spec.operands[index].type.shape[:-2]


def _product(spec: NodeSpec) -> Product:
    return Product.single(spec) if _lead(spec) else Product.fused(spec)


def _lead(spec: NodeSpec) -> tuple[int, ...]:
    """The leading dimensions that stay a loop; none where all rows meet one right matrix."""
    single = math.prod(_own_lead(spec, 1)) == 1
    return () if single else spec.results[0].shape[:-2]


def _batch_strides(spec: NodeSpec, index: int, area: int) -> list[int]:
    """How far a step along each leading dimension of the result moves in an operand: 0 where it is broadcast."""
    lead, own = _lead(spec), _own_lead(spec, index)
    if not lead:
        return []
    strides = [stride * area if extent > 1 else 0 for stride, extent in zip(loops.row_major(own), own, strict=True)]
    return [0] * (len(lead) - len(own)) + strides


def _right(op: MatMul, right: Matrix, first: Any, product: Product, columns: int) -> Matrix:
    """A panel of b; a transposed matrix is first turned into a workspace of the task."""
    if not op.transpose_b:
        return right.moved(0, first)
    turned = loops.workspace(product.depth * columns)

    def turn(column: Any) -> None:
        source = loops.bind(right.base + (first + column) * product.depth)
        loops.repeat(product.depth, lambda k: loops.store(turned, k * columns + column, right.buffer[source + k]))

    loops.repeat(columns, turn)
    return Matrix(turned, 0, columns)
