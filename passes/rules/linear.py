"""Constants that scale and shift, and where a matrix product takes them in: what the rules of linear algebra share."""

from __future__ import annotations

from dataclasses import dataclass

from joulec.passes.graph import (
    Add,
    Binary,
    ChannelAffine,
    Graph,
    MatMul,
    Node,
    Operator,
    Step,
    TensorType,
    Value,
    Weight,
)
from joulec.passes.graph.arithmetic import along, is_filled_with, negated
from joulec.passes.graph.node import Operand
from joulec.passes.graph.weights import Literal, reshaped, sliced, summed

BIAS = Step("bias")


@dataclass(frozen=True, slots=True)
class Constant:
    """A node that combines a tensor with a constant: data · operand, data / operand or data + operand.

    Attributes:
        kind: ``mul``, ``div`` or ``add``.
        data: what is combined; of the node's result type.
        operand: the constant.
    """

    kind: str
    data: Value
    operand: Weight

    @property
    def is_number(self) -> bool:
        """Whether the constant is one number."""
        return self.operand.type.size == 1


def interim(op: Operator, operands: tuple[Operand, ...], epilogue: tuple[Step, ...] = (), *, name: str) -> Node:
    """A node whose results are known to the rewrite alone, and so have no names."""
    node = Node.make(op, operands, epilogue)
    return Node(op, operands, epilogue, node.outputs, name)


def producer(graph: Graph, operand: Operand) -> Node | None:
    """The node that computes an operand, None for constants and inputs."""
    return graph.producers.get(operand) if isinstance(operand, Value) else None


def is_private(graph: Graph, node: Node, reader: Node) -> bool:
    """Whether the reader alone reads the node's one result, once, and the graph does not return it."""
    (value,) = node.outputs
    return graph.sole_consumer(value) == reader and reader.operands.count(value) == 1


def scale_of(node: Node) -> Constant | None:
    """x · c or x / c for a constant c, where the node is that; its epilogue is not looked at."""
    if isinstance(node.op, Binary) and node.op.kind in ("mul", "div"):
        pairs = [node.anchor_operands] + ([node.anchor_operands[::-1]] if node.op.kind == "mul" else [])
        return _constant(node, node.op.kind, pairs)
    if isinstance(node.op, ChannelAffine):
        data, scale, shift = node.anchor_operands
        if not isinstance(data, Value) or not isinstance(scale, Literal) or not isinstance(shift, Weight):
            return None
        if is_filled_with(shift, 0.0) and is_filled_with(scale, float(scale.array.reshape(-1)[0])):
            return Constant("mul", data, sliced(scale, 0, 0, 1))
    return None


def shift_of(node: Node) -> Constant | None:
    """x + c, or x - c (as x + -c) of a floating-point type, for a constant c; the epilogue is not looked at."""
    if isinstance(node.op, Add) and len(node.anchor_operands) == 2:
        return _constant(node, "add", [node.anchor_operands, node.anchor_operands[::-1]])
    if isinstance(node.op, Binary) and node.op.kind == "sub":
        found = _constant(node, "add", [node.anchor_operands])
        floating = node.outputs[0].type.dtype.startswith("float")
        return None if found is None or not floating else Constant("add", found.data, negated(found.operand))
    return None


def row(constant: Weight, data: TensorType) -> Weight | None:
    """A constant that varies along the data's last axis alone, as a vector [1] or [n]; None for any other."""
    shape = constant.type.shape
    if any(size != 1 for size in shape[:-1]) or (shape and shape[-1] not in (1, data.shape[-1])):
        return None
    return reshaped(constant, (constant.type.size,))


def on_depth(op: MatMul, vector: Weight, weight: Weight) -> Weight:
    """A vector along the summed axis of a product's weight, shaped to broadcast with it."""
    rank = len(weight.type.shape)
    return along(vector, rank - 1 if op.transpose_b else rank - 2, rank)


def on_columns(op: MatMul, vector: Weight, weight: Weight) -> Weight:
    """A vector along the columns of a product's weight, shaped to broadcast with it."""
    rank = len(weight.type.shape)
    return along(vector, rank - 2 if op.transpose_b else rank - 1, rank)


def is_linear(node: Node) -> bool:
    """Whether a node is a product with a constant matrix and nothing but a bias in its epilogue."""
    plain = node.epilogue == () or (node.epilogue == (BIAS,) and isinstance(node.operands[2], Weight))
    return has_constant_matrix(node) and plain


def has_constant_matrix(node: Node) -> bool:
    """Whether a node is a product of computed data with a constant matrix."""
    if not isinstance(node.op, MatMul) or not isinstance(node.operands[0], Value):
        return False
    weight = node.operands[1]
    return isinstance(weight, Weight) and len(weight.type.shape) == 2


def biased(node: Node, bias: Weight) -> tuple[tuple[Step, ...], tuple[Operand, ...]]:
    """Epilogue and its operands of a product that adds one more bias before all else.

    The result has another rank than 4, where a bias would lie along axis 1.
    """
    operands = node.epilogue_operands
    if node.epilogue[:1] == (BIAS,) and isinstance(operands[0], Weight):
        return node.epilogue, (summed((operands[0], bias)), *operands[1:])
    return (BIAS, *node.epilogue), (bias, *operands)


def bias_of(node: Node) -> Weight | None:
    """The bias at the start of a node's epilogue."""
    if node.epilogue[:1] != (BIAS,):
        return None
    bias = node.epilogue_operands[0]
    return bias if isinstance(bias, Weight) else None


def weight_of(node: Node) -> Weight:
    """The second operand of a product, known to be constant.

    Raises:
        TypeError: it is computed at run time.
    """
    weight = node.operands[1]
    if not isinstance(weight, Weight):
        raise TypeError(f"{node} has no constant weight")
    return weight


def _constant(node: Node, kind: str, pairs: list[tuple[Operand, ...]]) -> Constant | None:
    for data, constant in pairs:
        if isinstance(data, Value) and isinstance(constant, Weight) and data.type == node.outputs[0].type:
            return Constant(kind, data, constant)
    return None
