"""Elementwise operators: one pass over memory, all steps in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from joulec.passes.graph import Activation, Add, Binary, ChannelAffine, NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import ends, fits, operand_types, packed, result_types, with_ends
from joulec.passes.kernels.epilogue import activation, applied, can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.layouts.layout import PLAIN, blocked_shape
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
        schedules: list[Params] = [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]
        if fits(spec.results[0], target) and not _broadcasts(spec):
            schedules.append(with_ends(schedules[0], target.lanes, target.lanes))
        return schedules

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Constants in the layout of the activations."""
        return packed(spec, params, index, array)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        parallel = bool(dict(params)["parallel"])
        axes = merged_axes(spec, ends(params)[1]) or [(1, (0,) * len(spec.operands))]
        short = len(axes) > 1 and axes[-1][0] == target.lanes
        *outer, (extent, strides), (width, along) = axes if short else [*axes, (1, (0,) * len(spec.operands))]
        extents = [axis[0] for axis in outer]
        count = math.prod(extents)
        piece = loops.piece_size(extent, count, target.lanes, target.threads if parallel else 1)
        cuts = -(-extent // piece)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            def task(index: Any) -> None:
                row, cut = index // cuts, index % cuts if cuts > 1 else 0
                at = loops.unravel(row, extents)
                bases = [loops.ravel(at, [axis[1][operand] for axis in outer]) for operand in range(len(spec.operands))]

                def element(place: Any, lane: Any) -> None:
                    loaded = [
                        buffer[base + place * stride + lane * step]
                        for buffer, base, stride, step in zip(operands, bases, strides, along, strict=True)
                    ]
                    loops.store(results[0], (row * extent + place) * width + lane, _value(spec, loaded))

                def run(begin: Any, length: int) -> None:
                    if not short:
                        loops.vectors(length, target.lanes, lambda position: element(begin + position, 0))
                        return

                    def vector(position: Any) -> None:
                        loops.vectors(width, width, lambda lane: element(begin + position, lane))

                    loops.repeat(length, vector)

                loops.pieces(extent, piece, cut, run)

            loops.repeat(count * cuts, task, parallel)

        return loops.prim_func(operand_types(spec, params), result_types(spec, params), body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Every element loaded once per operand and stored once."""
        moved = 4 * spec.results[0].size * (len(spec.operands) + 1)
        return Work(spec.flops, spec.bytes, spec.bytes, moved)


def _broadcasts(spec: NodeSpec) -> bool:
    """Whether some operand is neither as the result nor one number per channel."""
    shape = spec.results[0].shape
    return any(_channel(spec, index) is None and o.type.shape != shape for index, o in enumerate(spec.operands))


def merged_axes(spec: NodeSpec, block: int = PLAIN) -> list[Axis]:
    """The result's axes without those of extent 1, neighbours merged where every operand allows.

    Args:
        block: the layout of the result, and of all operands but those of one number per channel.
    """
    shape = blocked_shape(spec.results[0].shape, block)
    strides = [_strides(spec, index, block) for index in range(len(spec.operands))]
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


def _channel(spec: NodeSpec, index: int) -> int | None:
    """The result's axis along which an operand has one number per channel; None where it is another tensor."""
    rank = len(spec.results[0].shape)
    anchors = len(spec.anchor_operands)
    if index >= anchors:
        kinds = [step.kind for step in spec.epilogue if step.operands]
        return (1 if rank == 4 else rank - 1) if kinds[index - anchors] == "bias" else None
    return 1 if isinstance(spec.op, ChannelAffine) and index > 0 else None


def _strides(spec: NodeSpec, index: int, block: int) -> list[int]:
    """An operand's stride along each axis of the result in its layout."""
    rank = len(spec.results[0].shape)
    shape, channel = spec.operands[index].type.shape, _channel(spec, index)
    if channel is not None:
        return [0, block, 0, 0, 1] if block else [int(axis == channel) for axis in range(rank)]
    if block:
        return loops.row_major(blocked_shape(shape, block))
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
