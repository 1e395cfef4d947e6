"""What converters read from and write to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx.helper

from joulec.passes.graph import Literal, Node, Operator, Step, TensorType, Value, literal
from joulec.passes.graph.node import Operand
from joulec.passes.graph.values import content_key
from joulec.passes.onnx.program import Array, title


@dataclass
class Builder:
    """Collects the nodes of a graph.

    Attributes:
        constants: arrays by ONNX name.
        operands: what each ONNX name stands for so far.
        nodes: the nodes so far.
        unsure: ONNX names of values whose shape must be checked at each call (`joulec.passes.onnx.program.Program`).
    """

    constants: Mapping[str, Array]
    operands: dict[str, Operand]
    nodes: list[Node] = field(default_factory=list)
    unsure: Collection[str] = ()
    _pending: list[Node] = field(default_factory=list)

    def operand(self, name: str) -> Operand:
        """The value or the constant of an ONNX name."""
        if name not in self.operands:
            self.operands[name] = literal(self.constants[name])
        return self.operands[name]

    def value(self, name: str) -> Value:
        """The value of an ONNX name that is no constant."""
        operand = self.operands[name]
        assert isinstance(operand, Value), f"{name} is a constant"
        return operand

    def emit(
        self, op: Operator, operands: Sequence[Operand], epilogue: tuple[Step, ...] = (), *, identity: str = ""
    ) -> tuple[Value, ...]:
        """Add a node and return its results.

        Args:
            identity: keeps the results apart from those of an equal node that has another one.

        Raises:
            OperatorError: the operands do not fit.
        """
        node = Node.make(op, tuple(operands), epilogue)
        if identity:
            outputs = tuple(replace(value, key=content_key(identity, value.key)) for value in node.outputs)
            node = Node.make(op, tuple(operands), epilogue, outputs=outputs)
        self._pending.append(node)
        return node.outputs

    def discard(self) -> None:
        """Forget what was emitted since the last `bind`."""
        self._pending.clear()

    def bind(self, outputs: Sequence[str], title: str, results: Sequence[Operand]) -> None:
        """Let outputs of ONNX nodes stand for these results, and name what was emitted after them.

        Args:
            outputs: the ONNX names.
            title: the nodes' name for people.
            results: one for each output.
        """
        names = {result.key: name for name, result in zip(outputs, results, strict=True) if isinstance(result, Value)}
        for node in self._pending:
            fallback = f"{outputs[0]}/{node.op.name}"
            values = tuple(replace(value, name=names.get(value.key, fallback)) for value in node.outputs)
            self.nodes.append(Node(node.op, node.operands, node.epilogue, values, title))
        named = {
            value.key: value for node in self.nodes[len(self.nodes) - len(self._pending) :] for value in node.outputs
        }
        for name, result in zip(outputs, results, strict=True):
            self.operands[name] = named.get(result.key, result) if isinstance(result, Value) else result
        self._pending.clear()


@dataclass(frozen=True)
class Source:
    """An ONNX node to convert.

    Attributes:
        opsets: operator set versions by domain.
        types: types of all values by name.
        builder: where the operands come from and the results go.
    """

    node: onnx.NodeProto
    opsets: Mapping[str, int]
    types: Mapping[str, TensorType]
    builder: Builder

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.opsets.get("", 1)

    @property
    def title(self) -> str:
        """Name for people."""
        return title(self.node)

    @property
    def outputs(self) -> list[str]:
        """Names of the results that are there."""
        return [name for name in self.node.output if name]

    @property
    def result_types(self) -> list[TensorType]:
        """Types of the results that are there."""
        return [self.types[name] for name in self.outputs]

    @property
    def is_float32(self) -> bool:
        """Whether the data operand and all results are float32."""
        data = [self.types[name] for name in self.node.input[:1] if name]
        return all(type.dtype == "float32" for type in (*data, *self.result_types))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def has(self, index: int) -> bool:
        """Whether the optional operand is given."""
        return len(self.node.input) > index and bool(self.node.input[index])

    def operand(self, index: int) -> Operand:
        """An operand that is given."""
        return self.builder.operand(self.node.input[index])

    @property
    def operands(self) -> list[Operand]:
        """All operands; none may be left out."""
        return [self.operand(index) for index in range(len(self.node.input))]

    def constant(self, index: int) -> Array | None:
        """An operand's contents where it is a constant."""
        return self.builder.constants.get(self.node.input[index]) if self.has(index) else None

    def emit(self, op: Operator, *operands: Operand, epilogue: tuple[Step, ...] = ()) -> tuple[Value, ...]:
        """Add a node and return its results."""
        return self.builder.emit(op, operands, epilogue)


Converter = Callable[[Source], Sequence[Operand] | None]


def is_literal(operand: Operand) -> bool:
    """Whether the operand is a constant."""
    return isinstance(operand, Literal)
