"""Transposes and reshapes moved through elementwise operators and products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import (
    Activation,
    Add,
    Binary,
    Graph,
    MatMul,
    Node,
    Operator,
    Reshape,
    Rewrite,
    Softmax,
    Transpose,
    Value,
    Weight,
)
from joulec.passes.graph.node import Operand
from joulec.passes.graph.weights import reshaped, transposed
from joulec.passes.rules.linear import interim, is_private, producer, scale_of
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class TransposeOfElementwise:
    """transpose(f(x)) = f(transpose(x))

    f is an activation, or a scale by a constant number; activations may be fused into it, none into the transpose.
    Nothing else reads f(x).

    Pays: Brings transposes together, so that they cancel or fold into products.
    """

    name: str = "transpose-of-elementwise"
    anchor: type[Operator] = Transpose

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        return _view_of_elementwise(graph, node)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _swap_inwards(match)


@dataclass(frozen=True)
class ReshapeOfElementwise:
    """reshape(f(x)) = f(reshape(x))

    f is an activation, or a scale by a constant number; activations may be fused into it, none into the reshape.
    Nothing else reads f(x).

    Pays: Brings reshapes together; activations meet the node that can fuse them.
    """

    name: str = "reshape-of-elementwise"
    anchor: type[Operator] = Reshape

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        return _view_of_elementwise(graph, node)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _swap_inwards(match)


@dataclass(frozen=True)
class ElementwiseOfView:
    """f(transpose(x)) = transpose(f(x)); f(reshape(x)) = reshape(f(x))

    f is an activation, or a scale by a constant number; activations may be fused into it, none into the view. Nothing
    else reads what the view gives.

    Pays: Lets activations fuse into the node in front of the view.
    """

    name: str = "elementwise-of-view"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        data = _pointwise(node)
        view = None if data is None else producer(graph, data)
        if view is None or not isinstance(view.op, Transpose | Reshape):
            return
        reason = _refusal(graph, view, node)
        yield Match((node, view)) if reason is None else Mismatch((node, view), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, view = match.nodes
        inner = _repeated(node, view.operands[0], None)
        outer = Node.make(view.op, inner.outputs, outputs=node.outputs, name=view.name)
        return Rewrite(match.nodes, (inner, outer))


@dataclass(frozen=True)
class SoftmaxOfTranspose:
    """softmax(transpose(x)) = transpose(softmax(x))

    The softmax runs along the axis that the transpose moves to its own. Nothing is fused into the transpose, nothing
    but activations into the softmax, and nothing else reads what the transpose gives.

    Pays: Attention written with a transpose behind the scores: the copy moves to where it folds.
    """

    name: str = "softmax-of-transpose"
    anchor: type[Operator] = Softmax

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        view = producer(graph, node.operands[0])
        if view is None or not isinstance(view.op, Transpose):
            return
        reason = _refusal(graph, view, node)
        if reason is None and any(step.operands for step in node.epilogue):
            reason = f"another tensor is fused into {label(node)}"
        yield Match((node, view)) if reason is None else Mismatch((node, view), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, view = match.nodes
        assert isinstance(node.op, Softmax)
        assert isinstance(view.op, Transpose)
        axis = view.op.permutation[node.op.axis]
        inner = interim(Softmax(axis), view.operands, node.epilogue, name=node.name)
        return Rewrite(match.nodes, (inner, Node.make(view.op, inner.outputs, outputs=node.outputs, name=view.name)))


@dataclass(frozen=True)
class CombineTransposed:
    """f(transpose(a), transpose(b)) = transpose(f(a, b)); f(reshape(a), reshape(b)) = reshape(f(a, b))

    f is a sum, difference, product or quotient of two tensors of one type, with nothing but activations fused. Both
    views are the same of operands of one type; nothing is fused into them, and f alone reads them.

    Pays: Two copies become one.
    """

    name: str = "combine-transposed"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        if not isinstance(node.op, Add | Binary) or len(node.anchor_operands) != 2:
            return
        first, second = (producer(graph, operand) for operand in node.anchor_operands)
        if first is None or second is None or not isinstance(first.op, Transpose | Reshape):
            return
        if type(first.op) is not type(second.op):
            return
        reason = _refusal(graph, first, node) or _refusal(graph, second, node)
        if first.op != second.op or first.operands[0].type != second.operands[0].type:
            reason = "the two views differ"
        elif any(step.operands for step in node.epilogue):
            reason = f"another tensor is fused into {label(node)}"
        yield Match((node, first, second)) if reason is None else Mismatch((node, first, second), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, first, second = match.nodes
        inner = interim(node.op, (first.operands[0], second.operands[0]), node.epilogue, name=node.name)
        return Rewrite(match.nodes, (inner, Node.make(first.op, inner.outputs, outputs=node.outputs, name=first.name)))


@dataclass(frozen=True)
class FlipTransposedOperand:
    """matmul(a, transpose(b, p)) = matmul(a, transpose(b, q), transposed), q being p with its last two axes exchanged

    And the same from transposed to not; where q is the identity, no transpose is left. b is computed at run time;
    nothing is fused into its transpose, and nothing else reads it.

    Pays: The key's transpose in attention: no copy of it is left.
    """

    name: str = "flip-transposed-operand"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        view = producer(graph, node.operands[1])
        if view is None or not isinstance(view.op, Transpose):
            return
        reason = _refusal(graph, view, node)
        yield Match((node, view)) if reason is None else Mismatch((node, view), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, view = match.nodes
        assert isinstance(view.op, Transpose)
        *rest, last, least = view.op.permutation
        exchanged = (*rest, least, last)
        added: list[Node] = []
        operand = view.operands[0]
        if exchanged != tuple(range(len(exchanged))):
            added.append(interim(Transpose(exchanged), (operand,), name=view.name))
            operand = added[0].outputs[0]
        return Rewrite(match.nodes, (*added, _flipped(node, operand)))


@dataclass(frozen=True)
class StoreTransposed:
    """matmul(x, W) = matmul(x, transpose(W), transposed)

    And back. W is a constant matrix. What another product with the same data stores alike can be merged with it.

    Pays: Lets products whose weights are stored differently merge, and picks the kernel's better side.
    """

    name: str = "store-transposed"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        weight, data = node.operands[1], node.operands[0]
        if not isinstance(weight, Weight) or not isinstance(data, Value):
            return
        others = [other for other in graph.consumers[data] if isinstance(other.op, MatMul) and other.op != node.op]
        if not any(other.operands[0] == data and isinstance(other.operands[1], Weight) for other in others):
            return
        reason = None if len(weight.type.shape) == 2 else "the weight is no matrix"
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        weight = node.operands[1]
        assert isinstance(weight, Weight)
        return Rewrite((node,), (_flipped(node, transposed(weight)),))


@dataclass(frozen=True)
class TransposeOfProduct:
    """transpose(matmul(a, b, transposed)) = matmul(b, a, transposed)

    The transpose exchanges the last two axes alone. b is stored transposed, or a constant matrix. Nothing but
    activations is fused into the product, nothing into the transpose, and nothing else reads the product.

    Pays: Transposes around products: the product gives the transposed result itself.
    """

    name: str = "transpose-of-product"
    anchor: type[Operator] = Transpose

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        product = producer(graph, node.operands[0])
        if product is None or not isinstance(product.op, MatMul) or not isinstance(node.op, Transpose):
            return
        rank = len(node.op.permutation)
        reason = _refusal(graph, product, node, steps=True) or (
            f"something is fused into {label(node)}" if node.epilogue else None
        )
        if node.op.permutation != (*range(rank - 2), rank - 1, rank - 2):
            reason = "the transpose does not exchange the last two axes alone"
        elif _second(product) is None:
            reason = "the second factor is not stored transposed"
        yield Match((node, product)) if reason is None else Mismatch((node, product), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, product = match.nodes
        second = _second(product)
        assert second is not None
        operands = (second, product.operands[0])
        turned = Node.make(MatMul(True), operands, product.epilogue, outputs=node.outputs, name=product.name)
        return Rewrite(match.nodes, (turned,))


def _pointwise(node: Node) -> Value | None:
    """What a function of each element alone reads: an activation, or a scale by one number."""
    if any(step.operands for step in node.epilogue):
        return None
    if isinstance(node.op, Activation):
        return node.operands[0] if isinstance(node.operands[0], Value) else None
    scale = scale_of(node)
    return scale.data if scale is not None and scale.is_number else None


def _repeated(node: Node, data: Operand, outputs: tuple[Value, ...] | None) -> Node:
    """The same function of each element of other data."""
    if isinstance(node.op, Activation):
        return Node.make(node.op, (data,), node.epilogue, outputs=outputs, name=node.name)
    scale = scale_of(node)
    assert scale is not None
    factor = reshaped(scale.operand, ())
    return Node.make(Binary(scale.kind), (data, factor), node.epilogue, outputs=outputs, name=node.name)


def _view_of_elementwise(graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
    inner = producer(graph, node.operands[0])
    if inner is None or _pointwise(inner) is None:
        return
    reason = f"something is fused into {label(node)}" if node.epilogue else None
    if reason is None and not is_private(graph, inner, node):
        reason = f"{label(inner)} has other readers"
    yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)


def _swap_inwards(match: Match) -> Rewrite:
    view, inner = match.nodes
    data = _pointwise(inner)
    assert data is not None
    moved = interim(view.op, (data,), name=view.name)
    return Rewrite(match.nodes, (moved, _repeated(inner, moved.outputs[0], view.outputs)))


def _refusal(graph: Graph, before: Node, node: Node, *, steps: bool = False) -> str | None:
    fused = [step for step in before.epilogue if step.operands or not steps]
    if fused:
        return f"something is fused into {label(before)}"
    return None if is_private(graph, before, node) else f"{label(before)} has other readers"


def _flipped(node: Node, operand: Operand) -> Node:
    assert isinstance(node.op, MatMul)
    operands = (node.operands[0], operand, *node.epilogue_operands)
    return Node.make(MatMul(not node.op.transpose_b), operands, node.epilogue, outputs=node.outputs, name=node.name)


def _second(product: Node) -> Operand | None:
    """A product's second factor as [..., columns, depth], None where that would need a transpose."""
    assert isinstance(product.op, MatMul)
    second = product.operands[1]
    if product.op.transpose_b:
        return second
    return transposed(second) if isinstance(second, Weight) and len(second.type.shape) == 2 else None
