"""What is done to each part of a concat, done to the whole, and the reverse; splits of splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import (
    Activation,
    AvgPool2d,
    Concat,
    Conv2d,
    Graph,
    MatMul,
    MaxPool2d,
    Node,
    Operator,
    Rewrite,
    Split,
    Value,
)
from joulec.passes.rules.joined import joined, movement_axis, plain
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import interim, left_by, producer, shared

_COMPUTING = (Conv2d, MatMul, MaxPool2d, AvgPool2d)
"""What an activation can become part of."""


@dataclass(frozen=True)
class PoolOfConcat:
    """pool(concat(a, b, ...)) = concat(pool(a), pool(b), ...)

    The concat runs along batch or channels, nothing is fused into it or into the pooling, the pooling is its only
    reader, and its operands are computed.

    Pays: Lets poolings be written in place or merged with branches; where a branch's pooling fuses.
    """

    name: str = "max-pool-of-concat"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        concat = producer(graph, node.operands[0])
        if concat is None or type(concat.op) is not Concat:
            return
        reason = shared(graph, concat, node) or _unliftable(concat)
        if movement_axis(concat) > 1:
            reason = f"the concat runs along axis {movement_axis(concat)}, along which the pooling's windows lie"
        elif node.epilogue:
            reason = f"something is fused into {label(node)}"
        yield Match((node, concat)) if reason is None else Mismatch((node, concat), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _distributed(graph, *match.nodes)


@dataclass(frozen=True)
class ConcatOfPools:
    """concat(pool(a), pool(b), ...) = pool(concat(a, b, ...))

    The poolings are of one kind with the same attributes and epilogues without operands, read by the concat alone, each
    once; their inputs agree in size along all other axes. The concat runs along batch or channels, and nothing is fused
    into it.

    Pays: One launch for several poolings of one kind.
    """

    name: str = "concat-of-pools"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        parts = _parts(graph, node, MaxPool2d, AvgPool2d)
        if not parts:
            return
        reason = _ungatherable(graph, node, parts)
        if movement_axis(node) > 1:
            reason = f"the concat runs along axis {movement_axis(node)}, along which the poolings' windows lie"
        elif len({part.operands[0].type.shape[2:] for part in parts}) > 1:
            reason = "the inputs of the poolings differ in size"
        yield Match((node, *parts)) if reason is None else Mismatch((node, *parts), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _gathered(graph, *match.nodes)


@dataclass(frozen=True)
class ActivationOfConcat:
    """f(concat(a, b, ...)) = concat(f(a), f(b), ...)

    f is a node of its own into which nothing is fused and the only reader of the concat, into which nothing is fused
    either; its operands are computed, and one at least by a convolution, matmul or pooling that can take f in.

    Pays: Lets each branch take the activation into its own store.
    """

    name: str = "activation-of-concat"
    anchor: type[Operator] = Activation

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        concat = producer(graph, node.operands[0])
        if concat is None or type(concat.op) is not Concat:
            return
        reason = shared(graph, concat, node) or _unliftable(concat)
        makers = [producer(graph, operand) for operand in concat.operands]
        if node.epilogue:
            reason = f"something is fused into {label(node)}"
        elif reason is None and not any(maker is not None and isinstance(maker.op, _COMPUTING) for maker in makers):
            reason = "no operand of the concat is computed by a node that could take the activation in"
        yield Match((node, concat)) if reason is None else Mismatch((node, concat), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _distributed(graph, *match.nodes)


@dataclass(frozen=True)
class ConcatOfActivations:
    """concat(f(a), f(b), ...) = f(concat(a, b, ...))

    The activations are nodes of their own of one kind with the same parameters, read by the concat alone, each once;
    nothing is fused into them or the concat.

    Pays: One launch where no branch can take the activation in.
    """

    name: str = "concat-of-activations"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        parts = _parts(graph, node, Activation)
        if not parts:
            return
        reason = _ungatherable(graph, node, parts)
        yield Match((node, *parts)) if reason is None else Mismatch((node, *parts), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _gathered(graph, *match.nodes)


@dataclass(frozen=True)
class SplitOfSplit:
    """a, b = split(x); c, d = split(a) = c, d, b = split(x)

    Both run along one axis, nothing is fused into them, nothing else reads a, and the graph does
    not return it.

    Pays: Splits that merging leaves behind one another; needed for further merges.
    """

    name: str = "split-of-split"
    anchor: type[Operator] = Split

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        outer = producer(graph, node.operands[0])
        if outer is None or not isinstance(outer.op, Split):
            return
        value, axis = node.operands[0], movement_axis(node)
        assert isinstance(value, Value)
        reason = None
        if movement_axis(outer) != axis:
            reason = f"the splits run along axes {movement_axis(outer)} and {axis}"
        elif not plain(outer, Split, axis) or not plain(node, Split, axis):
            reason = "something is fused into one of the splits"
        elif graph.sole_consumer(value) is None:
            reason = "the result that is split again has other readers"
        yield Match((node, outer)) if reason is None else Mismatch((node, outer), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, outer = match.nodes
        axis = movement_axis(node)
        outputs: list[Value] = []
        for value in outer.outputs:
            outputs.extend(node.outputs if value == node.operands[0] else (value,))
        sizes = tuple(value.type.shape[axis] for value in outputs)
        merged = Node.make(Split(axis, sizes), outer.operands, outputs=tuple(outputs), name=outer.name)
        return Rewrite((node, outer), (merged,))


def _unliftable(concat: Node) -> str | None:
    if concat.epilogue:
        return f"something is fused into {label(concat)}"
    if not all(isinstance(operand, Value) for operand in concat.operands):
        return "an operand of the concat is a constant"
    if len(set(concat.operands)) < len(concat.operands):
        return "the concat reads an operand twice"
    return None


def _parts(graph: Graph, concat: Node, *kinds: type[Operator]) -> tuple[Node, ...]:
    """The nodes of one operator that compute a concat's operands; none where some operand comes from elsewhere."""
    if type(concat.op) is not Concat or len(concat.operands) < 2:
        return ()
    found = []
    for operand in concat.anchor_operands:
        part = producer(graph, operand)
        if part is None or not isinstance(part.op, kinds):
            return ()
        found.append(part)
    return tuple(found)


def _ungatherable(graph: Graph, concat: Node, parts: tuple[Node, ...]) -> str | None:
    if concat.epilogue:
        return f"something is fused into {label(concat)}"
    first = parts[0]
    for part in parts:
        if part.op != first.op or part.epilogue != first.epilogue:
            return f"the operands are computed in different ways: {first.op} and {part.op}"
        if len(part.operands) != 1 or not isinstance(part.operands[0], Value):
            return f"{label(part)} has more operands, or reads a constant"
        reason = shared(graph, part, concat)
        if reason is not None:
            return reason
    return None


def _distributed(graph: Graph, node: Node, concat: Node) -> Rewrite:
    """The node applied to each operand of the concat before it."""
    parts = [
        interim(graph, node.op, (operand,), name=node.name, replaced=concat.outputs, witness=concat.operands)
        for operand in concat.operands
    ]
    operands = tuple(part.outputs[0] for part in parts)
    renewed = Node.make(concat.op, operands, outputs=node.outputs, name=concat.name)
    return Rewrite((node, concat), (*parts, renewed))


def _gathered(graph: Graph, concat: Node, *parts: Node) -> Rewrite:
    """The operator of the parts applied once, to the concat of what they read."""
    data = tuple(part.operands[0] for part in parts)
    values = tuple(value for value in data if isinstance(value, Value))
    wanted = left_by(parts[0].outputs[0], data) or (joined(values, movement_axis(concat)),)
    whole = interim(graph, concat.op, data, name=concat.name, wanted=wanted)
    first = parts[0]
    renewed = Node.make(first.op, whole.outputs, first.epilogue, outputs=concat.outputs, name=first.name)
    return Rewrite((concat, *parts), (whole, renewed))
