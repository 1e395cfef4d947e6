"""Layouts of four-dimensional tensors, and the operator that changes them.

A layout is the number of channels in a block: `PLAIN` is row-major NCHW, 16 is NCHW16c ([N, C/16, H, W, 16]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from joulec.passes.graph import NodeSpec, OperandSpec, Operator, TensorType

PLAIN = 0


def layout_name(block: int) -> str:
    """TVM's name of a layout."""
    return f"NCHW{block}c" if block else "NCHW"


def block_of(channels: int, lanes: int) -> int:
    """The block that TVM gives so many channels: the largest divisor that fits a vector."""
    return next(size for size in range(min(lanes, channels), 0, -1) if channels % size == 0)


def blocked_shape(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """The shape of an NCHW tensor in a layout."""
    if not block:
        return shape
    batch, channels, height, width = shape
    return (batch, channels // block, height, width, block)


def same_memory(shape: tuple[int, ...], first: int, second: int) -> bool:
    """Whether a tensor looks alike in memory under two layouts."""
    return first == second or shape[2] * shape[3] == 1 or {first, second} == {PLAIN, 1}


def layout_read(spec: NodeSpec, index: int, reads: int, writes: int) -> int:
    """The layout in which an algorithm takes an operand: what an epilogue adds stands in that of the result."""
    if len(spec.operands[index].type.shape) != 4:
        return PLAIN
    return reads if index < len(spec.anchor_operands) else writes


@dataclass(frozen=True, slots=True)
class Relayout(Operator):
    """The same tensor in another layout; it stands on edges, never in a graph."""

    source: int
    target: int

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (operands[0],)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 0

    def evaluate(self, *operands: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        return (operands[0],)


def relayout_spec(type: TensorType, source: int, target: int) -> NodeSpec:
    """A conversion as something that can be computed and measured."""
    return NodeSpec(Relayout(source, target), (OperandSpec(type, False),), (), (type,))


def to_layout(array: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """A row-major tensor [N, C, H, W] in a layout."""
    if not block:
        return array
    batch, channels, height, width = array.shape
    return array.reshape(batch, channels // block, block, height, width).transpose(0, 1, 3, 4, 2)


def from_layout(array: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """A tensor in a layout as row-major [N, C, H, W]."""
    if not block:
        return array
    batch, blocks, height, width, _ = array.shape
    return array.transpose(0, 1, 4, 2, 3).reshape(batch, blocks * block, height, width)
