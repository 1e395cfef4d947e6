"""Which Winograd schedules fit a convolution and a target, and the sizes that follow from one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from joulec.passes.graph import NodeSpec, PooledConv2d
from joulec.passes.kernels.blocks import ends, with_ends
from joulec.passes.kernels.conv_tir import Geometry, ceil_div, chosen
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pooled_spec import convolution_of
from joulec.passes.kernels.register_tile import product_tile
from joulec.passes.layouts.layout import PLAIN

TILES = {3: (4, 2), 5: (2,)}
"""Outputs of a tile by the kernel's side: those with tiles of at most six."""
_LEAST_CHANNELS = 8
"""Transforms cost as much as products where channels are few."""


@dataclass(frozen=True)
class Plan:
    """A schedule with what follows from it.

    Attributes:
        geometry: the convolution.
        lanes: channels of a vector.
        outputs: side of an output tile.
        fused: whether a task takes its tiles through all stages.
        band: rows of tiles that are transformed together.
        rows: tiles of a register tile of the product.
        vectors: vectors of output channels of one.
        reads: channels in a block of the input, 0 where it is row-major.
        writes: the same of the output.
        pooled: whether squares of 2x2 results are pooled before they are stored.
    """

    geometry: Geometry
    lanes: int
    outputs: int
    fused: bool
    band: int
    rows: int
    vectors: int
    reads: int = PLAIN
    writes: int = PLAIN
    pooled: bool = False

    @staticmethod
    def of(spec: NodeSpec, params: Params, target: CpuTarget) -> Plan:
        parts = chosen(params)
        geometry = Geometry.required(convolution_of(spec))
        sizes = parts["tile"], bool(parts["fused"]), parts["band"], parts["rows"], parts["vectors"]
        return Plan(geometry, target.lanes, *sizes, *ends(params), isinstance(spec.op, PooledConv2d))

    @property
    def params(self) -> Params:
        """As the cost key has it."""
        parts = (
            ("tile", self.outputs),
            ("fused", int(self.fused)),
            ("band", self.band),
            ("rows", self.rows),
            ("vectors", self.vectors),
        )
        return with_ends(parts, self.reads, self.writes)

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
        """Whether row-major rows are shorter than a vector: planes are then transposed as one long row."""
        short_in = self.reads == PLAIN and self.geometry.width < self.lanes
        return short_in or (self.writes == PLAIN and self.geometry.out_width < self.lanes)

    @property
    def least(self) -> int:
        """Positions that a band stores of a pooled plane at least: the last band may hang over."""
        rows = min(self.band * self.outputs, self.geometry.out_height - (self.down - self.band) * self.outputs)
        return rows // 2 * (self.geometry.out_width // 2)


def pools(spec: NodeSpec) -> bool:
    """Whether squares of 2x2 results are pooled that lie inside one tile each."""
    op = spec.op
    assert isinstance(op, PooledConv2d)
    between = convolution_of(spec).results[0].shape[2:]
    plain = not any(op.pooling.padding) and op.pooling.dilation == (1, 1)
    squares = op.pooling.kernel == op.pooling.strides == (2, 2)
    return plain and squares and spec.results[0].shape[2:] == (between[0] // 2, between[1] // 2)


def applies(geometry: Geometry, target: CpuTarget) -> bool:
    square = geometry.kernel[0] == geometry.kernel[1] and geometry.kernel[0] in TILES
    plain = geometry.strides == (1, 1) and geometry.dilation == (1, 1)
    wide = min(geometry.group_in, geometry.group_out) >= min(_LEAST_CHANNELS, target.lanes)
    planes = min(geometry.height * geometry.width, geometry.positions) >= target.lanes
    return square and plain and wide and planes and target.lanes > 1


def plan_for(
    geometry: Geometry, target: CpuTarget, outputs: int, fused: int, reads: int = PLAIN, writes: int = PLAIN
) -> Plan | None:
    """A schedule with bands and register tiles that fit; None where it cannot be worth measuring."""
    whole = Plan(geometry, target.lanes, outputs, bool(fused), 1, 1, 1, reads, writes)
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
    rows, vectors = product_tile(tiles, geometry.group_out, target)
    return replace(whole, band=band, rows=rows, vectors=vectors)


def _band(whole: Plan, target: CpuTarget, weights: int) -> int:
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
