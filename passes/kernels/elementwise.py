"""Elementwise operators: one pass over memory, all steps in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Activation, Add, Binary, ChannelAffine, NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.epilogue import activation, applied, can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work

_BINARIES = {"sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b}

Axis = tuple[int, tuple[int, ...]]
"""A loop: its extent and the stride of each operand along it, in elements (0 where the operand is broadcast)."""


class Elementwise:
    """Activation, n-ary sum, binary function or channel-wise affine with its epilogue.

    Axes along which all operands advance alike are merged into one loop; the innermost runs in vectors.
    """

    name = "elementwise"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Activation | Add | Binary | ChannelAffine) or not can_apply(spec):
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        parallel = bool(dict(params)["parallel"])
        axes = merged_axes(spec)
        *outer, (extent, strides) = axes or [(1, (0,) * len(spec.operands))]
        extents = [axis[0] for axis in outer]
        count = math.prod(extents)
        piece = loops.piece_size(extent, count, target.lanes, target.threads if parallel else 1)
        cuts = -(-extent // piece)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            def task(index: Any) -> None:
                row, cut = index // cuts, index % cuts if cuts > 1 else 0
                at = loops.unravel(row, extents)
                bases = [loops.ravel(at, [axis[1][operand] for axis in outer]) for operand in range(len(spec.operands))]

                def run(begin: Any, length: int) -> None:
                    def element(position: Any) -> None:
                        place = begin + position
                        loaded = [
                            buffer[base + place * stride]
                            for buffer, base, stride in zip(operands, bases, strides, strict=True)
                        ]
                        loops.store(results[0], row * extent + place, _value(spec, loaded))

                    loops.vectors(length, target.lanes, element)

                loops.pieces(extent, piece, cut, run)

            loops.repeat(count * cuts, task, parallel)

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Every element loaded once per operand and stored once."""
        moved = 4 * spec.results[0].size * (len(spec.operands) + 1)
        return Work(spec.flops, spec.bytes, spec.bytes, moved)


def merged_axes(spec: NodeSpec) -> list[Axis]:
    """The result's axes without those of extent 1, neighbours merged where every operand allows."""
    shape = spec.results[0].shape
    strides = [_strides(spec, index) for index in range(len(spec.operands))]
    axes: list[Axis] = []
    for position, extent in enumerate(shape):
        along = tuple(stride[position] for stride in strides)
        if extent == 1:
            continue
        if axes and all(outer == inner * extent for outer, inner in zip(axes[-1][1], along, strict=True)):
            axes[-1] = (axes[-1][0] * extent, along)
        else:
            axes.append((extent, along))
    return axes


def _strides(spec: NodeSpec, index: int) -> list[int]:
    """An operand's stride along each axis of the result."""
    rank = len(spec.results[0].shape)
    shape = spec.operands[index].type.shape
    anchors = len(spec.anchor_operands)
    channel: int | None = None
    if index >= anchors:
        kinds = [step.kind for step in spec.epilogue if step.operands]
        if kinds[index - anchors] == "bias":
            channel = 1 if rank == 4 else rank - 1
    elif isinstance(spec.op, ChannelAffine) and index > 0:
        channel = 1
    if channel is not None:
        return [int(axis == channel) for axis in range(rank)]
    own = [stride if extent > 1 else 0 for stride, extent in zip(loops.row_major(shape), shape, strict=True)]
    return [0] * (rank - len(shape)) + own


def _value(spec: NodeSpec, loaded: Sequence[Any]) -> Any:
    op = spec.op
    first, *others = loaded[: len(spec.anchor_operands)]
    if isinstance(op, Activation):
        first = activation(op.kind, op.params, first)
    elif isinstance(op, Binary):
        first = _BINARIES[op.kind](first, others[0])
    elif isinstance(op, ChannelAffine):
        first = first * others[0] + others[1]
    else:
        for other in others:
            first = first + other
    rest = [(lambda *_, value=value: value) for value in loaded[len(spec.anchor_operands) :]]
    return applied(spec, first, rest, (0, 0))
