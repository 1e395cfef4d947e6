"""What rules that take expressions apart share: private producers, parts of epilogues, and values in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Activation, Conv2d, Graph, Node, Operator, Step, Value, Weight
from joulec.passes.graph.node import Operand
from joulec.passes.graph.values import content_key
from joulec.passes.rules.merging import label

BIAS = Step("bias")


@dataclass(frozen=True, slots=True)
class Interim(Value):
    """A value that a rewrite brought into being in place of others, which the inverse rewrite needs again.

    Attributes:
        replaced: the values that went.
        witness: what they were computed from; with other operands they are not the same tensors.
    """

    replaced: tuple[Value, ...] = field(default=(), compare=False, repr=False)
    witness: tuple[Operand, ...] = field(default=(), compare=False, repr=False)

    __hash__ = Value.__hash__


def interim(
    graph: Graph,
    op: Operator,
    operands: tuple[Operand, ...],
    epilogue: tuple[Step, ...] = (),
    *,
    name: str = "",
    replaced: Sequence[Value] = (),
    witness: Sequence[Operand] = (),
    wanted: tuple[Value, ...] = (),
) -> Node:
    """A node between others, under new values named by its content.

    Args:
        graph: a value that it holds already is not brought into being again: the new one gets a name of its own, so
            that the node can never come to depend on itself.
        replaced: values that go when the node comes.
        witness: what those values are computed from.
        wanted: values to use instead, if the graph does not hold them: what an inverse rewrite left (see `left_by`).
    """
    if wanted and not any(value in graph.producers or value in graph.inputs for value in wanted):
        return Node.make(op, operands, epilogue, outputs=wanted, name=name)
    node = Node.make(op, operands, epilogue, name=name)
    keys = [value.key for value in node.outputs]
    while any(Value(key, node.outputs[0].type) in graph.producers for key in keys):
        keys = [content_key("again", key) for key in keys]
    outputs = tuple(
        Interim(key, value.type, "", tuple(replaced), tuple(witness))
        for key, value in zip(keys, node.outputs, strict=True)
    )
    return replace(node, outputs=outputs)


def left_by(value: Operand, witness: Sequence[Operand]) -> tuple[Value, ...]:
    """The values that went when this one came, where they were computed from the same operands; else none."""
    return value.replaced if isinstance(value, Interim) and value.witness == tuple(witness) else ()


def producer(graph: Graph, operand: Operand) -> Node | None:
    """The node that computes an operand; None for constants and the graph's inputs."""
    return graph.producers.get(operand) if isinstance(operand, Value) else None


def shared(graph: Graph, node: Node, reader: Node) -> str | None:
    """Why a node's one result is not the reader's alone, read once; None if it is."""
    (value,) = node.outputs
    if graph.sole_consumer(value) != reader or reader.inputs.count(value) != 1:
        return f"{label(node)} has other readers"
    return None


def bias_of(node: Node) -> Weight | None:
    """The constant of the bias step with which a node's epilogue begins."""
    operand = node.epilogue_operands[0] if node.epilogue[:1] == (BIAS,) else None
    return operand if isinstance(operand, Weight) else None


def affine(node: Node) -> str | None:
    """Why a convolution is not one with a constant kernel and at most a constant bias behind it; None if it is."""
    if not isinstance(node.operands[1], Weight):
        return f"{label(node)} has weights that are computed at run time"
    if node.epilogue and (node.epilogue != (BIAS,) or bias_of(node) is None):
        return f"more than a constant bias is fused into {label(node)}"
    return None


def convolution(node: Node) -> Conv2d:
    """The operator of a convolution.

    Raises:
        TypeError: the node is none.
    """
    if not isinstance(node.op, Conv2d):
        raise TypeError(f"{node} is no convolution")
    return node.op


def is_pointwise(node: Node) -> bool:
    """Whether a convolution has one group and a 1x1 kernel, stride 1 and no padding."""
    op = convolution(node)
    plain = op.groups == 1 and op.strides == (1, 1) and not any(op.padding)
    return plain and node.operands[1].type.shape[2:] == (1, 1)


def last_activation(node: Node) -> Activation | None:
    """The activation that a node ends with, as an operator."""
    step = node.epilogue[-1] if node.epilogue else None
    if step is not None and step.kind == "activation":
        return Activation(step.activation, step.params)
    return node.op if isinstance(node.op, Activation) and not node.epilogue else None


def combined(*kernels: Operand) -> tuple[Weight, ...]:
    """Operands that are known to be constants."""
    return tuple(kernel for kernel in kernels if isinstance(kernel, Weight))
