"""Operators' own definitions under one kind of dlight's rules each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.s_tir import dlight

from joulec.passes.graph import (
    AvgPool2d,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    NodeSpec,
    Operator,
    Softmax,
    Transpose,
)
from joulec.passes.kernels.cuda.definitions import defined, has_definition
from joulec.passes.kernels.cuda.kernel import Staged
from joulec.passes.kernels.cuda.stages import Stage, applies, stage
from joulec.passes.kernels.cuda.stages import dlight as rule
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.epilogue import can_apply, placeholders
from joulec.passes.kernels.kernel import Params


class Ruled(Staged):
    """One stage: the definition of some operators under the first of some rules that applies.

    Args:
        name: of the algorithm.
        operators: those that it is for; every operator with a definition when empty.
        rules: makers of dlight's rules.
    """

    def __init__(self, name: str, operators: tuple[type[Operator], ...], *rules: Callable[[], Any]) -> None:
        self.name = name
        self._operators = operators
        self._rules = rules

    def schedules(self, spec: NodeSpec, target: CudaTarget) -> Sequence[Params]:
        """One, where a rule applies."""
        wanted = not self._operators or isinstance(spec.op, self._operators)
        if not wanted or not has_definition(spec) or not can_apply(spec):
            return ()
        return ((),) if all(applies(one, target.target) for one in self.stages(spec, ())) else ()

    def stages(self, spec: NodeSpec, params: Params) -> Sequence[Stage]:
        """The definition."""
        operands = placeholders(spec)
        rules = [rule(make()) for make in self._rules]
        return (stage(operands, defined(spec, operands), rules),)


class Product(Ruled):
    """Products; a constant right operand is stored so that neighbouring threads read along the sum."""

    def pack(
        self, spec: NodeSpec, params: Params, target: CudaTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """A constant right operand transposed."""
        if index == 1 and _turned(spec) is not spec:
            array = np.swapaxes(array, -1, -2)
        return super().pack(spec, params, target, index, array)

    def stages(self, spec: NodeSpec, params: Params) -> Sequence[Stage]:
        """The definition on the matrix as it is stored."""
        return super().stages(_turned(spec), params)


def _turned(spec: NodeSpec) -> NodeSpec:
    """The product on a constant matrix [N, K] in place of [K, N]."""
    right = spec.operands[1]
    if not isinstance(spec.op, MatMul) or spec.op.transpose_b or not right.constant:
        return spec
    *lead, depth, columns = right.type.shape
    stored = replace(right, type=replace(right.type, shape=(*lead, columns, depth)))
    return replace(spec, op=MatMul(transpose_b=True), operands=(spec.operands[0], stored, *spec.operands[2:]))


_gpu = dlight.gpu

CudaMatmul = Product("matmul", (MatMul,), _gpu.Matmul)
"""Tiles in shared memory and registers."""
CudaGemv = Product("gemv", (MatMul,), _gpu.GEMV)
"""A matrix times a vector: threads share the sum."""
CudaReduction = Ruled(
    "reduction",
    (MaxPool2d, AvgPool2d, Softmax, LayerNorm, LocalResponseNorm),
    _gpu.Reduction,
    _gpu.GeneralReduction,
)
"""Threads of a block share each sum or maximum."""
CudaTranspose = Ruled("transpose", (Transpose,), _gpu.Transpose)
"""Tiles turned in shared memory."""
CudaFallback = Ruled("fallback", (), _gpu.Fallback)
"""A thread per element of the result: for every operator."""
