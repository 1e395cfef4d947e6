"""Nodes: an anchor operator with its operands and the epilogue fused into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal as OneOf

from joulec.passes.graph.operators.base import Operator, OperatorError
from joulec.passes.graph.values import TensorType, Value, content_key
from joulec.passes.graph.weights import Weight

Operand = Value | Weight

StepKind = OneOf["bias", "add", "activation"]


@dataclass(frozen=True, slots=True)
class Step:
    """One elementwise step applied to the anchor's result before it is stored.

    ``bias`` adds a constant vector along the channel axis (axis 1 of a 4-d result, the last axis otherwise) and
    consumes one operand; ``add`` adds a tensor of the result's own shape and consumes one operand; ``activation``
    applies ``activation`` (an `Activation` operator's ``kind``) with ``params`` and consumes none.
    """

    kind: StepKind
    activation: str = ""
    params: tuple[float, ...] = ()

    @property
    def operands(self) -> int:
        """How many operands of the node the step consumes."""
        return 0 if self.kind == "activation" else 1

    def __str__(self) -> str:
        return self.kind if self.kind != "activation" else f"{self.activation}{self.params or ''}"


@dataclass(frozen=True, slots=True)
class OperandSpec:
    """What an operand looks like to a kernel: its type, and whether it is a constant (and so can be packed ahead)."""

    type: TensorType
    constant: bool

    def __str__(self) -> str:
        return f"{'const ' if self.constant else ''}{self.type}"


@dataclass(frozen=True)
class NodeSpec:
    """A node without its identity: all that decides what it costs. Two nodes of equal spec share their measurements."""

    op: Operator
    operands: tuple[OperandSpec, ...]
    epilogue: tuple[Step, ...]
    results: tuple[TensorType, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.op, self.operands, self.epilogue, self.results)))

    def __hash__(self) -> int:
        value: int = self.__dict__["_hash"]
        return value

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled without the hash, which differs between processes."""
        return NodeSpec, (self.op, self.operands, self.epilogue, self.results)

    @property
    def anchor_operands(self) -> tuple[OperandSpec, ...]:
        """The operands of the anchor operator itself, without those of the epilogue."""
        taken = sum(step.operands for step in self.epilogue)
        return self.operands[: len(self.operands) - taken]

    @property
    def flops(self) -> int:
        """Arithmetic operations of anchor and epilogue (a multiply-add counts two)."""
        own = self.op.flops([operand.type for operand in self.anchor_operands], self.results)
        return own + len(self.epilogue) * self.results[0].size

    @property
    def bytes(self) -> int:
        """Bytes of all operands and results, each touched once: the least any implementation moves."""
        held = sum(operand.type.bytes for operand in self.operands) + sum(result.bytes for result in self.results)
        return held - self.op.untouched([operand.type for operand in self.anchor_operands])

    def __str__(self) -> str:
        steps = "".join(f"+{step}" for step in self.epilogue)
        return f"{self.op}{steps}({', '.join(map(str, self.operands))})"


@dataclass(frozen=True)
class Node:
    """An immutable node.

    Attributes:
        op: the anchor operator with its attributes.
        operands: the anchor's operands in its own order, then those of the epilogue's steps in their order.
        epilogue: elementwise steps fused into the anchor's store.
        outputs: the values it produces, one per result.
        name: where it comes from in the user's model; no part of its identity.
        key: 128-bit structural hash over all of the above but the name.
        spec: what decides its cost.
    """

    op: Operator
    operands: tuple[Operand, ...]
    epilogue: tuple[Step, ...]
    outputs: tuple[Value, ...]
    name: str = field(default="", compare=False)
    key: int = field(init=False, compare=False)
    spec: NodeSpec = field(init=False, compare=False)

    def __post_init__(self) -> None:
        key = content_key(
            repr(self.op),
            *(f"{type(operand).__name__[0]}{operand.key:x}" for operand in self.operands),
            self.epilogue,
            *(f"{value.key:x}" for value in self.outputs),
        )
        object.__setattr__(self, "key", key)
        specs = tuple(OperandSpec(operand.type, isinstance(operand, Weight)) for operand in self.operands)
        spec = NodeSpec(self.op, specs, self.epilogue, tuple(value.type for value in self.outputs))
        object.__setattr__(self, "spec", spec)

    def __hash__(self) -> int:
        return self.key & 0x7FFFFFFFFFFFFFFF

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.key == other.key

    @staticmethod
    def make(
        op: Operator,
        operands: tuple[Operand, ...],
        epilogue: tuple[Step, ...] = (),
        *,
        outputs: tuple[Value, ...] | None = None,
        name: str = "",
    ) -> Node:
        """Build a node, inferring its result types.

        Args:
            outputs: the values it computes when they exist already (a rewrite computes them in a new way); fresh
                values, named by the node's content, when omitted.

        Raises:
            OperatorError: the operands do not fit the operator, or the outputs do not have the inferred types.
        """
        taken = sum(step.operands for step in epilogue)
        types = [operand.type for operand in operands]
        results = op.infer(types[: len(types) - taken])
        if outputs is None:
            content = content_key(repr(op), *(operand.key for operand in operands), epilogue)
            outputs = tuple(
                Value(content_key("result", content, index), result, name) for index, result in enumerate(results)
            )
        elif tuple(value.type for value in outputs) != results:
            raise OperatorError(f"{op} computes {results}, not {tuple(value.type for value in outputs)}")
        return Node(op, operands, epilogue, outputs, name)

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """The operands that are computed at run time."""
        return tuple(operand for operand in self.operands if isinstance(operand, Value))

    @property
    def anchor_operands(self) -> tuple[Operand, ...]:
        """The operands of the anchor operator itself."""
        taken = sum(step.operands for step in self.epilogue)
        return self.operands[: len(self.operands) - taken]

    @property
    def epilogue_operands(self) -> tuple[Operand, ...]:
        """The operands that the epilogue's steps consume, in their order."""
        return self.operands[len(self.anchor_operands) :]

    def __str__(self) -> str:
        return f"{self.name or self.spec.op.name}: {self.spec}"
