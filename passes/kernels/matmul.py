"""Matrix products: tiles of rows × vectors of columns kept in registers over the whole depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import MatMul, NodeSpec, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.epilogue import can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work


@dataclass(frozen=True)
class Product:
    """The sizes of a[rows, depth] times b[depth, columns]."""

    rows: int
    depth: int
    columns: int

    @staticmethod
    def fused(spec: NodeSpec) -> Product:
        """One product of all rows: the right operand is a single matrix."""
        *lead, rows, columns = spec.results[0].shape
        return Product(math.prod(lead) * rows, spec.operands[0].type.shape[-1], columns)

    @staticmethod
    def single(spec: NodeSpec) -> Product:
        """One product of the batch."""
        return Product(spec.results[0].shape[-2], spec.operands[0].type.shape[-1], spec.results[0].shape[-1])


def tiles(product: Product, target: CpuTarget) -> list[tuple[int, int]]:
    """(rows, vectors) of the register tiles worth trying: accumulators, one row of b and one element of a fit."""
    vectors = -(-product.columns // target.lanes)
    if product.rows == 1:
        widths = [width for width in (4, 8, 2, 1) if width <= vectors]
        busy = [width for width in widths if -(-vectors // width) >= target.threads]
        return [(1, width) for width in (busy or widths[-1:])][:3]
    most = {width: (target.registers - 1 - width) // width for width in (1, 2, 3, 4) if width <= vectors}
    shapes = [(_even(product.rows, min(height, product.rows)), width) for width, height in most.items()]
    return sorted(shapes, key=lambda shape: -shape[0] * shape[1] / (shape[0] + shape[1]))[:3]


def _even(rows: int, most: int) -> int:
    """The tile height up to ``most`` that leaves the last tile fullest, in at most a tenth more tiles."""
    fewest = -(-rows // most)
    heights = [height for height in range(1, most + 1) if -(-rows // height) <= math.ceil(fewest * 1.1)]
    return min(heights, key=lambda height: (-(-rows // height) * height - rows, -height))


@dataclass(frozen=True)
class Matrix:
    """A matrix inside a flat buffer: element (i, j) lies at ``base + i * stride + j``."""

    buffer: Any
    base: Any
    stride: int

    def moved(self, row: Any, column: Any) -> Matrix:
        """The part that begins at (row, column)."""
        return Matrix(self.buffer, self.base + row * self.stride + column, self.stride)


def emit_tile(
    rows: int,
    columns: int,
    lanes: int,
    depth: int,
    left: Matrix,
    right: Matrix,
    keep: Callable[[int, Any, Any], None],
    stored: int | None = None,
    initial: Matrix | None = None,
) -> None:
    """One register tile: the first rows of a times the first columns of b.

    Args:
        rows: its height.
        columns: its width; a last vector may be shorter than the others.
        lanes: elements of a whole vector.
        depth: length of the sums.
        left: a.
        right: b.
        keep: takes (row, column, sum).
        stored: how many of the columns are kept; all when None.
        initial: what the sums start from; zeros when None.
    """
    sums = [loops.local(-(-columns // lanes) * lanes) for _ in range(rows)]
    vectors = [(begin, min(lanes, columns - begin)) for begin in range(0, columns, lanes)]
    left_base, right_base = loops.bind(left.base), loops.bind(right.base)
    start = loops.bind(initial.base) if initial else 0
    for row in range(rows):
        for begin, width in vectors:
            value = loops.splat(loops.f32(0), width)
            if initial:
                value = initial.buffer[loops.run(start + (row * initial.stride + begin), width)]
            loops.store(sums[row], loops.run(begin, width), value)

    def step(k: Any) -> None:
        across, down = loops.bind(left_base + k), loops.bind(right_base + k * right.stride)
        for row in range(rows):
            factor = left.buffer[across + row * left.stride]
            for begin, width in vectors:
                place = loops.run(begin, width)
                product = loops.splat(factor, width) * right.buffer[loops.run(down + begin, width)]
                loops.store(sums[row], place, sums[row][place] + product)

    loops.repeat(depth, step)
    for row in range(rows):
        loops.vectors(stored or columns, lanes, lambda i, row=row: keep(row, i, sums[row][i]))  # type: ignore[misc]


def is_packable(spec: NodeSpec) -> bool:
    """Whether it is a product whose right operand is one constant matrix."""
    if not isinstance(spec.op, MatMul):
        return False
    right = spec.operands[1]
    return right.constant and right.type.size == math.prod(right.type.shape[-2:])


class PackedMatmul:
    """Product with a constant right operand.

    The constant is packed into panels of a few vectors of columns over the whole depth, so that every task streams
    its own part of memory once, in order. With one row this is bound by memory alone.
    """

    name = "packed_matmul"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Tile shapes, each over the whole depth or in blocks of it that stay in the second-level cache."""
        if not can_apply(spec) or not is_packable(spec):
            return ()
        product = Product.fused(spec)
        choices = loops.spread(target, spec.bytes + spec.flops // 8)
        found: list[Params] = []
        for place, (rows, vectors) in enumerate(tiles(product, target)):
            panel = 4 * product.depth * vectors * target.lanes
            depths = [product.depth]
            if place == 0 and product.rows > rows and panel > target.l2_bytes // 4:
                depths.append(max(256, target.l1_bytes // (4 * vectors * target.lanes) * 4))
            found.extend(
                (("rows", rows), ("vectors", vectors), ("depth", depth), ("parallel", choice))
                for depth in depths
                for choice in choices
            )
        return found

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The right operand in panels: for each, all depth, then its columns, zeros beyond the last."""
        if index != 1:
            return np.ascontiguousarray(array).reshape(array.shape)
        op = spec.op
        assert isinstance(op, MatMul)
        matrix: npt.NDArray[Any] = array.reshape(array.shape[-2:])
        matrix = matrix.T if op.transpose_b else matrix
        depth, columns = Product.fused(spec).depth, Product.fused(spec).columns
        padded = np.zeros((depth, -(-columns // target.lanes) * target.lanes), matrix.dtype)
        padded[:, :columns] = matrix
        width = dict(params)["vectors"] * target.lanes
        whole = padded.shape[1] // width * width
        panels = padded[:, :whole].reshape(depth, -1, width).transpose(1, 0, 2)
        return np.concatenate([panels.reshape(-1), padded[:, whole:].reshape(-1)])

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        chosen = dict(params)
        product = Product.fused(spec)
        lanes, height, wide = target.lanes, chosen["rows"], chosen["vectors"]
        vectors = -(-product.columns // lanes)
        band = _band(product, chosen, target)
        packed = TensorType((product.depth * vectors * lanes,))
        types = [packed if index == 1 else operand.type for index, operand in enumerate(spec.operands)]
        panels = -(-vectors // wide)
        per_channel, channels = spec.results[0].shape[-2], spec.results[0].shape[1]
        per_channel = per_channel if len(spec.results[0].shape) == 4 else 0

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            fused = loops.epilogue_buffers(spec, operands)

            def panel(first_row: Any, count: int, first: Any, width: int, valid: int) -> None:
                """``width`` vectors of columns from vector ``first`` on, of which ``valid`` columns exist."""

                def finish(top: Any) -> Callable[[Any, Any, Any], None]:
                    line = loops.bind(first_row + top)
                    column = loops.bind(first * lanes)
                    corner = loops.bind(line * product.columns + column)

                    def store(row: Any, along: Any, value: Any) -> None:
                        offset = corner + row * product.columns + along
                        channel = (line + row) // per_channel % channels if per_channel else column + along
                        loops.store(results[0], offset, loops.after_epilogue(spec, value, fused, offset, channel))

                    return store

                left = Matrix(operands[0], first_row * product.depth, product.depth)
                right = Matrix(operands[1], first * (lanes * product.depth), width * lanes)
                multiply = _Multiply(left, right, product.depth, lanes, width * lanes, valid)
                multiply.rows(count, height, chosen["depth"], finish)

            def task(index: Any) -> None:
                column, row = index % panels if panels > 1 else 0, index // panels
                full = product.columns // (wide * lanes)
                rest = vectors - full * wide

                def of_band(begin: Any, count: int) -> None:
                    loops.either(
                        column,
                        [
                            (full, lambda which: panel(begin, count, which * wide, wide, wide * lanes)),
                            (
                                panels - full,
                                lambda _: panel(begin, count, full * wide, rest, product.columns - full * wide * lanes),
                            ),
                        ],
                    )

                loops.pieces(product.rows, band, row, of_band)

            loops.repeat(panels * -(-product.rows // band), task, bool(chosen["parallel"]))

        return loops.prim_func(types, spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Panels come from memory once, rows once per panel, both once per tile from the second-level cache."""
        chosen = dict(params)
        product = Product.fused(spec)
        columns = -(-product.columns // target.lanes) * target.lanes
        weights = 4 * product.depth * columns
        panels = -(-columns // (chosen["vectors"] * target.lanes))
        tiled = -(-product.rows // chosen["rows"])
        flops = 2 * product.rows * product.depth * columns + len(spec.epilogue) * spec.results[0].size
        moved = spec.bytes - spec.operands[1].type.bytes + weights
        cached = weights * tiled + 4 * product.rows * product.depth * panels
        registers = weights * tiled + 4 * product.rows * product.depth * columns / target.lanes
        return Work(flops, moved, cached, registers)


def _band(product: Product, chosen: dict[str, int], target: CpuTarget) -> int:
    """Rows of one task: what the second-level cache holds, less where threads would lack tasks; whole tiles."""
    height = chosen["rows"]
    held = max(1, target.l2_bytes // 2 // (4 * chosen["depth"]))
    if chosen["parallel"]:
        panels = -(-product.columns // (chosen["vectors"] * target.lanes))
        held = min(held, -(-product.rows * panels // (loops.TASKS_PER_THREAD * target.threads)))
    return min(product.rows, -(-held // height) * height)


Finish = Callable[[Any], Callable[[Any, Any, Any], None]]
"""For the tile that begins at a row: takes (row in it, column, sum)."""


@dataclass(frozen=True)
class _Multiply:
    """Rows of a times one packed panel of some columns, of which ``valid`` exist."""

    left: Matrix
    right: Matrix
    depth: int
    lanes: int
    columns: int
    valid: int

    def rows(self, count: int, height: int, block: int, finish: Finish) -> None:
        """``count`` rows in tiles of ``height``, the depth in blocks."""
        if block >= self.depth:
            self._tiles(count, height, 0, self.depth, finish, None)
            return
        sums = Matrix(loops.workspace(count * self.columns), 0, self.columns)
        loops.vectors(count * self.columns, self.lanes, lambda i: loops.store(sums.buffer, i, loops.f32(0)))

        def back(top: Any) -> Callable[[Any, Any, Any], None]:
            corner = loops.bind(top * self.columns)
            return lambda row, column, value: loops.store(sums.buffer, corner + row * self.columns + column, value)

        def block_of(index: Any) -> None:
            loops.pieces(
                self.depth, block, index, lambda begin, length: self._tiles(count, height, begin, length, back, sums)
            )

        def out(row: Any) -> None:
            keep = finish(row)
            begin = loops.bind(row * self.columns)
            loops.vectors(self.valid, self.lanes, lambda column: keep(0, column, sums.buffer[begin + column]))

        loops.repeat(-(-self.depth // block), block_of)
        loops.repeat(count, out)

    def _tiles(self, count: int, height: int, begin: Any, length: int, finish: Finish, sums: Matrix | None) -> None:
        def tile(top: Any, rows: int) -> None:
            emit_tile(
                rows,
                self.columns,
                self.lanes,
                length,
                self.left.moved(top, begin),
                self.right.moved(begin, 0),
                finish(top),
                None if sums else self.valid,
                sums.moved(top, 0) if sums else None,
            )

        whole, rest = divmod(count, height)
        loops.repeat(whole, lambda index: tile(index * height, height))
        if rest:
            tile(whole * height, rest)
