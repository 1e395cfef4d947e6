"""Elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, OperatorError, require
from joulec.passes.graph.values import TensorType

_Array = npt.NDArray[Any]

ACTIVATIONS: dict[str, Callable[..., _Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "clip": lambda x, low, high: np.clip(x, low, high),
    "leaky_relu": lambda x, slope: np.where(x >= 0, x, slope * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x, slope, offset: np.clip(x * slope + offset, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))),
}

BINARIES: dict[str, Callable[[_Array, _Array], _Array]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}


def broadcast(operands: Sequence[TensorType], name: str) -> TensorType:
    """The type to which the operands broadcast.

    Raises:
        OperatorError: dtypes differ or shapes do not broadcast.
    """
    require(len({operand.dtype for operand in operands}) == 1, f"{name} takes operands of one dtype")
    try:
        return TensorType(np.broadcast_shapes(*(operand.shape for operand in operands)), operands[0].dtype)
    except ValueError as error:
        raise OperatorError(f"{name}: {', '.join(map(str, operands))} do not broadcast") from error


@dataclass(frozen=True, slots=True)
class Activation(Operator):
    """A function of each element.

    Attributes:
        kind: a key of `ACTIVATIONS`.
        params: its parameters: clip (low, high), leaky_relu (slope), hard_sigmoid (slope, offset).
    """

    kind: str
    params: tuple[float, ...] = ()

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(self.kind in ACTIVATIONS, f"unknown activation {self.kind}")
        require(len(operands) == 1, f"{self.kind} takes one operand")
        return (operands[0],)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size

    def evaluate(self, *operands: _Array) -> Arrays:
        return (ACTIVATIONS[self.kind](operands[0], *self.params).astype(operands[0].dtype),)


@dataclass(frozen=True, slots=True)
class Add(Operator):
    """Sum of one or more operands, which broadcast (ONNX Add and Sum)."""

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) >= 1, "add takes at least one operand")
        return (broadcast(operands, "add"),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size * max(len(operands) - 1, 1)

    def evaluate(self, *operands: _Array) -> Arrays:
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand
        return (total,)


@dataclass(frozen=True, slots=True)
class Binary(Operator):
    """A function of two elements; operands broadcast.

    Attributes:
        kind: a key of `BINARIES`.
    """

    kind: str

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(self.kind in BINARIES, f"unknown binary operator {self.kind}")
        require(len(operands) == 2, f"{self.kind} takes two operands")
        return (broadcast(operands, self.kind),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return results[0].size

    def evaluate(self, *operands: _Array) -> Arrays:
        return (BINARIES[self.kind](operands[0], operands[1]).astype(operands[0].dtype),)


@dataclass(frozen=True, slots=True)
class ChannelAffine(Operator):
    """x[N,C,...] times scale[C] plus shift[C]: a batch norm with constant statistics that no convolution absorbs."""

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 3, "channel_affine takes data, scale and shift")
        data, scale, shift = operands
        require(
            len(data.shape) >= 2 and scale.shape == shift.shape == (data.shape[1],),
            f"channel_affine: scale {scale.shape} and shift {shift.shape} do not fit data {data.shape}",
        )
        return (data,)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 2 * results[0].size

    def evaluate(self, *operands: _Array) -> Arrays:
        data, scale, shift = operands
        shape = (-1, *([1] * (data.ndim - 2)))
        return ((data * scale.reshape(shape) + shift.reshape(shape)).astype(data.dtype),)
