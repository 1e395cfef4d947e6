"""Matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, OperatorError, require
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class MatMul(Operator):
    """Matrix product of a[...,M,K] and b[...,K,N]; leading dimensions broadcast.

    Attributes:
        transpose_b: b is stored as [...,N,K].
    """

    transpose_b: bool = False

    @property
    def name(self) -> str:
        return "matmul"

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 2, f"matmul takes two operands, not {len(operands)}")
        left, right = operands
        require(len(left.shape) >= 2 and len(right.shape) >= 2, f"matmul takes matrices, not {left} and {right}")
        require(left.dtype == right.dtype, f"matmul takes one dtype, not {left.dtype} and {right.dtype}")
        depth, columns = right.shape[-2:][::-1] if self.transpose_b else right.shape[-2:]
        require(left.shape[-1] == depth, f"matmul: {left.shape} and {right.shape} do not agree")
        try:
            lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        except ValueError as error:
            raise OperatorError(f"matmul: {left.shape} and {right.shape} do not broadcast") from error
        return (TensorType((*lead, left.shape[-2], columns), left.dtype),)

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 2 * results[0].size * operands[0].shape[-1]

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        left, right = operands
        return (np.matmul(left, np.swapaxes(right, -1, -2) if self.transpose_b else right),)
