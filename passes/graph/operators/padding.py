"""Explicit padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class Pad(Operator):
    """A tensor surrounded by one value.

    Attributes:
        pads: how many elements (before, after) per axis; none is negative.
        value: what they hold; minus infinity is allowed.
    """

    pads: tuple[tuple[int, int], ...]
    value: float = 0.0

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1, "pad takes one operand")
        data = operands[0]
        require(len(self.pads) == len(data.shape), f"pad: {self.pads} do not fit the axes of {data}")
        require(min((min(pair) for pair in self.pads), default=0) >= 0, f"pad: {self.pads} must not be negative")
        shape = tuple(size + sum(pair) for size, pair in zip(data.shape, self.pads, strict=True))
        return (TensorType(shape, data.dtype),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 0

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return (np.pad(operands[0], self.pads, constant_values=self.value),)
