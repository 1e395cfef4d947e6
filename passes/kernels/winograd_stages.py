"""The stages of a Winograd convolution as loops: transforms of tiles, products, transforms back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.conv_tir import ceil_div, start
from joulec.passes.kernels.squares import transposed
from joulec.passes.kernels.winograd import product, transforms
from joulec.passes.kernels.winograd_plan import Plan


class Stages:
    """Emits the stages; all buffers are flat, and ``lanes`` channels the fastest axis of each workspace."""

    def __init__(self, spec: NodeSpec, plan: Plan, operands: Sequence[Any], result: Any, threads: int) -> None:
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
        if plan.reads:
            self._lines(first, planes, height, self._block(planes, n, g * plan.in_blocks + i))
            return

        def channel(lane: int) -> Any:
            """A channel; beyond the last, where weights are zero, the last one again."""
            wanted = i * lanes + lane
            whole = geometry.group_in % lanes == 0
            within = wanted if whole else tirx.min(wanted, geometry.group_in - 1)
            return (n * geometry.channels + g * geometry.group_in + within) * area

        bases = [loops.bind(channel(lane)) for lane in range(lanes)]

        def square(position: Any, keep: Any) -> None:
            transposed(lambda lane: self.data[loops.run(bases[lane] + position, lanes)], keep, lanes)

        if plan.flat:
            self._zeros(planes, 0, height * plan.pitch)

            def chunk(q: Any) -> None:
                begin = loops.bind(start(q, area, lanes))

                def keep(k: int, value: Any) -> None:
                    row, column = (begin + k) // geometry.width, (begin + k) % geometry.width
                    loops.store(planes, self.vector((row + geometry.top) * plan.pitch + column + geometry.left), value)

                square(begin, keep)

            loops.repeat(ceil_div(area, lanes), chunk)
            return

        def line(row: Any, begin: Any) -> None:
            def chunk(q: Any) -> None:
                column = loops.bind(start(q, geometry.width, lanes))
                square(
                    row * geometry.width + column,
                    lambda k, value: loops.store(planes, self.vector(begin + column + k), value),
                )

            loops.repeat(ceil_div(geometry.width, lanes), chunk)

        self._lines(first, planes, height, line)

    def _block(self, planes: Any, n: Any, block: Any) -> Callable[[Any, Any], None]:
        """Copies rows of a block of channels."""
        geometry = self.geometry
        base = loops.bind((n * (geometry.channels // self.lanes) + block) * geometry.height)

        def line(row: Any, begin: Any) -> None:
            source = loops.bind((base + row) * geometry.width)
            loops.repeat(
                geometry.width,
                lambda k: loops.store(planes, self.vector(begin + k), self.data[self.vector(source + k)]),
            )

        return line

    def _lines(self, first: Any, planes: Any, height: int, line: Callable[[Any, Any], None]) -> None:
        """Rows with zeros around them; ``line(row, begin)`` brings a row of the input to vector ``begin``."""
        plan, geometry = self.plan, self.geometry

        def padded(h: Any) -> None:
            row = loops.bind(first * plan.outputs + h - geometry.top)
            begin = loops.bind(h * plan.pitch)
            with T.If(tirx.all(row >= 0, row < geometry.height)):
                with T.Then():
                    self._zeros(planes, begin, geometry.left)
                    line(row, loops.bind(begin + geometry.left))
                    used = geometry.left + geometry.width
                    self._zeros(planes, begin + used, plan.pitch - used)
                with T.Else():
                    self._zeros(planes, begin, plan.pitch)

        loops.repeat(height, padded)

    def _zeros(self, planes: Any, begin: Any, count: int) -> None:
        zero = loops.splat(loops.f32(0), self.lanes)
        loops.repeat(count, lambda k: loops.store(planes, self.vector(begin + k), zero))

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
        """Transform the tiles of a band of one vector of output channels back, and store them."""
        geometry, outputs = self.geometry, self.plan.outputs
        rows = self.plan.band * outputs
        left = geometry.out_height - at[3] * outputs
        present = loops.bind(tirx.min(rows, left)) if geometry.out_height % outputs else rows
        if self.plan.writes and not self.plan.pooled:
            self._out_blocked(at, products, place, present)
            return
        lines = loops.workspace(rows * geometry.out_width * self.lanes)
        self._back(products, place, lambda row, column, value: self._keep(lines, row, column, value))
        if not self.plan.pooled:
            self._store_rows(at, lines, loops.bind(present * geometry.out_width))
        elif self.plan.writes:
            self._pool_blocked(at, lines, present)
        else:
            self._store_rows(at, self._pool(lines, rows), loops.bind(present // 2 * (geometry.out_width // 2)))

    def _largest(self, lines: Any, p: Any) -> Any:
        """The maximum of the square of 2x2 vectors that pooled position ``p`` of a band takes."""
        width = self.geometry.out_width
        half = width // 2
        corner = loops.bind(p // half * (2 * width) + p % half * 2)
        square = [lines[self.vector(corner + at)] for at in (0, 1, width, width + 1)]
        return te.max(te.max(square[0], square[1]), te.max(square[2], square[3]))

    def _pool(self, lines: Any, rows: int) -> Any:
        """A band's results, pooled."""
        count = rows // 2 * (self.geometry.out_width // 2)
        pooled = loops.workspace(count * self.lanes)
        loops.repeat(count, lambda p: loops.store(pooled, self.vector(p), self._largest(lines, p)))
        return pooled

    def _pool_blocked(self, at: tuple[Any, Any, Any, Any], lines: Any, present: Any) -> None:
        """A band's results, pooled, to their block."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        half = geometry.out_width // 2
        block = loops.bind(g * plan.written + o)
        positions = geometry.out_height // 2 * half
        corner = loops.bind(
            (n * (geometry.out_channels // lanes) + block) * positions + first * (plan.outputs // 2 * half)
        )
        with T.serial(0, present // 2 * half) as p:
            value = loops.bind(self._largest(lines, p))
            offset = loops.bind((corner + p) * lanes)
            loops.finish_vector(self.spec, value, self.rest, (self.result, offset, block * lanes), lanes)

    def _keep(self, lines: Any, row: Any, column: Any, value: Any) -> None:
        loops.store(lines, self.vector(row * self.geometry.out_width + column), value)

    def _back(self, products: Any, place: Any, keep: Callable[[Any, Any, Any], None], present: Any = None) -> None:
        """Transform a band's tiles back; ``keep(row, column, value)`` takes results within the columns.

        Args:
            present: rows of the band that the output has; None takes all.
        """
        plan, lanes, outputs = self.plan, self.lanes, self.plan.outputs
        width, height = self.geometry.out_width, self.geometry.out_height

        def within(index: int, extent: int) -> bool:
            """Whether every tile has its result ``index`` along an axis inside the output."""
            return index <= (extent - 1) % outputs

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
                    inside = [] if within(j, width) else [column + j < width]
                    inside += [] if present is None or within(i, height) else [row + i < present]
                    if not inside:
                        keep(row + i, column + j, value)
                        continue
                    with T.If(tirx.all(*inside)), T.Then():
                        keep(row + i, column + j, value)

        loops.repeat(plan.band * plan.across, transform)

    def _out_blocked(self, at: tuple[Any, Any, Any, Any], products: Any, place: Any, present: Any) -> None:
        """Results of one vector of channels go straight to their block."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        block = loops.bind(g * plan.written + o)
        corner = loops.bind(
            (n * (geometry.out_channels // lanes) + block) * geometry.positions
            + first * (plan.outputs * geometry.out_width)
        )

        def keep(row: Any, column: Any, value: Any) -> None:
            offset = loops.bind((corner + row * geometry.out_width + column) * lanes)
            loops.finish_vector(self.spec, value, self.rest, (self.result, offset, block * lanes), lanes)

        self._back(products, place, keep, present)

    def _store_rows(self, at: tuple[Any, Any, Any, Any], lines: Any, length: Any) -> None:
        """Turn a band's results of one vector of channels to planes."""
        plan, geometry, lanes = self.plan, self.geometry, self.lanes
        n, g, o, first = at
        by = 2 if plan.pooled else 1
        height, width, top = geometry.out_height // by, geometry.out_width // by, first * (plan.outputs // by)
        channels = g * geometry.group_out + o * lanes
        corner = loops.bind(((n * geometry.out_channels + channels) * height + top) * width)

        def chunk(q: Any) -> None:
            begin = loops.bind(tirx.min(q * lanes, length - lanes))

            def keep(lane: int, value: Any) -> None:
                turned = loops.local(lanes)
                loops.store(turned, loops.run(0, lanes), value)
                offset = loops.bind(corner + lane * (height * width) + begin)

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
