"""Winograd convolution on a GPU: tiles transformed, matrix products under dlight's matmul, tiles transformed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import s_tir, te, tirx
from tvm.s_tir import dlight

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.conv_tir import Geometry, ceil_div
from joulec.passes.kernels.cuda.conv import padded
from joulec.passes.kernels.cuda.kernel import Staged
from joulec.passes.kernels.cuda.stages import Stage, stage
from joulec.passes.kernels.cuda.stages import dlight as rule
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.epilogue import applied, placeholders
from joulec.passes.kernels.kernel import Params
from joulec.passes.kernels.winograd import Rows, transformed_kernel, transforms
from joulec.profiler.candidate import Work

_OUTPUTS = {3: (4, 2), 5: (2,)}
"""Outputs of a tile by the kernel's side: those with tiles of at most six."""
_LEAST_CHANNELS = 8
"""Transforms cost as much as products where channels are few."""
_ROUNDING = {2: 2e-6, 4: 1e-5}
"""By the tile's outputs: what the same transforms reach on CPUs."""
_THREADS = 128


@dataclass(frozen=True)
class _Tiling:
    """The sizes of F(outputs, taps) on a convolution."""

    geometry: Geometry
    outputs: int

    @property
    def taps(self) -> int:
        return self.geometry.kernel[0]

    @property
    def side(self) -> int:
        return self.outputs + self.taps - 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return ceil_div(self.geometry.out_height, self.outputs), ceil_div(self.geometry.out_width, self.outputs)

    @property
    def tiles(self) -> int:
        return self.geometry.batch * self.grid[0] * self.grid[1]


class CudaWinograd(Staged):
    """Square 3x3 and 5x5 convolutions of stride 1 in one group; one thread transforms a channel of a tile."""

    name = "winograd"

    def schedules(self, spec: NodeSpec, target: CudaTarget) -> Sequence[Params]:
        """The tiles, larger ones first."""
        geometry = Geometry.of(spec)
        if geometry is None or geometry.groups > 1 or geometry.strides != (1, 1) or geometry.dilation != (1, 1):
            return ()
        few = min(geometry.channels, geometry.out_channels) < _LEAST_CHANNELS
        if few or geometry.kernel[0] != geometry.kernel[1] or geometry.positions < 2:
            return ()
        return [(("tile", outputs),) for outputs in _OUTPUTS.get(geometry.kernel[0], ())]

    def rounding(self, params: Params) -> float:
        """The relative error against float64 below which results of unit variance stay."""
        return _ROUNDING[dict(params)["tile"]]

    def pack(
        self, spec: NodeSpec, params: Params, target: CudaTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The transformed kernel as [side, side, O, I]; other operands as they are."""
        if index != 1:
            return super().pack(spec, params, target, index, array)
        matrices = transformed_kernel(dict(params)["tile"], array)
        side = _tiling(spec, params).side
        return np.ascontiguousarray(matrices.reshape(side, side, *matrices.shape[1:]))

    def stages(self, spec: NodeSpec, params: Params) -> Sequence[Stage]:
        """Into tiles, products, out of tiles with the epilogue."""
        tiling = _tiling(spec, params)
        geometry, side = tiling.geometry, tiling.side
        data, _, *rest = placeholders(spec)
        weight = te.placeholder((side, side, geometry.out_channels, geometry.channels), "float32", "weight")
        into = _into_tiles(tiling, data)
        given = te.placeholder(into.shape, "float32", "tiles")
        product = _products(weight, given)
        found = te.placeholder(product.shape, "float32", "products")
        count = len(spec.operands)
        return (
            stage([data], [into], [_by_tile(_tile_loops)], (0,)),
            stage([weight, given], [product], [rule(dlight.gpu.Matmul())], (1, count)),
            stage(
                [found, *rest],
                [_out_of_tiles(spec, tiling, found, rest)],
                [_by_tile(lambda schedule, block: _result_loops(schedule, block, tiling.outputs))],
                (count + 1, *range(2, count)),
            ),
        )

    def work(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Work:
        """Products of whole tiles; each transform about four operations per element and dimension."""
        tiling = _tiling(spec, params)
        geometry = tiling.geometry
        area = tiling.side**2
        products = 2.0 * tiling.tiles * area * geometry.channels * geometry.out_channels
        moved = float(tiling.tiles * area * (geometry.channels + geometry.out_channels))
        weights = 4.0 * area * geometry.channels * geometry.out_channels
        return Work(
            flops=products + 8 * moved + len(spec.epilogue) * spec.results[0].size,
            dram_bytes=spec.bytes - spec.operands[1].type.bytes + weights,
            cache_bytes=8 * moved + spec.bytes,
            register_bytes=4 * products,
        )


def _tiling(spec: NodeSpec, params: Params) -> _Tiling:
    return _Tiling(Geometry.required(spec), dict(params)["tile"])


def _row(matrix: Rows, row: Any, value: Callable[[int], Any]) -> Any:
    """A row of a matrix times a vector; once its loop is unrolled, the row's number and coefficients are constants."""
    total = None
    for column in range(len(matrix[0])):
        coefficient: Any = tirx.const(float(matrix[-1][column]), "float32")
        for index in range(len(matrix) - 1):
            coefficient = tirx.Select(row == index, tirx.const(float(matrix[index][column]), "float32"), coefficient)
        term = coefficient * value(column)
        total = term if total is None else total + term
    return total


def _into_tiles(tiling: _Tiling, data: Any) -> Any:
    """B^T d B: [side, side, tiles, C], as products fetch it."""
    geometry, side, outputs = tiling.geometry, tiling.side, tiling.outputs
    down, across = tiling.grid
    source = padded(geometry, data, down * outputs + tiling.taps - 1, across * outputs + tiling.taps - 1)
    matrix = transforms(outputs, tiling.taps).data

    def rows(b: Any, c: Any, e: Any, j: Any) -> Any:
        n, place = b // (down * across), b % (down * across)
        y, x = place // across * outputs, place % across * outputs
        return _row(matrix, e, lambda i: source[n, c, y + i, x + j])

    half = te.compute((tiling.tiles, geometry.channels, side, side), rows, "half")
    return te.compute(
        (side, side, tiling.tiles, geometry.channels),
        lambda e, f, b, c: _row(matrix, f, lambda j: half[b, c, e, j]),
        "tiles",
    )


def _products(weight: Any, tiles: Any) -> Any:
    """[side, side, O, tiles]; tiles come first in the sum, since their number may exceed a grid's second axis."""
    side, _, count, channels = (int(extent) for extent in tiles.shape)
    c = te.reduce_axis((0, channels), "c")
    return te.compute(
        (side, side, int(weight.shape[2]), count),
        lambda e, f, o, b: te.sum(tiles[e, f, b, c] * weight[e, f, o, c], axis=[c]),
        "products",
    )


def _out_of_tiles(spec: NodeSpec, tiling: _Tiling, products: Any, rest: Sequence[Any]) -> Any:
    """A^T m A, then the epilogue: [N, O, outH, outW]."""
    geometry, side, outputs = tiling.geometry, tiling.side, tiling.outputs
    down, across = tiling.grid
    matrix = transforms(outputs, tiling.taps).result
    half = te.compute(
        (geometry.out_channels, tiling.tiles, outputs, side),
        lambda o, b, a, f: _row(matrix, a, lambda e: products[e, f, o, b]),
        "half",
    )
    tile = te.compute(
        (geometry.out_channels, tiling.tiles, outputs, outputs),
        lambda o, b, a, z: _row(matrix, z, lambda f: half[o, b, a, f]),
        "tile",
    )

    def one(n: Any, o: Any, i: Any, j: Any) -> Any:
        b = (n * down + i // outputs) * across + j // outputs
        return applied(spec, tile[o, b, i % outputs, j % outputs], rest, (n, o, i, j))

    return te.compute(spec.results[0].shape, one, "result")


def _by_tile(loops: Callable[[Any, Any], tuple[list[Any], list[Any]]]) -> Callable[[Any, Any], Any]:
    """One thread per channel of a tile: what lies between first and last block in registers, all loops unrolled.

    Args:
        loops: of the last block, from the schedule: those over channels and tiles, and those inside a tile.
    """

    def apply(function: Any, target: Any) -> Any:
        schedule = s_tir.Schedule(function)
        *before, last = schedule.get_child_blocks(schedule.get_sblock("root"))
        outer, inner = loops(schedule, last)
        schedule.reorder(*outer, *inner)
        block, thread = schedule.split(schedule.fuse(*outer), [None, _THREADS])
        schedule.bind(block, "blockIdx.x")
        schedule.bind(thread, "threadIdx.x")
        for one in reversed(before):
            if schedule.get(one).name_hint == "padded":
                schedule.compute_inline(one)
                continue
            schedule.compute_at(one, thread)
            schedule.set_scope(one, 0, "local")
            for loop in schedule.get_loops(one)[2:]:
                schedule.unroll(loop)
        for loop in inner:
            schedule.unroll(loop)
        return schedule

    return apply


def _tile_loops(schedule: Any, block: Any) -> tuple[list[Any], list[Any]]:
    e, f, b, c = schedule.get_loops(block)
    return [b, c], [e, f]


def _result_loops(schedule: Any, block: Any, outputs: int) -> tuple[list[Any], list[Any]]:
    n, o, i, j = schedule.get_loops(block)
    row, a = schedule.split(i, [None, outputs])
    column, z = schedule.split(j, [None, outputs])
    return [n, o, row, column], [a, z]
