"""Softmax, layer and local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class Softmax(Operator):
    """Softmax along one axis (non-negative)."""

    axis: int

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1, "softmax takes one operand")
        require(0 <= self.axis < len(operands[0].shape), f"softmax: axis {self.axis} of {operands[0]}")
        return (operands[0],)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 4 * results[0].size

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        data = operands[0]
        raised = np.exp(data - data.max(axis=self.axis, keepdims=True))
        return ((raised / raised.sum(axis=self.axis, keepdims=True)).astype(data.dtype),)


@dataclass(frozen=True, slots=True)
class LayerNorm(Operator):
    """(x - mean) / sqrt(variance + epsilon), times scale, plus shift (ONNX LayerNormalization).

    Mean and variance are taken over the axes from ``axis`` (non-negative) to the last; scale and shift have the shape
    of those axes. Operands: data; data and scale; or data, scale and shift.
    """

    axis: int
    epsilon: float = 1e-5

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(1 <= len(operands) <= 3, "layer_norm takes data, and perhaps scale and shift")
        data = operands[0]
        require(0 <= self.axis < len(data.shape), f"layer_norm: axis {self.axis} of {data}")
        for operand in operands[1:]:
            require(
                operand == TensorType(data.shape[self.axis :], data.dtype),
                f"layer_norm from axis {self.axis}: {operand} does not fit {data}",
            )
        return (data,)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size * (6 + len(operands))

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        data = operands[0]
        axes = tuple(range(self.axis, data.ndim))
        centred = data - data.mean(axis=axes, keepdims=True)
        result = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + self.epsilon)
        for function, operand in zip((np.multiply, np.add), operands[1:], strict=False):
            result = function(result, operand)
        return (result.astype(data.dtype),)


@dataclass(frozen=True, slots=True)
class LocalResponseNorm(Operator):
    """x / (bias + alpha/size · Σ x² over ``size`` neighbouring channels)^beta on x[N,C,...] (ONNX LRN)."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(
            len(operands) == 1 and len(operands[0].shape) >= 2, "local_response_norm takes one operand with channels"
        )
        return (operands[0],)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size * (self.size + 4)

    @property
    def reach(self) -> tuple[int, int]:
        """How many channels before and after take part."""
        return (self.size - 1) // 2, self.size // 2

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        data = operands[0]
        before, after = self.reach
        channels = data.shape[1]
        squares = np.zeros_like(data)
        for channel in range(channels):
            low, high = max(0, channel - before), min(channels, channel + after + 1)
            squares[:, channel] = (data[:, low:high] ** 2).sum(axis=1)
        return ((data / (self.bias + self.alpha / self.size * squares) ** self.beta).astype(data.dtype),)
