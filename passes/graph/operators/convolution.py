"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.operators.pooling import windows
from joulec.passes.graph.values import TensorType

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Conv2d(Operator):
    """Two-dimensional convolution of x[N,C,H,W] with w[O,C/groups,kH,kW].

    Attributes:
        strides: (vertical, horizontal).
        padding: zeros at (top, left, bottom, right).
        dilation: (vertical, horizontal).
        groups: number of channel groups; C and O are multiples of it.
    """

    strides: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 2, f"conv2d takes data and kernel, not {len(operands)} operands")
        data, kernel = operands
        require(len(data.shape) == 4 and len(kernel.shape) == 4, f"conv2d takes 4-d operands, not {data} and {kernel}")
        require(data.dtype == kernel.dtype, f"conv2d takes one dtype, not {data.dtype} and {kernel.dtype}")
        batch, channels, height, width = data.shape
        out_channels, group_channels, kernel_h, kernel_w = kernel.shape
        require(
            channels == group_channels * self.groups and out_channels % self.groups == 0,
            f"conv2d: {channels} channels in {self.groups} groups do not fit the kernel {kernel.shape}",
        )
        top, left, bottom, right = self.padding
        span_h = height + top + bottom - self.dilation[0] * (kernel_h - 1) - 1
        span_w = width + left + right - self.dilation[1] * (kernel_w - 1) - 1
        require(
            span_h >= 0 and span_w >= 0, f"conv2d: the kernel {kernel.shape} is larger than the padded {data.shape}"
        )
        shape = (batch, out_channels, span_h // self.strides[0] + 1, span_w // self.strides[1] + 1)
        return (TensorType(shape, data.dtype),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        _, group_channels, kernel_h, kernel_w = operands[1].shape
        return 2 * results[0].size * group_channels * kernel_h * kernel_w

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        data, kernel = operands
        out_channels, group_channels, kernel_h, kernel_w = kernel.shape
        view = windows(data, (kernel_h, kernel_w), self.strides, self.padding, self.dilation, 0.0)
        batch, _, out_h, out_w = view.shape[:4]
        view = view.reshape(batch, self.groups, group_channels, out_h, out_w, kernel_h, kernel_w)
        grouped = kernel.reshape(self.groups, out_channels // self.groups, group_channels, kernel_h, kernel_w)
        result = np.einsum("ngchwij,gocij->ngohw", view, grouped, optimize=True)
        return (result.reshape(batch, out_channels, out_h, out_w).astype(data.dtype),)
