"""Chains and sums of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from joulec.passes.graph import Concat, Graph, MatMul, Node, Operator, Rewrite, Step, Value, Weight, concatenated
from joulec.passes.graph.arithmetic import along, multiplied
from joulec.passes.graph.node import Operand
from joulec.passes.graph.weights import reshaped, sliced, summed, transposed
from joulec.passes.rules.linear import (
    bias_of,
    biased,
    has_constant_matrix,
    interim,
    is_linear,
    is_private,
    producer,
    weight_of,
)
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch

_ADD = Step("add")


@dataclass(frozen=True)
class FoldWeightChain:
    """matmul(matmul(x, A) + a, B) + b = matmul(x, A·B) + (a·B + b)

    A and B are constant matrices, in whichever order they are stored; a and b may be absent, and what follows b stays.
    Nothing but a bias is fused into the inner product, and nothing else reads it. A bias wants a result that is not of
    rank 4, where it would not lie along the columns.

    Pays: Linear layers without activation between them (low-rank factors): one product where it has less
    arithmetic.
    """

    name: str = "fold-weight-chain"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = producer(graph, node.operands[0])
        if inner is None or not isinstance(inner.op, MatMul):
            return
        if not has_constant_matrix(node) or not has_constant_matrix(inner):
            return
        reason = _inner_refusal(graph, inner, node)
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        outer, inner = match.nodes
        right = _upright(outer)
        weight, bias = multiplied(_upright(inner), right), bias_of(inner)
        epilogue, operands = outer.epilogue, outer.epilogue_operands
        if bias is not None:
            moved = multiplied(along(bias, 1, 2), right)
            epilogue, operands = biased(outer, reshaped(moved, (moved.type.size,)))
        operands = (inner.operands[0], weight, *operands)
        folded = Node.make(MatMul(), operands, epilogue, outputs=outer.outputs, name=outer.name)
        return Rewrite((outer, inner), (folded,))


@dataclass(frozen=True)
class AssociateRight:
    """matmul(matmul(a, b), c) = matmul(a, matmul(b, c))

    b is not stored transposed, and not both b and c are constant (`FoldWeightChain` is for that). Nothing is fused into
    the inner product and nothing else reads it; leading dimensions broadcast as before.

    Pays: Chains of products whose inner result is the smaller one this way (linear attention).
    """

    name: str = "associate-right"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = producer(graph, node.operands[0])
        if inner is None or not isinstance(inner.op, MatMul):
            return
        if isinstance(node.operands[1], Weight) and isinstance(inner.operands[1], Weight):
            return
        reason = "the second of three factors is stored transposed" if inner.op.transpose_b else None
        reason = reason or _plain_refusal(graph, inner, node)
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        outer, inner = match.nodes
        first, second = inner.operands
        fresh = interim(outer.op, (second, outer.operands[1]), name=inner.name)
        operands = (first, *fresh.outputs, *outer.epilogue_operands)
        return Rewrite((outer, inner), (fresh, _product(MatMul(), operands, outer)))


@dataclass(frozen=True)
class AssociateLeft:
    """matmul(a, matmul(b, c)) = matmul(matmul(a, b), c)

    The inner product is not taken transposed, and not both a and b are constant. Nothing is fused into the inner
    product and nothing else reads it; leading dimensions broadcast as before.

    Pays: Chains of products whose inner result is the smaller one that way.
    """

    name: str = "associate-left"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = producer(graph, node.operands[1])
        if inner is None or not isinstance(inner.op, MatMul):
            return
        if isinstance(node.operands[0], Weight) and isinstance(inner.operands[0], Weight):
            return
        transposed_b = isinstance(node.op, MatMul) and node.op.transpose_b
        reason = "the inner product is taken transposed" if transposed_b else _plain_refusal(graph, inner, node)
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        outer, inner = match.nodes
        second, third = inner.operands
        fresh = interim(MatMul(), (outer.operands[0], second), name=inner.name)
        operands = (*fresh.outputs, third, *outer.epilogue_operands)
        return Rewrite((outer, inner), (fresh, _product(inner.op, operands, outer)))


@dataclass(frozen=True)
class AddWeights:
    """matmul(x, A) + matmul(x, B) = matmul(x, A + B)

    The sum is the add in the epilogue of the first product, which may have a bias before it; the second has nothing but
    a bias fused and no other reader. A and B are constant matrices, in whichever order they are stored.

    Pays: Parallel linear branches of one input (LoRA beside its base layer).
    """

    name: str = "add-weights"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        other = _added(graph, node)
        if other is None or other.operands[0] != node.operands[0]:
            return
        reason = _sum_refusal(graph, node, other)
        yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, other = match.nodes
        weight = summed((_upright(node), _upright(other)))
        return _without_add(node, other, node.operands[0], weight, ())


@dataclass(frozen=True)
class JoinProducts:
    """matmul(a, A) + matmul(b, B) = matmul(concat(a, b), concat(A, B))

    The sum is the add in the epilogue of the first product, which may have a bias before it; the second has nothing but
    a bias fused and no other reader. A and B are constant matrices, in whichever order they are stored; a and b have
    the same leading dimensions and differ (`AddWeights` is for equal ones).

    Pays: Sums of two projections: one accumulation in place of two and a sum.
    """

    name: str = "join-products"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        other = _added(graph, node)
        if other is None or other.operands[0] == node.operands[0]:
            return
        reason = _sum_refusal(graph, node, other)
        if reason is None and node.operands[0].type.shape[:-1] != other.operands[0].type.shape[:-1]:
            reason = "the factors differ in their leading dimensions"
        yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, other = match.nodes
        data = node.operands[0], other.operands[0]
        both = interim(Concat(len(data[0].type.shape) - 1), data, name=f"{node.name}/join")
        weight = concatenated((_upright(node), _upright(other)), 0)
        return _without_add(node, other, both.outputs[0], weight, (both,))


@dataclass(frozen=True)
class SplitProduct:
    """matmul(concat(a, b, ...), W) = matmul(a, W1) + (matmul(b, W2) + ...)

    The concat runs along the last axis, has no epilogue and no other reader, and reads two computed tensors or more; W
    is a constant matrix. The sums are fused into the products, the first of which keeps bias and activation.

    Pays: A product behind a concat (gates of recurrent cells): no copy.
    """

    name: str = "split-product"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        concat = producer(graph, node.operands[0])
        if concat is None or type(concat.op) is not Concat or not has_constant_matrix(node):
            return
        reason = None
        if concat.op.axis != len(node.operands[0].type.shape) - 1:
            reason = "the concat does not run along the last axis"
        elif len(concat.operands) < 2 or not all(isinstance(operand, Value) for operand in concat.operands):
            reason = "the concat reads a constant or one tensor alone"
        elif concat.epilogue or not is_private(graph, concat, node):
            reason = f"something is fused into {label(concat)}, or it has other readers"
        elif _ADD in node.epilogue:
            reason = f"{label(node)} adds another tensor already"
        yield Match((node, concat)) if reason is None else Mismatch((node, concat), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, concat = match.nodes
        weight, edges = _upright(node), [0]
        for operand in concat.operands:
            edges.append(edges[-1] + operand.type.shape[-1])
        pieces = list(zip(concat.operands, pairwise(edges), strict=True))
        rest: tuple[Value, ...] = ()
        added = []
        for operand, (begin, end) in reversed(pieces[1:]):
            operands = (operand, sliced(weight, 0, begin, end), *rest)
            part = interim(MatMul(), operands, (_ADD,) * len(rest), name=f"{node.name}/part")
            added.append(part)
            rest = part.outputs
        operand, (begin, end) = pieces[0]
        at = 0 if bias_of(node) is None else 1
        steps = (*node.epilogue[:at], _ADD, *node.epilogue[at:])
        others = (*node.epilogue_operands[:at], *rest, *node.epilogue_operands[at:])
        operands = (operand, sliced(weight, 0, begin, end), *others)
        added.append(Node.make(MatMul(), operands, steps, outputs=node.outputs, name=node.name))
        return Rewrite((node, concat), tuple(added))


def _upright(node: Node) -> Weight:
    """A product's constant matrix as [depth, columns]."""
    weight = weight_of(node)
    return transposed(weight) if isinstance(node.op, MatMul) and node.op.transpose_b else weight


def _product(op: Operator, operands: tuple[Operand, ...], like: Node) -> Node:
    return Node.make(op, operands, like.epilogue, outputs=like.outputs, name=like.name)


def _plain_refusal(graph: Graph, inner: Node, outer: Node) -> str | None:
    if inner.epilogue:
        return f"something is fused into {label(inner)}"
    return None if is_private(graph, inner, outer) else f"{label(inner)} has other readers"


def _inner_refusal(graph: Graph, inner: Node, outer: Node) -> str | None:
    if not is_linear(inner):
        return f"more than a bias is fused into {label(inner)}"
    if inner.epilogue and len(outer.outputs[0].type.shape) == 4:
        return f"the bias of {label(inner)} does not lie along its columns"
    return None if is_private(graph, inner, outer) else f"{label(inner)} has other readers"


def _added(graph: Graph, node: Node) -> Node | None:
    """The product that a product with a constant matrix adds in its epilogue."""
    if _ADD not in node.epilogue or not has_constant_matrix(node):
        return None
    at = sum(step.operands for step in node.epilogue[: node.epilogue.index(_ADD)])
    other = producer(graph, node.epilogue_operands[at])
    return other if other is not None and isinstance(other.op, MatMul) else None


def _sum_refusal(graph: Graph, node: Node, other: Node) -> str | None:
    if not is_linear(other):
        return f"{label(other)} has no constant matrix, or more than a bias fused"
    if node.epilogue[: node.epilogue.index(_ADD)] not in ((), (Step("bias"),)):
        return f"more than a bias comes before the sum in {label(node)}"
    return None if is_private(graph, other, node) else f"{label(other)} has other readers"


def _without_add(node: Node, other: Node, data: Operand, weight: Weight, added: tuple[Node, ...]) -> Rewrite:
    """One product for two whose results are added."""
    at = node.epilogue.index(_ADD)
    taken = sum(step.operands for step in node.epilogue[:at])
    steps = (*node.epilogue[:at], *node.epilogue[at + 1 :])
    others = (*node.epilogue_operands[:taken], *node.epilogue_operands[taken + 1 :])
    bias = bias_of(other)
    if bias is not None and steps[:1] == (Step("bias"),) and isinstance(others[0], Weight):
        others = (summed((others[0], bias)), *others[1:])
    elif bias is not None:
        steps, others = (Step("bias"), *steps), (bias, *others)
    joint = Node.make(MatMul(), (data, weight, *others), steps, outputs=node.outputs, name=node.name)
    return Rewrite((node, other), (*added, joint))
