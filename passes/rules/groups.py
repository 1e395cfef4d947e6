"""Grouped convolutions, and one convolution per group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import Concat, Conv2d, Graph, Node, Operator, Rewrite, Split, Weight, concatenated, sliced
from joulec.passes.rules.joined import plain
from joulec.passes.rules.merging import label, refusal
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import combined, convolution, interim, producer, shared

_MOST_GROUPS = 4
"""Into how many convolutions one is taken apart at most: with more, starting them costs more than it can save."""


@dataclass(frozen=True)
class GroupConvolutions:
    """concat(conv(a, W1), conv(b, W2), ...) = conv(x, concat(W1, W2, ...), groups) where a, b, ... = split(x)

    The concat and the split run along the channels and have no epilogue. The concat reads one convolution of each of
    the split's results, in their order, and is their only reader. The convolutions have the same attributes, kernel
    shape, dtype and epilogue; weights and biases are constant, and none adds another tensor. Groups that they have
    already add up.

    Pays: Parallel branches over slices of channels (AlexNet's halves written out): one grouped convolution.
    """

    name: str = "group-convolutions"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        convolutions = [producer(graph, operand) for operand in node.anchor_operands]
        found = [conv for conv in convolutions if conv is not None and isinstance(conv.op, Conv2d)]
        if len(found) < 2 or len(found) != len(convolutions):
            return
        split = producer(graph, found[0].operands[0])
        if split is None or not isinstance(split.op, Split):
            return
        reason = _ungroupable(graph, node, split, found)
        places = (node, split, *found)
        yield Match(places) if reason is None else Mismatch(places, reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, split, *found = match.nodes
        first = found[0]
        columns = zip(*(combined(*conv.operands[1:]) for conv in found), strict=True)
        weights = tuple(concatenated(tuple(column), 0) for column in columns)
        op = replace(convolution(first), groups=convolution(first).groups * len(found))
        name = "+".join(conv.name for conv in found if conv.name)
        operands = (split.operands[0], *weights)
        return Rewrite((node,), (Node.make(op, operands, first.epilogue, outputs=node.outputs, name=name),))


@dataclass(frozen=True)
class UngroupConvolution:
    """conv(x, W, groups) = concat(conv(a, W1), conv(b, W2), ...) where a, b, ... = split(x), W = concat(W1, W2, ...)

    There are at most four groups; weights and biases are constant, and the convolution adds no other tensor.

    Pays: Devices whose grouped kernels are slower than a few dense ones.
    """

    name: str = "ungroup-convolution"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        groups = convolution(node).groups
        if groups == 1:
            return
        reason = refusal(node, node)
        if groups > _MOST_GROUPS:
            reason = f"{label(node)} has {groups} groups; more than {_MOST_GROUPS} are not taken apart"
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        op = convolution(node)
        data = node.operands[0]
        split = interim(graph, Split(1, (data.type.shape[1] // op.groups,) * op.groups), (data,), name=node.name)
        single = replace(op, groups=1)
        size = node.outputs[0].type.shape[1] // op.groups
        parts = []
        for index, value in enumerate(split.outputs):
            at = index * size
            weights = tuple(sliced(weight, 0, at, at + size) for weight in combined(*node.operands[1:]))
            parts.append(interim(graph, single, (value, *weights), node.epilogue, name=node.name))
        operands = tuple(part.outputs[0] for part in parts)
        concat = Node.make(Concat(1), operands, outputs=node.outputs, name=node.name)
        return Rewrite((node,), (split, *parts, concat))


def _ungroupable(graph: Graph, concat: Node, split: Node, found: list[Node]) -> str | None:
    if not plain(concat, Concat, 1) or not plain(split, Split, 1) or type(concat.op) is not Concat:
        return "concat and split do not both run along the channels with nothing fused into them"
    if tuple(conv.operands[0] for conv in found) != split.outputs:
        return "the convolutions do not read the split's results one each in their order"
    first = found[0]
    if isinstance(split.operands[0], Weight):
        return f"{label(split)} splits a constant"
    for conv in found:
        reason = shared(graph, conv, concat) or refusal(first, conv)
        if reason is None and conv.op != first.op:
            reason = f"attributes differ: {first.op} and {conv.op}"
        if reason is None and conv.operands[1].type != first.operands[1].type:
            reason = f"kernels differ: {first.operands[1].type} and {conv.operands[1].type}"
        if reason is not None:
            return reason
    return None
