"""Integer matrix products: register tiles of rows × vectors of columns, exact in int32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.integer_dot import DEEPEST, Words, words_of
from joulec.passes.kernels.integer_product import IntegerProduct
from joulec.passes.kernels.integer_store import Parameters
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.matmul import Product, tiles
from joulec.profiler.candidate import Work


class IntegerMatmul:
    """Products of bytes with a constant right operand: MatMulInteger and QLinearMatMul.

    First each row is joined to words; then tasks (panel of columns, band of rows) multiply words. The constant is
    packed into panels of a few vectors of columns over the whole depth.
    """

    name = "integer_matmul"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Each kind of words with the likelier tiles, on one thread or all."""
        product = IntegerProduct.of(spec)
        if product is None or product.is_conv or product.depth > DEEPEST or not spec.results[0].size:
            return ()
        sizes = _sizes(spec, product)
        choices = loops.spread(target, spec.bytes + sizes.rows * sizes.depth * sizes.columns // 8)
        return [
            (("group", words.group), ("rows", rows), ("vectors", vectors), ("parallel", choice))
            for words in words_of(target)
            for rows, vectors in tiles(sizes, target)[:2]
            for choice in choices
        ]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The right operand's words as [panels, words of depth, columns], then what sums need."""
        if index != 1:
            return np.ascontiguousarray(array).reshape(array.shape)
        plan = _Plan.of(spec, params, target)
        product, words, depth = plan.product, plan.words, plan.sizes.depth
        offset = words.weight_offset(product.weight_type)
        matrix = array.reshape(depth, plan.sizes.columns).astype(np.int32)
        zeros = product.per_channel(product.weight_zeros).astype(np.int32)
        moved = matrix + offset if words.keeps_zero_points else matrix - zeros
        padded = np.pad(moved, ((0, plan.depth * words.group - depth), (0, plan.columns - plan.sizes.columns)))
        joined = words.joined(padded.reshape(plan.depth, words.group, plan.columns).transpose(0, 2, 1))[..., 0]
        whole = plan.columns // plan.width * plan.width
        panels = joined[:, :whole].reshape(plan.depth, -1, plan.width).transpose(1, 0, 2)
        flat = np.concatenate([panels.reshape(-1), joined[:, whole:].reshape(-1)])
        return plan.parameters.packed(flat, matrix.sum(axis=0, dtype=np.int32) - depth * zeros)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = _Plan.of(spec, params, target)
        types = [operand.type for operand in spec.operands]
        types[1] = TensorType((plan.parameters.size,), plan.words.dtype)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            _Emitter(plan, operands, results[0]).emit()

        return loops.prim_func(types, spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """A multiplication of words counts as one of numbers; panels come from memory once."""
        plan = _Plan.of(spec, params, target)
        weights, rows = plan.words.bytes * plan.depth * plan.columns, plan.sizes.rows
        tiled = -(-rows // plan.rows)
        panels = -(-plan.columns // plan.width)
        moved = spec.bytes - spec.operands[1].type.bytes + weights
        made = plan.words.bytes * rows * plan.depth
        return Work(
            flops=2 * rows * plan.depth * plan.columns + 2 * spec.results[0].size,
            dram_bytes=moved,
            cache_bytes=weights * tiled + made * panels,
            register_bytes=weights * tiled + made * (1 + plan.columns // plan.lanes) + 4 * spec.results[0].size,
        )


def _sizes(spec: NodeSpec, product: IntegerProduct) -> Product:
    rows = math.prod(spec.operands[0].type.shape[:-1])
    return Product(rows, product.depth, product.channels)


@dataclass(frozen=True)
class _Plan:
    """A schedule with what follows from it.

    Attributes:
        product: what it computes.
        sizes: of the matrices.
        words: how the depth is joined.
        rows: rows of a register tile.
        vectors: vectors of columns of one.
        threads: that share the tasks.
        target: for which it is compiled.
        result: dtype of the results.
    """

    product: IntegerProduct
    sizes: Product
    words: Words
    rows: int
    vectors: int
    threads: int
    target: CpuTarget
    result: str

    @staticmethod
    def of(spec: NodeSpec, params: Params, target: CpuTarget) -> _Plan:
        parts, product = dict(params), IntegerProduct.required(spec)
        words = Words(target, parts["group"])
        threads = target.threads if parts["parallel"] else 1
        sizes, result = _sizes(spec, product), spec.results[0].dtype
        return _Plan(product, sizes, words, parts["rows"], parts["vectors"], threads, target, result)

    @property
    def lanes(self) -> int:
        """Columns of a vector."""
        return self.target.lanes

    @property
    def depth(self) -> int:
        """Words along the depth."""
        return self.words.count(self.sizes.depth)

    @property
    def columns(self) -> int:
        """Columns in whole vectors."""
        return -(-self.sizes.columns // self.lanes) * self.lanes

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def pitch(self) -> int:
        """Words of a joined row: whole vectors of them, so that sums over a row have no rest."""
        return -(-self.depth // self.lanes) * self.lanes

    @property
    def parameters(self) -> Parameters:
        """What stands beside the words in the packed operand."""
        return Parameters(self.product, self.words, self.depth * self.columns, self.sizes.columns, self.result)

    @property
    def band(self) -> int:
        """Rows of a task: whole tiles that stay in the second-level cache, less where threads would lack tasks."""
        held = max(1, self.target.l2_bytes // 2 // (self.words.bytes * self.pitch))
        if self.threads > 1:
            panels = -(-self.columns // self.width)
            held = min(held, -(-self.sizes.rows * panels // (loops.TASKS_PER_THREAD * self.threads)))
        return min(self.sizes.rows, -(-held // self.rows) * self.rows)


class _Emitter:
    """Emits the loops; all buffers are flat."""

    def __init__(self, plan: _Plan, operands: Sequence[Any], result: Any) -> None:
        self.plan, self.words, self.lanes = plan, plan.words, plan.lanes
        self.data, self.weights, self.operands, self.result = operands[0], operands[1], operands, result
        self.joined = loops.workspace(plan.sizes.rows * plan.pitch, plan.words.dtype)
        self.windows = loops.workspace(plan.sizes.rows, "int32") if plan.parameters.needs_windows else None

    def emit(self) -> None:
        """Rows are joined, then multiplied."""
        plan = self.plan
        loops.in_runs(plan.threads if plan.sizes.rows > 4 else 1, (plan.sizes.rows,), self._row)
        bands = -(-plan.sizes.rows // plan.band)
        whole, rest = divmod(plan.sizes.columns, plan.width)

        def task(band: Any, panel: Any) -> None:
            def of_band(begin: Any, count: int) -> None:
                loops.either(
                    panel,
                    [
                        (whole, lambda which: self._panel(begin, count, which * plan.width, plan.width)),
                        (1 if rest else 0, lambda _: self._panel(begin, count, whole * plan.width, rest)),
                    ],
                )

            loops.pieces(plan.sizes.rows, plan.band, band, of_band)

        loops.in_runs(plan.threads, (bands, whole + (1 if rest else 0)), task)

    def _zero(self) -> Any:
        """The data's zero point, as the words hold data."""
        product = self.plan.product
        offset = loops.i32(self.words.data_offset(product.data_type))
        if product.zero_operand is None:
            return loops.i32(product.data_zero or 0) + offset
        return tirx.Cast("int32", self.operands[product.zero_operand][0]) + offset

    def _row(self, row: Any) -> None:
        """Join one row, zeros behind it, and sum it up where that is needed."""
        plan, group, lanes = self.plan, self.words.group, self.lanes
        source, goal = loops.bind(row * plan.sizes.depth), loops.bind(row * plan.pitch)
        zero = loops.bind(self._zero())
        whole, rest = divmod(plan.sizes.depth, group)

        def vectors(begin: Any, width: int) -> None:
            place = loops.run(goal + begin, width)
            loops.store(self.joined, place, self._joined(source + begin * group, width, zero))

        loops.repeat(whole // lanes, lambda v: vectors(v * lanes, lanes))
        if whole % lanes:
            vectors(whole // lanes * lanes, whole % lanes)
        if rest:
            elements = [self._element(source + whole * group + place, zero) for place in range(rest)]
            loops.store(self.joined, goal + whole, self.words.join(elements))
        filled = whole + (1 if rest else 0)
        if filled < plan.pitch:
            empty = loops.splat(tirx.const(0, self.words.dtype), plan.pitch - filled)
            loops.store(self.joined, loops.run(goal + filled, plan.pitch - filled), empty)
        if self.windows is not None:
            self._window(row, goal)

    def _element(self, place: Any, zero: Any) -> Any:
        value = tirx.Cast("int32", self.data[place])
        return (
            value + self.words.data_offset(self.plan.product.data_type)
            if self.words.keeps_zero_points
            else value - zero
        )

    def _joined(self, place: Any, width: int, zero: Any) -> Any:
        """A vector of ``width`` words, read at once."""
        count = width * self.words.group
        loaded = self.data[loops.run(place, count)]
        if self.words.keeps_zero_points:
            loaded = tirx.reinterpret(loops.typed("int32", width), loaded)
            flipped = self.words.data_offset(self.plan.product.data_type)
            return loaded ^ loops.splat(loops.i32(-0x7F7F7F80), width) if flipped else loaded
        narrow = tirx.Cast(loops.typed("int16", count), loaded) - loops.splat(tirx.Cast("int16", zero), count)
        return tirx.reinterpret(loops.typed("int32", width), narrow) if self.words.group == 2 else narrow

    def _window(self, row: Any, goal: Any) -> None:
        lanes = self.lanes
        total = loops.local(lanes, "int32")
        whole = loops.run(0, lanes)
        loops.store(total, whole, loops.splat(loops.i32(0), lanes))
        ones = loops.splat(self.words.ones, lanes)

        def add(v: Any) -> None:
            loops.store(
                total, whole, self.words.add(total[whole], self.joined[loops.run(goal + v * lanes, lanes)], ones)
            )

        loops.repeat(self.plan.pitch // lanes, add)
        loops.store(self.windows, row, loops.fold(total, lanes, lambda a, b: a + b))

    def _panel(self, begin: Any, count: int, first: Any, columns: int) -> None:
        """``count`` rows times the panel of so many columns that begins at column ``first``."""
        plan = self.plan
        panel, column = loops.bind(first * plan.depth), loops.bind(first)
        whole, rest = divmod(count, plan.rows)
        loops.repeat(whole, lambda t: self._tile(loops.bind(begin + t * plan.rows), plan.rows, panel, column, columns))
        if rest:
            self._tile(loops.bind(begin + whole * plan.rows), rest, panel, column, columns)

    def _tile(self, top: Any, rows: int, panel: Any, column: Any, columns: int) -> None:
        plan, lanes = self.plan, self.lanes
        vectors = -(-columns // lanes)
        held = [loops.local(vectors * lanes, "int32") for _ in range(rows)]
        places = [loops.run(v * lanes, lanes) for v in range(vectors)]
        for row in range(rows):
            for place in places:
                loops.store(held[row], place, loops.splat(loops.i32(0), lanes))
        across = loops.bind(top * plan.pitch)

        def step(k: Any) -> None:
            down, left = loops.bind(panel + k * (vectors * lanes)), loops.bind(across + k)
            weights = [loops.bind(self.weights[loops.run(down + v * lanes, lanes)]) for v in range(vectors)]
            for row in range(rows):
                factor = loops.splat(self.joined[left + row * plan.pitch], lanes)
                for place, weight in zip(places, weights, strict=True):
                    loops.store(held[row], place, self.words.add(held[row][place], factor, weight))

        loops.repeat(plan.depth, step)
        self._store(held, top, column, columns)

    def _store(self, held: list[Any], top: Any, column: Any, columns: int) -> None:
        """Finish and store a tile's sums."""
        plan, lanes = self.plan, self.lanes
        zero = loops.bind(self._zero())
        for begin in range(0, columns, lanes):
            width = min(lanes, columns - begin)
            finish = plan.parameters.of_channels(self.operands, column + begin, zero, width)
            for row, sums in enumerate(held):
                window = loops.splat(self.windows[top + row], width) if self.windows is not None else None
                goal = loops.run((top + row) * plan.sizes.columns + column + begin, width)
                loops.store(self.result, goal, finish(sums[loops.run(begin, width)], window, width))
