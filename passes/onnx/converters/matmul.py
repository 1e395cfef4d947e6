"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.graph import Add, Binary, MatMul, Step, Transpose, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source


def matmul(source: Source) -> Sequence[Operand] | None:
    """Products of matrices; vectors are not modelled."""
    return source.emit(MatMul(), source.operand(0), source.operand(1))


def gemm(source: Source) -> Sequence[Operand] | None:
    """alpha · A · B + beta · C, where A and B may be transposed and C broadcasts; a constant row C is a bias."""
    left, right = source.operand(0), source.operand(1)
    alpha, beta = source.attribute("alpha", 1.0), source.attribute("beta", 1.0)
    weight = source.constant(1)
    if alpha != 1 and weight is not None:
        right, alpha = literal((weight * alpha).astype(weight.dtype)), 1.0
    if source.attribute("transA", 0):
        (left,) = source.emit(Transpose((1, 0)), left)
    op = MatMul(bool(source.attribute("transB", 0)))
    columns = source.result_types[0].shape[1]
    constant = source.constant(2)
    if alpha == 1 and constant is not None and constant.size in (1, columns) and constant.shape[:-1] in ((), (1,)):
        bias = np.broadcast_to((constant * beta).astype(np.float32).reshape(-1), (columns,))
        return source.emit(op, left, right, literal(np.ascontiguousarray(bias)), epilogue=(Step("bias"),))
    results = source.emit(op, left, right)
    if alpha != 1:
        results = source.emit(Binary("mul"), *results, _scalar(alpha))
    if not source.has(2):
        return results
    addend: Operand = source.operand(2)
    if beta != 1:
        (addend,) = source.emit(Binary("mul"), addend, _scalar(beta))
    return source.emit(Add(), *results, addend)


def _scalar(value: float) -> Operand:
    return literal(np.full((1,), value, np.float32))


CONVERTERS: Mapping[str, Converter] = {"MatMul": matmul, "Gemm": gemm}
