"""Integer convolutions: planes of words, vectors along their flattened positions, exact in int32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as pairs
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.conv_tir import Geometry, accumulators, ceil_div, chosen, padded_channels, spread, start
from joulec.passes.kernels.integer_dot import DEEPEST, Words, words_of
from joulec.passes.kernels.integer_product import IntegerProduct, conv_geometry
from joulec.passes.kernels.integer_store import Parameters
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work


class IntegerConv:
    """Convolutions of bytes with constant kernels: ConvInteger and QLinearConv.

    First the input's planes are padded with the zero point, some channels of a position joined to each word; then
    tasks (image, group, block of rows, some blocks of output channels) multiply words. A plane is split into one part
    per phase of the strides, so that neighbouring outputs read neighbouring words; what is computed between two rows is
    thrown away.
    """

    name = "integer_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Each kind of words with the two register tiles that load and compute least."""
        product = IntegerProduct.of(spec)
        geometry = conv_geometry(product, spec) if product else None
        if product is None or geometry is None or product.depth > DEEPEST or not spec.results[0].size:
            return ()
        return [
            (("group", words.group), ("channels", channels), ("vectors", vectors))
            for words in words_of(target)
            for channels, vectors in _tiles(geometry, target)[:2]
        ]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel's words as [groups, channel blocks, words of channels, kH, kW, block], then what sums need."""
        if index != 1:
            return np.ascontiguousarray(array).reshape(array.shape)
        plan = _Plan.of(spec, params, target)
        product, geometry, words = plan.product, plan.geometry, plan.words
        offset = words.weight_offset(product.weight_type)
        zeros = product.per_channel(product.weight_zeros).astype(np.int32)
        kernel = array.astype(np.int32).reshape(geometry.out_channels, geometry.group_in, *geometry.kernel)
        moved = kernel + offset if words.keeps_zero_points else kernel - zeros[:, None, None, None]
        missing = plan.depth * words.group - geometry.group_in
        moved = np.pad(moved, ((0, 0), (0, missing), (0, 0), (0, 0)))
        blocked = padded_channels(moved, geometry.groups, plan.channels)
        grouped = blocked.reshape(*blocked.shape[:3], plan.depth, words.group, *geometry.kernel)
        joined = words.joined(grouped.transpose(0, 1, 3, 5, 6, 2, 4)).reshape(-1)
        totals = kernel.sum(axis=(1, 2, 3), dtype=np.int32) - product.depth * zeros
        return plan.parameters.packed(joined, totals)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = _Plan.of(spec, params, target)
        types = [operand.type for operand in spec.operands]
        types[1] = TensorType((plan.parameters.size,), plan.words.dtype)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            _Emitter(plan, operands, results[0]).emit()

        return loops.prim_func(types, spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """A multiplication of words counts as one of numbers; each word is made once."""
        plan = _Plan.of(spec, params, target)
        geometry = plan.geometry
        tasks = geometry.batch * geometry.groups * plan.row_blocks
        tiles = tasks * plan.blocks * plan.tiles
        taps = plan.depth * geometry.kernel[0] * geometry.kernel[1]
        made = geometry.batch * geometry.groups * plan.depth * plan.parts * plan.length
        computed = tiles * plan.channels * plan.width
        return Work(
            flops=2 * computed * taps + 2 * computed,
            dram_bytes=spec.bytes,
            cache_bytes=plan.words.bytes * (2 * made + tiles * taps * min(plan.width, plan.channels)),
            register_bytes=plan.words.bytes * (made + tiles * taps * (plan.channels + plan.width)) + 8 * computed,
        )


def _tiles(geometry: Geometry, target: CpuTarget) -> list[tuple[int, int]]:
    """(channels, vectors of positions) of register tiles, the likelier first."""
    most = accumulators(target) * 3 // 2 if target.registers >= 32 else accumulators(target) * 3 // 4
    pitch = ceil_div(geometry.padded[1], geometry.strides[1])
    positions = (geometry.out_height - 1) * pitch + geometry.out_width
    scored = []
    for vectors in (1, 2, 3, 4):
        if vectors > 1 and (vectors - 1) * target.lanes >= positions:
            break
        channels = spread(geometry.group_out, max(1, most // vectors))
        width, held = vectors * target.lanes, channels * vectors
        computed = ceil_div(positions, width) * width * ceil_div(geometry.group_out, channels) * channels
        scored.append((computed * max(1.0, 8 / held) * (1 + (vectors + 0.5 * channels) / held), channels, vectors))
    return [(channels, vectors) for _, channels, vectors in sorted(scored)]


@dataclass(frozen=True)
class _Plan:
    """A schedule with what follows from it.

    Attributes:
        spec: the node.
        product: what it computes.
        geometry: its windows.
        words: how channels are joined.
        channels: output channels of a register tile.
        width: positions of a register tile.
        target: for which it is compiled.
    """

    spec: NodeSpec
    product: IntegerProduct
    geometry: Geometry
    words: Words
    channels: int
    width: int
    target: CpuTarget

    @staticmethod
    def of(spec: NodeSpec, params: Params, target: CpuTarget) -> _Plan:
        parts, product = chosen(params), IntegerProduct.required(spec)
        geometry = conv_geometry(product, spec)
        assert geometry is not None
        words = Words(target, parts["group"])
        width = parts["vectors"] * target.lanes
        return _Plan(spec, product, geometry, words, parts["channels"], width, geometry.team(target))

    @property
    def depth(self) -> int:
        """Words of a position in a group."""
        return self.words.count(self.geometry.group_in)

    @property
    def blocks(self) -> int:
        """Register tiles of output channels in a group."""
        return ceil_div(self.geometry.group_out, self.channels)

    @property
    def pitch(self) -> int:
        """Length of a row of a part."""
        return ceil_div(self.geometry.padded[1], self.geometry.strides[1])

    @property
    def height(self) -> int:
        """Rows of a part."""
        return ceil_div(self.geometry.padded[0], self.geometry.strides[0])

    @property
    def parts(self) -> int:
        """Parts of a plane, unused ones included."""
        return self.geometry.strides[0] * self.geometry.strides[1]

    @property
    def phases(self) -> list[tuple[int, int]]:
        """The phases (vertical, horizontal) that some tap reads."""
        geometry = self.geometry
        axes = zip(geometry.kernel, geometry.dilation, geometry.strides, strict=True)
        vertical, horizontal = (sorted({tap * step % stride for tap in range(size)}) for size, step, stride in axes)
        return list(pairs(vertical, horizontal))

    @property
    def reach(self) -> int:
        """How far beyond its own place in a part an output reads."""
        (height, width), (down, right), strides = self.geometry.kernel, self.geometry.dilation, self.geometry.strides
        return (height - 1) * down // strides[0] * self.pitch + (width - 1) * right // strides[1]

    @property
    def length(self) -> int:
        """Words of a part: its rows, and what the last tile reads past them."""
        last = (self.geometry.out_height - self.rows) * self.pitch + self.tiles * self.width + self.reach
        return max(self.height * self.pitch, last)

    @property
    def rows(self) -> int:
        """Output rows of a task: sums that stay in the first-level cache, words that stay in the second's half."""
        geometry = self.geometry
        a_row = self.words.bytes * self.depth * self.parts * self.pitch
        most = min(
            self.target.l1_bytes // 2 // (4 * self.channels * self.pitch), self.target.l2_bytes // 2 // max(1, a_row)
        )
        return spread(geometry.out_height, max(1, most))

    @property
    def row_blocks(self) -> int:
        """Tasks along the rows."""
        return ceil_div(self.geometry.out_height, self.rows)

    @property
    def tiles(self) -> int:
        """Register tiles that cover the rows of a task."""
        return ceil_div((self.rows - 1) * self.pitch + self.geometry.out_width, self.width)

    @property
    def shares(self) -> int:
        """Tasks along the blocks of output channels: so many that every thread has a few."""
        others = self.geometry.batch * self.geometry.groups * self.row_blocks
        wanted = 4 * self.target.threads if self.target.threads > 1 else 1
        return min(self.blocks, ceil_div(wanted, others))

    @property
    def parameters(self) -> Parameters:
        """What stands beside the words in the packed kernel."""
        taps = self.depth * self.geometry.kernel[0] * self.geometry.kernel[1]
        count = self.geometry.groups * self.blocks * taps * self.channels
        return Parameters(self.product, self.words, count, self.geometry.out_channels, self.spec.results[0].dtype)


class _Emitter:
    """Emits the loops; all buffers are flat."""

    def __init__(self, plan: _Plan, operands: Sequence[Any], result: Any) -> None:
        self.plan, self.geometry, self.words, self.lanes = plan, plan.geometry, plan.words, plan.target.lanes
        self.data, self.weights, self.operands, self.result = operands[0], operands[1], operands, result
        planes = self.geometry.batch * self.geometry.groups * plan.depth
        self.source = loops.workspace(planes * plan.parts * plan.length, plan.words.dtype)

    def emit(self) -> None:
        """Words are made, then multiplied."""
        plan, geometry = self.plan, self.geometry
        groups = geometry.batch * geometry.groups
        loops.in_runs(plan.target.threads, (groups, plan.depth), self._plane)
        tasks = (geometry.batch, geometry.groups, plan.row_blocks, plan.shares)
        loops.in_runs(plan.target.threads, tasks, self._task)

    def _plane(self, ng: Any, d: Any) -> None:
        """Join the channels of word ``d`` of a group, with padding around them, part by part."""
        plan, geometry, group = self.plan, self.geometry, self.words.group
        whole, rest = divmod(geometry.group_in, group)
        area = geometry.height * geometry.width
        zero = loops.bind(self._zero())

        def of(count: int) -> None:
            base = loops.bind((ng * geometry.group_in + d * group) * area)
            padding = loops.bind(self.words.join([zero if self.words.keeps_zero_points else loops.i32(0)] * count))
            for phase in plan.phases:
                self._part(loops.bind((ng * plan.depth + d) * plan.parts), base, phase, count, zero, padding)

        loops.either(d, [(whole, lambda _: of(group)), (1 if rest else 0, lambda _: of(rest))])

    def _zero(self) -> Any:
        """The data's zero point, as the words hold data."""
        product = self.plan.product
        offset = loops.i32(self.words.data_offset(product.data_type))
        if product.zero_operand is None:
            return loops.i32(product.data_zero or 0) + offset
        return tirx.Cast("int32", self.operands[product.zero_operand][0]) + offset

    def _part(self, plane: Any, base: Any, phase: tuple[int, int], count: int, zero: Any, padding: Any) -> None:
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        (stride_h, stride_w), top, left = geometry.strides, geometry.top, geometry.left
        area = geometry.height * geometry.width
        begin = min(plan.pitch, max(0, ceil_div(left - phase[1], stride_w)))
        end = max(begin, min(plan.pitch, (geometry.width - 1 + left - phase[1]) // stride_w + 1))
        offset = self.words.data_offset(plan.product.data_type)
        corner = loops.bind((plane + (phase[0] * stride_w + phase[1])) * plan.length)

        def element(index: Any) -> Any:
            value = tirx.Cast("int32", self.data[index])
            if self.words.keeps_zero_points:
                return value + loops.i32(offset) if offset else value
            return value - zero

        def row(h: Any) -> None:
            line = loops.bind(h * stride_h + (phase[0] - top))
            goal = loops.bind(corner + h * plan.pitch)

            def pad(low: int, high: int) -> None:
                loops.vectors(high - low, lanes, lambda w: loops.store(self.source, goal + low + w, padding))

            def copy(w: Any) -> None:
                at = base + line * geometry.width + (begin + w) * stride_w + (phase[1] - left)
                word = self.words.join([element(at + channel * area) for channel in range(count)])
                loops.store(self.source, goal + begin + w, word)

            def inside() -> None:
                pad(0, begin)
                loops.vectors(end - begin, lanes, copy)
                pad(end, plan.pitch)

            reached = (plan.height - 1) * stride_h + phase[0] - top
            if phase[0] >= top and reached < geometry.height:
                inside()
                return
            with T.If(tirx.all(line >= 0, line < geometry.height)):
                with T.Then():
                    inside()
                with T.Else():
                    pad(0, plan.pitch)

        loops.repeat(plan.height, row)

    def _task(self, n: Any, g: Any, b: Any, share: Any) -> None:
        """Some blocks of output channels of some rows."""
        plan, geometry = self.plan, self.geometry
        first = loops.bind(start(b, geometry.out_height, plan.rows))
        group = loops.bind(n * geometry.groups + g)
        sums = loops.workspace(plan.channels * plan.tiles * plan.width, "int32")
        windows = None
        if plan.parameters.needs_windows:
            windows = loops.workspace(plan.tiles * plan.width, "int32")
            ones = loops.splat(self.words.ones, self.lanes)
            loops.repeat(plan.tiles, lambda t: self._tile(group, first, t, 1, lambda *_: [ones], windows))
        zero = loops.bind(self._zero())
        low, high = (loops.bind((share + more) * plan.blocks // plan.shares) for more in (0, 1))
        taps = plan.depth * geometry.kernel[0] * geometry.kernel[1]

        def channel_block(index: Any) -> None:
            o = loops.bind(low + index)
            panel = loops.bind((g * plan.blocks + o) * (taps * plan.channels))

            def weights(tap: Any) -> list[Any]:
                place = loops.bind(panel + tap * plan.channels)
                return [loops.splat(self.weights[place + c], self.lanes) for c in range(plan.channels)]

            loops.repeat(plan.tiles, lambda t: self._tile(group, first, t, plan.channels, weights, sums))
            inner = loops.bind(o * plan.channels)
            loops.repeat(plan.channels, lambda c: self._rows((n, g, inner + c, first), c, zero, sums, windows))

        with T.serial(0, high - low) as index:
            channel_block(index)

    def _tile(
        self, group: Any, first: Any, t: Any, channels: int, weights: Callable[[Any], list[Any]], sums: Any
    ) -> None:
        """One register tile: all taps of all words for some channels and the positions of tile ``t``."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        (stride_h, stride_w), (down, right) = geometry.strides, geometry.dilation
        (rows, columns), vectors = geometry.kernel, plan.width // lanes
        held = [loops.local(plan.width, "int32") for _ in range(channels)]
        places = [loops.run(v * lanes, lanes) for v in range(vectors)]
        for channel in range(channels):
            for place in places:
                loops.store(held[channel], place, loops.splat(loops.i32(0), lanes))
        corner = loops.bind(group * (plan.depth * plan.parts * plan.length) + first * plan.pitch + t * plan.width)

        def step(d: Any, h: Any, w: Any) -> None:
            part = (h * down % stride_h) * stride_w + w * right % stride_w
            shift = h * down // stride_h * plan.pitch + w * right // stride_w
            place = loops.bind(corner + (d * plan.parts + part) * plan.length + shift)
            factors = weights((d * rows + h) * columns + w)
            data = [loops.bind(self.source[loops.run(place + v * lanes, lanes)]) for v in range(vectors)]
            for total, factor in zip(held, factors, strict=True):
                for at, one in zip(places, data, strict=True):
                    loops.store(total, at, self.words.add(total[at], one, factor))

        loops.repeat(plan.depth, lambda d: loops.repeat(rows, lambda h: loops.repeat(columns, lambda w: step(d, h, w))))
        length = plan.tiles * plan.width
        for channel in range(channels):
            for v, place in enumerate(places):
                goal = loops.run(channel * length + t * plan.width + v * lanes, lanes)
                loops.store(sums, goal, held[channel][place])

    def _rows(self, at: tuple[Any, Any, Any, Any], c: Any, zero: Any, sums: Any, windows: Any) -> None:
        """Store the rows of channel ``c`` of a block."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, inner, first = at

        def body() -> None:
            channel = loops.bind(g * geometry.group_out + inner)
            finish = plan.parameters.of_channels(self.operands, channel, zero, 1)
            goal = loops.bind(
                ((n * geometry.out_channels + channel) * geometry.out_height + first) * geometry.out_width
            )
            flat = plan.pitch == geometry.out_width
            rows, width = (1, plan.rows * geometry.out_width) if flat else (plan.rows, geometry.out_width)

            def row(h: Any) -> None:
                source = loops.bind(c * (plan.tiles * plan.width) + h * plan.pitch)

                def vector(w: Any, lanes: int) -> None:
                    window = windows[loops.run(h * plan.pitch + w, lanes)] if windows is not None else None
                    place = loops.run(goal + h * geometry.out_width + w, lanes)
                    loops.store(self.result, place, finish(sums[loops.run(source + w, lanes)], window, lanes))

                loops.runs(width, lanes, vector)

            loops.repeat(rows, row)

        if geometry.group_out % plan.channels == 0:
            body()
            return
        with T.If(inner < geometry.group_out), T.Then():
            body()
