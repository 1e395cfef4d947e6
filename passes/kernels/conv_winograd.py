"""Winograd convolution: tiles transformed, one matrix product per element of a tile, products transformed back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import NodeSpec, PooledConv2d, TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import convolves_blocks, operand_types, packed, result_types
from joulec.passes.kernels.conv_tir import Geometry, chosen, padded_channels
from joulec.passes.kernels.epilogue import can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pooled_spec import convolution_of
from joulec.passes.kernels.winograd import transformed_kernel
from joulec.passes.kernels.winograd_plan import TILES, Plan, applies, plan_for, pools
from joulec.passes.kernels.winograd_stages import Stages
from joulec.passes.layouts.layout import PLAIN
from joulec.profiler.candidate import Work

_ROUNDING = {2: 2e-6, 4: 1e-5}
"""By the tile's outputs: several times what the tests show."""


class WinogradConv:
    """Square 3x3 and 5x5 convolutions of stride 1.

    Channels run along vectors from the first transform to the last; planes are transposed in registers on their way in
    and out. ``fused`` tasks take some rows of tiles through all stages in the second-level cache; otherwise each stage
    is a parallel loop over everything, so that weights are read once. Pooling by 2x2 is computed on the way out.
    """

    name = "winograd"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """Tiles of four outputs, fused and in stages, then of two in the likelier of both; where they make sense.

        The larger tiles also on blocked activations.
        """
        pooled = isinstance(spec.op, PooledConv2d)
        geometry = Geometry.of(convolution_of(spec))
        if geometry is None or not can_apply(spec) or not applies(geometry, target) or (pooled and not pools(spec)):
            return ()

        def offered(plans: Sequence[Plan | None]) -> list[Params]:
            fitting = [replace(plan, pooled=pooled) for plan in plans if plan is not None]
            return [plan.params for plan in fitting if not pooled or plan.writes or plan.least >= target.lanes]

        found: list[Params] = []
        largest, *smaller = TILES[geometry.kernel[0]]
        for ends in _layouts(spec, target):
            plans = [plan_for(geometry, geometry.team(target), largest, fused, *ends) for fused in (1, 0)]
            found += offered(plans)
        for outputs in smaller:
            plans = [plan_for(geometry, geometry.team(target), outputs, fused) for fused in (1, 0)]
            found += offered(plans)[:1]
        return found

    def rounding(self, params: Params) -> float:
        """The relative error against float64 below which results of unit variance stay."""
        return _ROUNDING[chosen(params)["tile"]]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The transformed kernel as [groups, channel blocks, tile, I, block]; other operands as they are."""
        if index != 1:
            return packed(spec, params, index, array)
        plan = Plan.of(spec, params, target)
        blocked = padded_channels(array, plan.geometry.groups, plan.width)  # [g, blocks, width, I, r, r]
        groups, blocks, width, channels = blocked.shape[:4]
        flat = blocked.reshape(-1, *blocked.shape[3:])
        matrices = transformed_kernel(plan.outputs, flat).reshape(-1, groups, blocks, width, channels)
        missing = plan.in_blocks * plan.lanes - channels
        matrices = np.pad(matrices, ((0, 0),) * 4 + ((0, missing),))
        return np.ascontiguousarray(matrices.transpose(1, 2, 0, 4, 3))

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        plan = Plan.of(spec, params, target)
        types = operand_types(spec, params)
        types[1] = TensorType(plan.packed)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            emitter = Stages(spec, plan, operands, results[0], plan.geometry.team(target).threads)
            if plan.fused:
                emitter.fused()
            else:
                emitter.staged()

        return loops.prim_func(types, result_types(spec, params), body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Products of whole tiles and blocks; each transform about four operations per element and dimension."""
        plan = Plan.of(spec, params, target)
        geometry = plan.geometry
        area = plan.tile**2
        tiles = geometry.batch * geometry.groups * plan.tiles
        read, written = plan.in_blocks * plan.lanes, plan.out_blocks * plan.width
        moved = tiles * area * (read + written)
        streams = geometry.batch * plan.bands if plan.fused else 1
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


def _layouts(spec: NodeSpec, target: CpuTarget) -> Iterator[tuple[int, int]]:
    """Row-major, and blocked at both ends where groups are whole blocks."""
    yield PLAIN, PLAIN
    if convolves_blocks(spec, target):
        yield target.lanes, target.lanes
