"""Winograd convolution: tiles transformed, one matrix product per element of a tile, products transformed back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.conv_tir import Geometry, ceil_div, chosen, padded_channels, spread, start
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.squares import transposed
from joulec.passes.kernels.winograd import product, transformed_kernel, transforms
from joulec.profiler.candidate import Work

_TILES = {3: (4, 2), 5: (2,)}
"""Outputs of a tile by the kernel's side: those with tiles of at most six."""
_ROUNDING = {2: 2e-6, 4: 1e-5}
"""By the tile's outputs: several times what the tests and the nine networks of the benchmark show."""
_LEAST_CHANNELS = 8
"""Transforms cost as much as products where channels are few."""


class WinogradConv:
    """Square 3x3 and 5x5 convolutions of stride 1.

    Channels run along vectors from the first transform to the last; planes are transposed in registers on their way in
    and out. ``fused`` tasks take some rows of tiles through all stages in the second-level cache; otherwise each stage
    is a parallel loop over everything, so that weights are read once.
    """

    name = "winograd"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Tiles of four outputs, fused and in stages, then of two in the likelier of both; where they make sense."""
        geometry = Geometry.of(spec)
        if geometry is None or not _applies(geometry, target):
            return ()
        found: list[Params] = []
        for outputs in _TILES[geometry.kernel[0]]:
            plans = [_plan(geometry, target, outputs, fused) for fused in (1, 0)]
            offered = [plan.params for plan in plans if plan is not None]
            found += offered if outputs == _TILES[geometry.kernel[0]][0] else offered[:1]
        return found

    def rounding(self, params: Params) -> float:
        """The relative error against float64 below which results of unit variance stay."""
        return _ROUNDING[chosen(params)["tile"]]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The transformed kernel as [groups, channel blocks, tile, I, block]; other operands as they are."""
        if index != 1:
            return np.ascontiguousarray(array)
        plan = _Plan.of(spec, params, target)
        blocked = padded_channels(array, plan.geometry.groups, plan.width)  # [g, blocks, width, I, r, r]
        groups, blocks, width, channels = blocked.shape[:4]
        flat = blocked.reshape(-1, *blocked.shape[3:])
        matrices = transformed_kernel(plan.outputs, flat).reshape(-1, groups, blocks, width, channels)
        missing = plan.in_blocks * plan.lanes - channels
        matrices = np.pad(matrices, ((0, 0),) * 4 + ((0, missing),))
        return np.ascontiguousarray(matrices.transpose(1, 2, 0, 4, 3))

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = _Plan.of(spec, params, target)
        types = [TensorType(plan.packed) if index == 1 else operand.type for index, operand in enumerate(spec.operands)]

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            emitter = _Emitter(spec, plan, operands, results[0], target.threads)
            if plan.fused:
                emitter.fused()
            else:
                emitter.staged()

        return loops.prim_func(types, spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Products of whole tiles and blocks; each transform about four operations per element and dimension."""
        plan = _Plan.of(spec, params, target)
        geometry = plan.geometry
        area = plan.tile**2
        tiles = geometry.batch * geometry.groups * plan.tiles
        read, written = plan.in_blocks * plan.lanes, plan.out_blocks * plan.width
        moved = tiles * area * (read + written)
        streams = ceil_div(geometry.batch * plan.bands, 1) if plan.fused else 1
        weights = 4 * int(np.prod(plan.packed))
        copied = spec.operands[0].type.size + spec.results[0].size
        products = 2 * tiles * area * read * written
        return Work(
            flops=products + 8 * moved + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes - spec.operands[1].type.bytes + weights,
            cache_bytes=8 * moved + weights * streams,
            register_bytes=8 * moved
            + 8 * copied
            + 2 * products / plan.lanes * (1 / plan.vectors + plan.lanes / plan.rows),
        )


@dataclass(frozen=True)
class _Plan:
    """A schedule with what follows from it.

    Attributes:
        geometry: the convolution.
        lanes: channels of a vector.
        outputs: side of an output tile.
        fused: whether a task takes its tiles through all stages.
        band: rows of tiles that are transformed together.
        rows: tiles of a register tile of the product.
        vectors: vectors of output channels of one.
    """

    geometry: Geometry
    lanes: int
    outputs: int
    fused: bool
    band: int
    rows: int
    vectors: int

    @staticmethod
    def of(spec: NodeSpec, params: Params, target: CpuTarget) -> _Plan:
        parts = chosen(params)
        geometry = Geometry.required(spec)
        return _Plan(
            geometry, target.lanes, parts["tile"], bool(parts["fused"]), parts["band"], parts["rows"], parts["vectors"]
        )

    @property
    def params(self) -> Params:
        """As the cost key has it."""
        return (
            ("tile", self.outputs),
            ("fused", int(self.fused)),
            ("band", self.band),
            ("rows", self.rows),
            ("vectors", self.vectors),
        )

    @property
    def tile(self) -> int:
        """Side of an input tile."""
        return self.outputs + self.geometry.kernel[0] - 1

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return ceil_div(self.geometry.out_height, self.outputs)

    @property
    def across(self) -> int:
        """Tiles of a row."""
        return ceil_div(self.geometry.out_width, self.outputs)

    @property
    def tiles(self) -> int:
        """Tiles of a plane."""
        return self.down * self.across

    @property
    def bands(self) -> int:
        """Bands of a plane."""
        return ceil_div(self.down, self.band)

    @property
    def in_blocks(self) -> int:
        """Vectors of input channels of a group."""
        return ceil_div(self.geometry.group_in, self.lanes)

    @property
    def written(self) -> int:
        """Vectors of output channels of a group."""
        return ceil_div(self.geometry.group_out, self.lanes)

    @property
    def width(self) -> int:
        """Output channels of a panel of weights."""
        return self.vectors * self.lanes

    @property
    def out_blocks(self) -> int:
        """Panels of a group."""
        return ceil_div(self.geometry.group_out, self.width)

    @property
    def packed(self) -> tuple[int, ...]:
        """Shape of the transformed kernel."""
        return (self.geometry.groups, self.out_blocks, self.tile**2, self.in_blocks * self.lanes, self.width)

    @property
    def pitch(self) -> int:
        """Columns of the padded input that tiles touch."""
        return self.across * self.outputs + self.geometry.kernel[0] - 1

    @property
    def flat(self) -> bool:
        """Whether rows are shorter than a vector: planes are then transposed as one long row."""
        return min(self.geometry.width, self.geometry.out_width) < self.lanes


def _applies(geometry: Geometry, target: CpuTarget) -> bool:
    square = geometry.kernel[0] == geometry.kernel[1] and geometry.kernel[0] in _TILES
    plain = geometry.strides == (1, 1) and geometry.dilation == (1, 1)
    wide = min(geometry.group_in, geometry.group_out) >= min(_LEAST_CHANNELS, target.lanes)
    planes = min(geometry.height * geometry.width, geometry.positions) >= target.lanes
    return square and plain and wide and planes and target.lanes > 1


def _plan(geometry: Geometry, target: CpuTarget, outputs: int, fused: int) -> _Plan | None:
    """A schedule with bands and register tiles that fit; None where it cannot be worth measuring."""
    whole = _Plan(geometry, target.lanes, outputs, bool(fused), 1, 1, 1)
    if min(geometry.out_height, geometry.out_width) <= outputs // 2:
        return None
    area = whole.tile**2
    depth = whole.in_blocks * target.lanes
    if fused:
        weights = 4 * area * depth * whole.out_blocks * target.lanes
        band = whole.down if whole.flat else _band(whole, target, weights)
        tasks = geometry.batch * geometry.groups * ceil_div(whole.down, band)
        held = 4 * area * depth * band * whole.across
        if tasks < target.threads or held > target.l2_bytes or (band * whole.across < 8 and weights > target.l2_bytes):
            return None
    else:
        band = whole.down if whole.flat else 1
        if 4 * area * geometry.batch * geometry.groups * whole.tiles * depth > 16 * target.l2_bytes:
            return None
    tiles = band * whole.across if fused else geometry.batch * whole.tiles
    rows, vectors = _register_tile(tiles, geometry.group_out, target)
    return _Plan(geometry, target.lanes, outputs, bool(fused), band, rows, vectors)


def _band(whole: _Plan, target: CpuTarget, weights: int) -> int:
    """Rows of tiles of a fused task: those that fit the cache and leave the busiest thread least to do.

    Weights are read again for each band, from memory that is slower where they exceed the second-level cache.
    """
    row = 4 * whole.tile**2 * whole.in_blocks * target.lanes * whole.across
    outer = whole.geometry.batch * whole.geometry.groups
    again = 8 if weights > target.l2_bytes // 2 else 2

    def busiest(band: int) -> float:
        tasks = ceil_div(outer * ceil_div(whole.down, band), target.threads)
        return tasks * band * (1 + again / (band * whole.across))

    fitting = max(1, min(whole.down, target.l2_bytes * 5 // 8 // row))
    return min(range(1, fitting + 1), key=busiest)


def _register_tile(tiles: int, channels: int, target: CpuTarget) -> tuple[int, int]:
    """Tiles by vectors of channels that compute least beyond what exists and load least per product."""
    scored = []
    for vectors in (1, 2, 3, 4):
        if (vectors - 1) * target.lanes >= channels:
            continue
        rows = spread(tiles, (target.registers - 1 - vectors) // vectors)  # weights and one factor beside the sums
        computed = ceil_div(channels, vectors * target.lanes) * vectors * tiles
        held = rows * vectors
        scored.append((computed * max(1.0, 8 / held) * (1 + (vectors + 0.5 * rows) / held), rows, vectors))
    _, rows, vectors = min(scored)
    return rows, vectors


class _Emitter:
    """Emits the stages; all buffers are flat, and ``lanes`` channels the fastest axis of each workspace."""

    def __init__(self, spec: NodeSpec, plan: _Plan, operands: Sequence[Any], result: Any, threads: int) -> None:
        self.spec, self.plan, self.geometry, self.lanes = spec, plan, plan.geometry, plan.lanes
        self.data, self.weights, self.rest, self.result = operands[0], operands[1], operands[2:], result
        self.matrices = transforms(plan.outputs, plan.geometry.kernel[0])
        self.area = plan.tile**2
        self.parallel = threads > 1

    def vector(self, index: Any) -> Any:
        """The indices of vector ``index`` of a workspace."""
        return loops.run(index * self.lanes, self.lanes)

    def fused(self) -> None:
        """Tasks are (image, group, band)."""
        plan, geometry = self.plan, self.geometry
        tiles = plan.band * plan.across

        def task(index: Any) -> None:
            n, g, b = loops.unravel(index, (geometry.batch, geometry.groups, plan.bands))
            first = loops.bind(start(b, plan.down, plan.band))
            data = loops.workspace(self.area * plan.in_blocks * tiles * self.lanes)
            products = loops.workspace(self.area * plan.vectors * tiles * self.lanes)
            loops.repeat(
                plan.in_blocks,
                lambda i: self._in((n, g, i, first), data, lambda a, p: (a * plan.in_blocks + i) * tiles + p),
            )

            def panel(o: Any) -> None:
                loops.repeat(
                    self.area,
                    lambda a: self._multiply(g, o, a, tiles, (data, a * plan.in_blocks), (products, a * plan.vectors)),
                )
                for v in range(plan.vectors):
                    channels = o * plan.vectors + v
                    place = lambda a, p, v=v: (a * plan.vectors + v) * tiles + p  # noqa: E731
                    if plan.written % plan.vectors == 0:
                        self._out((n, g, channels, first), products, place)
                        continue
                    with T.If(channels < plan.written), T.Then():
                        self._out((n, g, channels, first), products, place)

            loops.repeat(plan.out_blocks, panel)

        loops.repeat(geometry.batch * geometry.groups * plan.bands, task, self.parallel)

    def staged(self) -> None:
        """Three parallel loops: (image, group, channels, band), (group, panel, element), and the first again."""
        plan, geometry = self.plan, self.geometry
        tiles = geometry.batch * plan.tiles
        reads, writes = plan.in_blocks, plan.out_blocks * plan.vectors
        data = loops.workspace(geometry.groups * self.area * reads * tiles * self.lanes)
        products = loops.workspace(geometry.groups * self.area * writes * tiles * self.lanes)

        def transform(index: Any) -> None:
            n, g, i, b = loops.unravel(index, (geometry.batch, geometry.groups, reads, plan.bands))
            first = loops.bind(start(b, plan.down, plan.band))
            begin = loops.bind(n * plan.tiles + first * plan.across)
            self._in((n, g, i, first), data, lambda a, p: ((g * self.area + a) * reads + i) * tiles + begin + p)

        def multiply(index: Any) -> None:
            g, o, a = loops.unravel(index, (geometry.groups, plan.out_blocks, self.area))
            place = g * self.area + a
            self._multiply(g, o, a, tiles, (data, place * reads), (products, place * writes + o * plan.vectors))

        def back(index: Any) -> None:
            n, g, o, b = loops.unravel(index, (geometry.batch, geometry.groups, plan.written, plan.bands))
            first = loops.bind(start(b, plan.down, plan.band))
            begin = loops.bind(n * plan.tiles + first * plan.across)
            self._out((n, g, o, first), products, lambda a, p: ((g * self.area + a) * writes + o) * tiles + begin + p)

        outer = geometry.batch * geometry.groups
        loops.repeat(outer * reads * plan.bands, transform, self.parallel)
        loops.repeat(geometry.groups * plan.out_blocks * self.area, multiply, self.parallel)
        loops.repeat(outer * plan.written * plan.bands, back, self.parallel)

    def _in(self, at: tuple[Any, Any, Any, Any], data: Any, place: Any) -> None:
        """Transform a band's tiles of one vector of channels; ``place(a, p)`` is the vector of element a, tile p."""
        plan = self.plan
        height = plan.band * plan.outputs + self.geometry.kernel[0] - 1
        planes = loops.workspace(height * plan.pitch * self.lanes)
        self._load(at, planes, height)
        tile = plan.tile

        def transform(p: Any) -> None:
            row, column = p // plan.across, p % plan.across
            corner = loops.bind((row * plan.pitch + column) * plan.outputs)
            read = [[planes[self.vector(corner + (i * plan.pitch + j))] for j in range(tile)] for i in range(tile)]
            columns = [
                product(self.matrices.data, [loops.bind(read[i][j]) for i in range(tile)], self.lanes)
                for j in range(tile)
            ]
            for i in range(tile):
                for j, value in enumerate(
                    product(self.matrices.data, [columns[k][i] for k in range(tile)], self.lanes)
                ):
                    loops.store(data, self.vector(place(i * tile + j, p)), value)

        loops.repeat(plan.band * plan.across, transform)

    def _load(self, at: tuple[Any, Any, Any, Any], planes: Any, height: int) -> None:
        """Rows of padded planes that a band of tiles touches, channels fastest."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, i, first = at
        area = geometry.height * geometry.width

        def channel(lane: int) -> Any:
            """A channel; beyond the last, where weights are zero, the last one again."""
            wanted = i * lanes + lane
            whole = geometry.group_in % lanes == 0
            within = wanted if whole else tirx.min(wanted, geometry.group_in - 1)
            return (n * geometry.channels + g * geometry.group_in + within) * area

        def zeros(begin: Any, count: int) -> None:
            zero = loops.splat(loops.f32(0), lanes)
            loops.repeat(count, lambda k: loops.store(planes, self.vector(begin + k), zero))

        bases = [loops.bind(channel(lane)) for lane in range(lanes)]

        def square(position: Any, keep: Any) -> None:
            transposed(lambda lane: self.data[loops.run(bases[lane] + position, lanes)], keep, lanes)

        if plan.flat:
            zeros(0, height * plan.pitch)

            def chunk(q: Any) -> None:
                begin = loops.bind(start(q, area, lanes))

                def keep(k: int, value: Any) -> None:
                    row, column = (begin + k) // geometry.width, (begin + k) % geometry.width
                    loops.store(planes, self.vector((row + geometry.top) * plan.pitch + column + geometry.left), value)

                square(begin, keep)

            loops.repeat(ceil_div(area, lanes), chunk)
            return

        def line(h: Any) -> None:
            row = loops.bind(first * plan.outputs + h - geometry.top)
            begin = loops.bind(h * plan.pitch)

            def chunk(q: Any) -> None:
                column = loops.bind(start(q, geometry.width, lanes))
                square(
                    row * geometry.width + column,
                    lambda k, value: loops.store(planes, self.vector(begin + geometry.left + column + k), value),
                )

            with T.If(tirx.all(row >= 0, row < geometry.height)):
                with T.Then():
                    zeros(begin, geometry.left)
                    loops.repeat(ceil_div(geometry.width, lanes), chunk)
                    used = geometry.left + geometry.width
                    zeros(begin + used, plan.pitch - used)
                with T.Else():
                    zeros(begin, plan.pitch)

        loops.repeat(height, line)

    def _multiply(self, g: Any, o: Any, a: Any, tiles: int, source: tuple[Any, Any], target: tuple[Any, Any]) -> None:
        """One panel: the tiles' element ``a`` of all channels of group g, times the weights of panel o."""
        plan, lanes = self.plan, self.lanes
        data, reads = source[0], loops.bind(source[1])
        products, writes = target[0], loops.bind(target[1])
        panel = loops.bind(((g * plan.out_blocks + o) * self.area + a) * (plan.in_blocks * lanes * plan.width))

        def tile(first: Any, rows: int) -> None:
            sums = [loops.local(plan.width) for _ in range(rows)]
            zero = loops.splat(loops.f32(0), lanes)
            for row in range(rows):
                for v in range(plan.vectors):
                    loops.store(sums[row], self.vector(v), zero)

            def block(i: Any) -> None:
                across = loops.bind(((reads + i) * tiles + first) * lanes)
                down = loops.bind(panel + i * (lanes * plan.width))

                def step(k: Any) -> None:
                    weights = [
                        loops.bind(self.weights[loops.run(down + k * plan.width + v * lanes, lanes)])
                        for v in range(plan.vectors)
                    ]
                    for row in range(rows):
                        factor = loops.splat(data[across + row * lanes + k], lanes)
                        for v in range(plan.vectors):
                            loops.store(sums[row], self.vector(v), sums[row][self.vector(v)] + factor * weights[v])

                loops.repeat(lanes, step)

            loops.repeat(plan.in_blocks, block)
            for row in range(rows):
                for v in range(plan.vectors):
                    loops.store(products, self.vector((writes + v) * tiles + first + row), sums[row][self.vector(v)])

        whole, rest = divmod(tiles, plan.rows)
        loops.repeat(whole, lambda index: tile(index * plan.rows, plan.rows))
        if rest:
            tile(whole * plan.rows, rest)

    def _out(self, at: tuple[Any, Any, Any, Any], products: Any, place: Any) -> None:
        """Transform the tiles of a band of one vector of output channels back, and store them by rows."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        width, outputs = geometry.out_width, plan.outputs
        lines = loops.workspace(plan.band * outputs * width * lanes)
        rows = plan.band * outputs
        present = (
            loops.bind(tirx.min(rows, geometry.out_height - first * outputs)) if geometry.out_height % outputs else rows
        )

        def transform(p: Any) -> None:
            row, column = loops.bind(p // plan.across * outputs), loops.bind(p % plan.across * outputs)
            read = [
                [products[self.vector(place(i * plan.tile + j, p))] for j in range(plan.tile)] for i in range(plan.tile)
            ]
            columns = [
                product(self.matrices.result, [loops.bind(read[i][j]) for i in range(plan.tile)], lanes)
                for j in range(plan.tile)
            ]
            for i in range(outputs):
                values = product(self.matrices.result, [columns[k][i] for k in range(plan.tile)], lanes)
                for j, value in enumerate(values):
                    where = self.vector((row + i) * width + column + j)
                    if j < (width - 1) % outputs + 1:
                        loops.store(lines, where, value)
                        continue
                    with T.If(column + j < width), T.Then():
                        loops.store(lines, where, value)

        loops.repeat(plan.band * plan.across, transform)
        length = loops.bind(present * width)
        channels = g * geometry.group_out + o * lanes
        corner = loops.bind(((n * geometry.out_channels + channels) * geometry.out_height + first * outputs) * width)

        def chunk(q: Any) -> None:
            begin = loops.bind(tirx.min(q * lanes, length - lanes))

            def keep(lane: int, value: Any) -> None:
                turned = loops.local(lanes)
                loops.store(turned, loops.run(0, lanes), value)
                offset = loops.bind(corner + lane * geometry.positions + begin)

                def finish(k: Any) -> None:
                    after = loops.after_epilogue(self.spec, turned[k], self.rest, offset + k, channels + lane)
                    loops.store(self.result, offset + k, after)

                if geometry.group_out % lanes == 0:
                    loops.vectors(lanes, lanes, finish)
                    return
                with T.If(o * lanes + lane < geometry.group_out), T.Then():
                    loops.vectors(lanes, lanes, finish)

            transposed(lambda k: lines[self.vector(begin + k)], keep, lanes)

        count = (length + (lanes - 1)) // lanes
        with T.serial(0, count) as q:
            chunk(q)
