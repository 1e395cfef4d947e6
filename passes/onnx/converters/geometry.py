"""Kernel, strides and padding as ONNX's convolutions and poolings state them; rows as planes of height one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from joulec.passes.graph import Literal, Reshape, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Source

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Attributes of a window over a plane; padding is (top, left, bottom, right)."""

    kernel: Pair
    strides: Pair
    dilation: Pair
    padding: tuple[int, int, int, int]


def geometry(source: Source, kernel: tuple[int, ...]) -> Geometry | None:
    """The geometry of a window over a plane, or over a row (as a plane of height one).

    None where it is of another rank or has negative padding.
    """
    shape = source.operand(0).type.shape
    rank = len(kernel)
    if rank not in (1, 2) or len(shape) != rank + 2:
        return None
    strides = tuple(source.attribute("strides", (1,) * rank))
    dilation = tuple(source.attribute("dilations", (1,) * rank))
    automatic = source.attribute("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = (0,) * (2 * rank)
    elif automatic == "NOTSET":
        pads = tuple(source.attribute("pads", (0,) * (2 * rank)))
    else:
        upper = automatic == "SAME_UPPER"
        sides = [_same(shape[2 + i], kernel[i], strides[i], dilation[i], upper) for i in range(rank)]
        pads = (*(side[0] for side in sides), *(side[1] for side in sides))
    if min(pads) < 0:
        return None
    if rank == 1:
        return Geometry((1, kernel[0]), (1, strides[0]), (1, dilation[0]), (0, pads[0], 0, pads[1]))
    top, left, bottom, right = pads
    return Geometry(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilation[0], dilation[1]), (top, left, bottom, right)
    )


def as_planes(source: Source, operand: Operand) -> Operand:
    """Data or kernel [A,B,W] as [A,B,1,W]; four dimensions stay as they are."""
    shape = operand.type.shape
    planes = as_four(shape)
    if planes == shape:
        return operand
    if isinstance(operand, Literal):
        return literal(np.ascontiguousarray(operand.value()).reshape(planes))
    return source.emit(Reshape(planes), operand)[0]


def as_four(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape [A,B,W] as [A,B,1,W]; four dimensions stay as they are."""
    return shape if len(shape) == 4 else (*shape[:2], 1, shape[2])


def as_before(source: Source, operand: Operand, rank: int) -> Operand:
    """A result of four dimensions as one of the rank that the operator has: rows where it was given rows."""
    shape = operand.type.shape
    return operand if rank == len(shape) else source.emit(Reshape((*shape[:2], shape[3])), operand)[0]


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> Pair:
    """Padding before and after so that the result has ceil(size / stride) positions; the odd one goes to one side."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)
