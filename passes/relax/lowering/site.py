"""What a lowering reads from and writes to: one ONNX node inside a Relax function under construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
from tvm import relax

from joulec.passes.graph import TensorType

Array = npt.NDArray[Any]
Exprs = list[Any]


@dataclass(frozen=True)
class Site:
    """One node whose operands and results have fixed shapes.

    Attributes:
        builder: a ``relax.BlockBuilder`` inside a function.
        node: the node.
        opset: version of the operator's domain.
        operands: expressions in the node's order; None where an optional one is left out.
        constants: contents of the operands that are known.
        types: types of the operands.
        results: types of the results; None where the definition does not say, or the result is not asked for.
        half: ``float16`` or ``bfloat16`` where the data are of half precision, which is computed in float32.
    """

    builder: Any
    node: onnx.NodeProto
    opset: int
    operands: Sequence[Any]
    constants: Sequence[Array | None]
    types: Sequence[TensorType | None]
    results: Sequence[TensorType | None]
    half: str = ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def has(self, index: int) -> bool:
        """Whether an operand is given."""
        return len(self.operands) > index and self.operands[index] is not None

    def wants(self, index: int) -> bool:
        """Whether a result is asked for."""
        return len(self.node.output) > index and bool(self.node.output[index])

    def constant(self, index: int) -> Array | None:
        """An operand's contents where they are known."""
        return self.constants[index] if self.has(index) else None

    def type(self, index: int) -> TensorType:
        """An operand's type."""
        found = self.types[index]
        assert found is not None
        return found

    def shape(self, index: int) -> tuple[int, ...]:
        """An operand's shape."""
        return self.type(index).shape

    def dtype(self, index: int) -> str:
        """An operand's dtype."""
        return self.type(index).dtype

    @property
    def result(self) -> TensorType | None:
        """Type of the first result."""
        return self.results[0]

    def emit(self, expression: Any) -> Any:
        """Bind an expression."""
        return self.builder.emit(expression)

    def te(self, function: Callable[..., Any], *operands: Any) -> Any:
        """What a function of TE tensors computes."""
        return self.builder.emit_te(function, *operands, primfunc_name_hint=f"onnx_{self.node.op_type}")

    def const(self, value: Any, dtype: str) -> Any:
        """A constant."""
        return relax.const(np.asarray(value, dtype), dtype)

    def reshape(self, expression: Any, shape: Sequence[int]) -> Any:
        """The same elements under another shape."""
        return self.emit(relax.op.reshape(expression, tuple(int(size) for size in shape)))

    def cast(self, expression: Any, dtype: str) -> Any:
        """The same numbers in another type."""
        if str(expression.ty.dtype) == dtype:
            return expression
        return self.emit(relax.op.astype(expression, dtype))


Lowering = Callable[[Site], "Exprs | None"]
"""The node's results, one per output that is asked for; None where the lowering does not cover it."""


def dtype_of(value: Any) -> str:
    """The type of a TE tensor, of an element of one, or of an expression of these."""
    return str(value.dtype if hasattr(value, "dtype") else value.ty)
