"""Operators that the graph does not model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class Opaque(Operator):
    """An operator, or a few connected ones, kept in the words of the model it came from.

    Attributes:
        kind: its name for people, e.g. ``Einsum``.
        dialect: how to read the definition: ``onnx`` (a serialised ModelProto whose inputs are the operands in order)
            or ``relax`` or ``relay`` (TVM's JSON of a module whose ``main`` is a function of the operands).
        definition: the definition itself.
        operand_types: types of its operands.
        result_types: types of its results.
        pure: it has no effect beside its results and gives the same results for the same operands; one that is not
            is never merged, moved or removed.
        row_independent: each row of the leading dimension is computed from the same row of every operand.
    """

    kind: str
    dialect: Literal["onnx", "relax", "relay"]
    definition: bytes
    operand_types: tuple[TensorType, ...]
    result_types: tuple[TensorType, ...]
    pure: bool = True
    row_independent: bool = False

    @property
    def name(self) -> str:
        return f"opaque.{self.kind}"

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(tuple(operands) == self.operand_types, f"{self.kind} was defined for other operands")
        return self.result_types

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 0

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        if self.dialect != "onnx":
            raise NotImplementedError(f"{self.kind} has no definition in numpy")
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load_from_string(self.definition)
        names = [value.name for value in model.graph.input]
        return tuple(ReferenceEvaluator(model).run(None, dict(zip(names, operands, strict=True))))

    def __str__(self) -> str:
        return self.name
