"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.values import TensorType

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def windows(
    data: npt.NDArray[Any], kernel: Pair, strides: Pair, padding: Padding, dilation: Pair, fill: float
) -> npt.NDArray[Any]:
    """All windows of a padded x[N,C,H,W] as a view [N,C,outH,outW,kH,kW]."""
    top, left, bottom, right = padding
    data = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(data, span, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]


def pooled_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil_mode: bool) -> int:
    """Output length of one pooled axis (ONNX MaxPool): no window starts in the trailing padding."""
    span = size + before + after - dilation * (kernel - 1) - 1
    require(span >= 0, f"pooling: the window {kernel} is larger than the padded length {size + before + after}")
    length = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (length - 1) * stride >= size + before:
        length -= 1
    return length


@dataclass(frozen=True, slots=True)
class _Pool2d(Operator):
    kernel: Pair
    strides: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1 and len(operands[0].shape) == 4, f"{self.name} takes one 4-d operand")
        batch, channels, height, width = operands[0].shape
        top, left, bottom, right = self.padding
        out_h = pooled_size(height, self.kernel[0], self.strides[0], top, bottom, self.dilation[0], self.ceil_mode)
        out_w = pooled_size(width, self.kernel[1], self.strides[1], left, right, self.dilation[1], self.ceil_mode)
        return (TensorType((batch, channels, out_h, out_w), operands[0].dtype),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size * self.kernel[0] * self.kernel[1]

    def overhang(self, data: TensorType, result: TensorType) -> Padding:
        """The padding with which a floor-mode pooling has the same windows: (top, left, bottom, right)."""
        top, left, bottom, right = self.padding
        need_h = (result.shape[2] - 1) * self.strides[0] + self.dilation[0] * (self.kernel[0] - 1) + 1
        need_w = (result.shape[3] - 1) * self.strides[1] + self.dilation[1] * (self.kernel[1] - 1) + 1
        return (
            top,
            left,
            max(bottom, need_h - data.shape[2] - top),
            max(right, need_w - data.shape[3] - left),
        )

    def _windows(self, data: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        source = TensorType(data.shape, str(data.dtype))
        result = self.infer([source])[0]
        padding = self.overhang(source, result)
        view = windows(data, self.kernel, self.strides, padding, self.dilation, fill)
        return view[:, :, : result.shape[2], : result.shape[3]]


@dataclass(frozen=True, slots=True)
class MaxPool2d(_Pool2d):
    """Maximum over windows of x[N,C,H,W]; padding is minus infinity (top, left, bottom, right)."""

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return (_Pool2d._windows(self, operands[0], -np.inf).max(axis=(4, 5)),)


@dataclass(frozen=True, slots=True)
class AvgPool2d(_Pool2d):
    """Mean over windows of x[N,C,H,W]; global average pooling is the one whose window is the whole plane.

    Attributes:
        count_include_pad: whether padded zeros count in the divisor. What hangs over in ceil mode never counts.
    """

    count_include_pad: bool = False

    def divisors(self, data: TensorType, result: TensorType) -> npt.NDArray[Any]:
        """How many elements each output position averages: [outH, outW]."""
        top, left, bottom, right = self.padding
        counted = np.ones((1, 1, data.shape[2], data.shape[3]))
        counted = np.pad(
            counted, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=float(self.count_include_pad)
        )
        extra = self.overhang(data, result)
        counted = np.pad(counted, ((0, 0), (0, 0), (0, extra[2] - bottom), (0, extra[3] - right)))
        view = windows(counted, self.kernel, self.strides, (0, 0, 0, 0), self.dilation, 0.0)
        divisors: npt.NDArray[Any] = view.sum(axis=(4, 5))[0, 0, : result.shape[2], : result.shape[3]]
        return divisors

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        data = operands[0]
        source = TensorType(data.shape, str(data.dtype))
        total = _Pool2d._windows(self, data, 0.0).sum(axis=(4, 5))
        return ((total / self.divisors(source, self.infer([source])[0])).astype(data.dtype),)
