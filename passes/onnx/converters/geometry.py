"""Kernel, strides and padding as ONNX's convolutions and poolings state them."""

from __future__ import annotations

from dataclasses import dataclass

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
    """The geometry of a two-dimensional window, None where it is of another rank or has negative padding."""
    shape = source.operand(0).type.shape
    if len(shape) != 4 or len(kernel) != 2:
        return None
    strides = tuple(source.attribute("strides", (1, 1)))
    dilation = tuple(source.attribute("dilations", (1, 1)))
    automatic = source.attribute("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = (0, 0, 0, 0)
    elif automatic == "NOTSET":
        pads = tuple(source.attribute("pads", (0, 0, 0, 0)))
    else:
        upper = automatic == "SAME_UPPER"
        sides = [_same(shape[2 + i], kernel[i], strides[i], dilation[i], upper) for i in (0, 1)]
        pads = (sides[0][0], sides[1][0], sides[0][1], sides[1][1])
    if min(pads) < 0:
        return None
    top, left, bottom, right = pads
    return Geometry(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilation[0], dilation[1]), (top, left, bottom, right)
    )


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> Pair:
    """Padding before and after so that the result has ceil(size / stride) positions; the odd one goes to one side."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)
