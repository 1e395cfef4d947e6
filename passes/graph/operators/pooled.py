"""A convolution whose results are pooled before they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator
from joulec.passes.graph.operators.convolution import Conv2d
from joulec.passes.graph.operators.pooling import MaxPool2d
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class PooledConv2d(Operator):
    """Maximum over windows of the convolution of x[N,C,H,W] with w[O,C/groups,kH,kW].

    Attributes:
        convolution: what is pooled.
        pooling: how.
    """

    convolution: Conv2d
    pooling: MaxPool2d

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return self.pooling.infer(self.convolution.infer(operands))

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        between = self.convolution.infer(operands)
        return self.convolution.flops(operands, between) + self.pooling.flops(between, results)

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return self.pooling.evaluate(*self.convolution.evaluate(*operands))
