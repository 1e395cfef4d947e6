"""1x1 convolution as a matrix product that is blocked for registers and both caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import convolves_blocks, ends, operand_types, packed, result_types, with_ends
from joulec.passes.kernels.conv_tir import Geometry, ceil_div, chosen, padded_channels, start
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.register_tile import product_tile
from joulec.passes.kernels.squares import transposed
from joulec.profiler.candidate import Work

_CHUNK = 112
"""Positions of a task, about: results of one stay in the first-level cache until they are turned."""
_FAR = 4096
"""Bytes between channels from which on each lies on a page of its own; they are then brought together first."""


class PointwiseConv:
    """1x1 convolutions without padding, of any stride.

    A register tile is some positions by a few vectors of output channels over all input channels; a task computes a
    chunk of positions, which are turned to planes by transposing squares in registers. Where channels lie far apart or
    are strided, a task first brings its chunk together and then computes all output channels of it.
    """

    name = "pointwise_conv"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """The tile that loads least, with the chunk brought together first where that can pay."""
        geometry = Geometry.of(spec)
        if geometry is None or geometry.kernel != (1, 1) or geometry.top or geometry.left or target.lanes == 1:
            return ()
        if geometry.positions < target.lanes or geometry.group_out < target.lanes:
            return ()
        strided = geometry.strides != (1, 1)
        gathered = [1] if strided else [1, 0] if 4 * geometry.positions >= _FAR else [0]
        rows, vectors = product_tile(min(_CHUNK, geometry.positions), geometry.group_out, target)
        tile = (("rows", rows), ("vectors", vectors))
        found: list[Params] = [(*tile, ("gathered", choice)) for choice in gathered]
        if convolves_blocks(spec, target):
            found.append(with_ends((*tile, ("gathered", int(strided))), target.lanes, target.lanes))
        return found

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, channel blocks, I, block]; other operands as they are."""
        if index != 1:
            return packed(spec, params, index, array)
        plan = _Plan.of(spec, params, target)
        blocked = padded_channels(array, plan.geometry.groups, plan.width)
        return np.ascontiguousarray(blocked[..., 0, 0].transpose(0, 1, 3, 2))

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = _Plan.of(spec, params, target)
        types = operand_types(spec, params)
        types[1] = TensorType(plan.packed)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            emitter = _Emitter(spec, plan, operands, results[0])
            parallel = plan.geometry.team(target).threads > 1
            if plan.gathered:
                emitter.gathered(parallel)
            else:
                emitter.direct(parallel)

        return loops.prim_func(types, result_types(spec, params), body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Weights are read once per tile of positions, positions once per panel of weights."""
        plan = _Plan.of(spec, params, target)
        geometry = plan.geometry
        chunks = geometry.batch * geometry.groups * plan.chunks
        panels, depth = plan.blocks * plan.width, geometry.group_in
        weights = 4 * chunks * ceil_div(plan.chunk, plan.rows) * panels * depth
        read = 4 * chunks * plan.chunk * depth * plan.blocks
        turned = 0 if plan.writes else 8 * chunks * plan.chunk * panels
        return Work(
            flops=2 * chunks * plan.chunk * panels * depth + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes,
            cache_bytes=weights + read if 4 * depth * plan.width > target.l1_bytes // 2 else read,
            register_bytes=weights + read * plan.vectors + turned,
        )


@dataclass(frozen=True)
class _Plan:
    """A schedule with what follows from it.

    Attributes:
        geometry: the convolution.
        lanes: output channels of a vector.
        rows: positions of a register tile.
        vectors: vectors of output channels of one.
        gathered: whether a task brings its positions together first.
        reads: channels in a block of the input, 0 where it is row-major.
        writes: the same of the output.
    """

    geometry: Geometry
    lanes: int
    rows: int
    vectors: int
    gathered: bool
    reads: int
    writes: int

    @staticmethod
    def of(spec: NodeSpec, params: Params, target: CpuTarget) -> _Plan:
        parts = chosen(params)
        geometry, gathered = Geometry.required(spec), bool(parts["gathered"])
        return _Plan(geometry, target.lanes, parts["rows"], parts["vectors"], gathered, *ends(params))

    @property
    def width(self) -> int:
        """Output channels of a panel of weights."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Panels of a group."""
        return ceil_div(self.geometry.group_out, self.width)

    @property
    def packed(self) -> tuple[int, ...]:
        """Shape of the packed kernel."""
        return (self.geometry.groups, self.blocks, self.geometry.group_in, self.width)

    @property
    def chunk(self) -> int:
        """Positions of a task: whole register tiles where the plane has them, at least a vector."""
        positions = self.geometry.positions
        even = ceil_div(positions, ceil_div(positions, _CHUNK))
        return max(self.lanes, min(positions, ceil_div(even, self.rows) * self.rows))

    @property
    def chunks(self) -> int:
        """Chunks of a plane."""
        return ceil_div(self.geometry.positions, self.chunk)


class _Emitter:
    """Emits the loops; all buffers are flat."""

    def __init__(self, spec: NodeSpec, plan: _Plan, operands: Sequence[Any], result: Any) -> None:
        self.spec, self.plan, self.geometry, self.lanes = spec, plan, plan.geometry, plan.lanes
        self.data, self.weights, self.rest, self.result = operands[0], operands[1], operands[2:], result

    def direct(self, parallel: bool) -> None:
        """Tasks are (image, group, panel, chunk); positions are read where they are."""
        plan, geometry = self.plan, self.geometry

        def task(index: Any) -> None:
            n, g, o, q = loops.unravel(index, (geometry.batch, geometry.groups, plan.blocks, plan.chunks))
            first = loops.bind(start(q, geometry.positions, plan.chunk))
            base = (n * geometry.channels + g * geometry.group_in) * geometry.positions
            begin = loops.bind(base + first * (plan.reads or 1))
            self._panel((n, g, o, first), self.data, begin, geometry.positions)

        loops.repeat(geometry.batch * geometry.groups * plan.blocks * plan.chunks, task, parallel)

    def gathered(self, parallel: bool) -> None:
        """Tasks are (image, group, chunk); positions are brought together for all panels."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        area = geometry.height * geometry.width

        def task(index: Any) -> None:
            n, g, q = loops.unravel(index, (geometry.batch, geometry.groups, plan.chunks))
            first = loops.bind(start(q, geometry.positions, plan.chunk))
            near = loops.workspace(geometry.group_in * plan.chunk)
            base = loops.bind((n * geometry.channels + g * geometry.group_in) * area)
            if plan.reads:
                self._gather_blocks(first, near, base)
            elif geometry.strides == (1, 1):

                def line(i: Any) -> None:
                    source, goal = loops.bind(base + i * area + first), loops.bind(i * plan.chunk)
                    loops.vectors(plan.chunk, lanes, lambda p: loops.store(near, goal + p, self.data[source + p]))

                loops.repeat(geometry.group_in, line)
            else:
                places = T.alloc_buffer((plan.chunk,), "int32", scope="local")

                def place(p: Any) -> None:
                    row, column = (first + p) // geometry.out_width, (first + p) % geometry.out_width
                    at = row * (geometry.strides[0] * geometry.width) + column * geometry.strides[1]
                    T.buffer_store(places, at, [p])

                loops.repeat(plan.chunk, place)

                def strided(i: Any) -> None:
                    source, goal = loops.bind(base + i * area), loops.bind(i * plan.chunk)
                    loops.vectors(
                        plan.chunk, lanes, lambda p: loops.store(near, goal + p, self.data[source + places[p]])
                    )

                loops.repeat(geometry.group_in, strided)
            loops.repeat(plan.blocks, lambda o: self._panel((n, g, o, first), near, 0, plan.chunk))

        loops.repeat(geometry.batch * geometry.groups * plan.chunks, task, parallel)

    def _gather_blocks(self, first: Any, near: Any, base: Any) -> None:
        """Bring strided positions of all blocks together, position by position."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        area = geometry.height * geometry.width

        def position(p: Any) -> None:
            row, column = (first + p) // geometry.out_width, (first + p) % geometry.out_width
            place = row * (geometry.strides[0] * geometry.width) + column * geometry.strides[1]
            source, goal = loops.bind(base + place * lanes), loops.bind(p * lanes)

            def block(i: Any) -> None:
                value = self.data[loops.run(source + i * (area * lanes), lanes)]
                loops.store(near, loops.run(goal + i * (plan.chunk * lanes), lanes), value)

            loops.repeat(geometry.group_in // lanes, block)

        loops.repeat(plan.chunk, position)

    def _panel(self, at: tuple[Any, Any, Any, Any], source: Any, begin: Any, pitch: int) -> None:
        """A chunk's results of one panel of weights; a channel, or a block, of it lies ``pitch`` positions further."""
        plan, lanes = self.plan, self.lanes
        _, g, o, _ = at
        sums = None if plan.writes else loops.workspace(plan.chunk * plan.width)
        panel = loops.bind((g * plan.blocks + o) * (self.geometry.group_in * plan.width))

        def tile(first: Any, rows: int) -> None:
            held = [loops.local(plan.width) for _ in range(rows)]
            places = [loops.run(v * lanes, lanes) for v in range(plan.vectors)]
            for row in range(rows):
                for place in places:
                    loops.store(held[row], place, loops.splat(loops.f32(0), lanes))
            across = loops.bind(begin + first * (plan.reads or 1))

            def step(down: Any, read: Any) -> None:
                weights = [loops.bind(self.weights[loops.run(down + v * lanes, lanes)]) for v in range(plan.vectors)]
                for row in range(rows):
                    factor = loops.splat(source[read + row * (plan.reads or 1)], lanes)
                    for place, weight in zip(places, weights, strict=True):
                        loops.store(held[row], place, held[row][place] + factor * weight)

            def channel(i: Any) -> None:
                step(loops.bind(panel + i * plan.width), loops.bind(across + i * pitch))

            def block(i: Any) -> None:
                down, read = loops.bind(panel + i * (lanes * plan.width)), loops.bind(across + i * (pitch * lanes))
                loops.repeat(lanes, lambda k: step(loops.bind(down + k * plan.width), loops.bind(read + k)))

            if plan.reads:
                loops.repeat(self.geometry.group_in // lanes, block)
            else:
                loops.repeat(self.geometry.group_in, channel)
            for v, place in enumerate(places):
                if plan.writes:
                    self._store_blocks(at, v, first, [held[row][place] for row in range(rows)])
                    continue
                for row in range(rows):
                    loops.store(sums, loops.run(((first + row) * plan.vectors + v) * lanes, lanes), held[row][place])

        whole, rest = divmod(plan.chunk, plan.rows)
        loops.repeat(whole, lambda index: tile(index * plan.rows, plan.rows))
        if rest:
            tile(whole * plan.rows, rest)
        if not plan.writes:
            loops.repeat(plan.vectors, lambda v: self._turn(at, sums, v))

    def _store_blocks(self, at: tuple[Any, Any, Any, Any], v: int, begin: Any, values: Sequence[Any]) -> None:
        """Store neighbouring positions of one vector of channels in their block, after the epilogue."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        inner = o * plan.vectors + v
        block = loops.bind(g * (geometry.group_out // lanes) + inner)
        corner = loops.bind((n * (geometry.out_channels // lanes) + block) * geometry.positions + first + begin)

        def finish() -> None:
            for row, value in enumerate(values):
                place = self.result, (corner + row) * lanes, block * lanes
                loops.finish_vector(self.spec, value, self.rest, place, lanes)

        if geometry.group_out % plan.width == 0:
            finish()
            return
        with T.If(inner * lanes < geometry.group_out), T.Then():
            finish()

    def _turn(self, at: tuple[Any, Any, Any, Any], sums: Any, v: Any) -> None:
        """Store one vector of channels of a chunk by planes, after the epilogue."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        inner = loops.bind(o * plan.width + v * lanes)
        channel = loops.bind(g * geometry.group_out + inner)
        corner = loops.bind((n * geometry.out_channels + channel) * geometry.positions + first)

        def square(q: Any) -> None:
            begin = loops.bind(start(q, plan.chunk, lanes))

            def keep(lane: int, value: Any) -> None:
                turned = loops.local(lanes)
                loops.store(turned, loops.run(0, lanes), value)
                offset = loops.bind(corner + lane * geometry.positions + begin)

                def finish(k: Any) -> None:
                    after = loops.after_epilogue(self.spec, turned[k], self.rest, offset + k, channel + lane)
                    loops.store(self.result, offset + k, after)

                if geometry.group_out % plan.width == 0:
                    loops.vectors(lanes, lanes, finish)
                    return
                with T.If(inner + lane < geometry.group_out), T.Then():
                    loops.vectors(lanes, lanes, finish)

            transposed(lambda k: sums[loops.run(((begin + k) * plan.vectors + v) * lanes, lanes)], keep, lanes)

        loops.repeat(ceil_div(plan.chunk, lanes), square)
