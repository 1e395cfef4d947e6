"""Layouts of four-dimensional tensors, and the operator that changes them.

A layout is the number of channels in a block: `PLAIN` is row-major NCHW, 16 is NCHW16c ([N, C/16, H, W, 16]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Operator, TensorType

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


def pack_kernel(array: npt.NDArray[Any], inner: int, outer: int) -> npt.NDArray[Any]:
    """A kernel [O, I, kH, kW] as OIHW{inner}i{outer}o."""
    out, into, height, width = array.shape
    split = array.reshape(out // outer, outer, into // inner, inner, height, width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


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
