"""Constant scales and shifts taken into the weights of a matrix product, or moved past it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import Binary, Graph, LayerNorm, MatMul, Node, Operator, Rewrite, Value, Weight
from joulec.passes.graph.arithmetic import along, multiplied, over, times
from joulec.passes.graph.weights import reshaped, transposed
from joulec.passes.rules.linear import (
    Constant,
    bias_of,
    biased,
    has_constant_matrix,
    interim,
    is_linear,
    is_private,
    on_columns,
    on_depth,
    producer,
    row,
    scale_of,
    shift_of,
    weight_of,
)
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class ScaleColumns:
    """(matmul(x, W) + b) · c = matmul(x, W · c) + b · c

    Likewise for division. W is a constant matrix, c a constant number or one number per column; b may be absent, and
    nothing else is fused into the product or reads it. Where the result is of rank 4, a bias lies along axis 1 and c
    has to be one number.

    Pays: Scales behind a linear layer: none is left at run time.
    """

    name: str = "scale-columns"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        scale = scale_of(node)
        product = None if scale is None else producer(graph, scale.data)
        if scale is None or product is None or not has_constant_matrix(product):
            return
        vector = row(scale.operand, scale.data.type)
        reason = None
        if vector is None:
            reason = "the scale varies along another axis than the columns"
        elif not is_linear(product):
            reason = f"more than a bias is fused into {label(product)}"
        elif product.epilogue and not scale.is_number and len(scale.data.type.shape) == 4:
            reason = f"the bias of {label(product)} does not lie along its columns"
        elif not is_private(graph, product, node):
            reason = f"{label(product)} has other readers"
        yield Match((node, product)) if reason is None else Mismatch((node, product), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, product = match.nodes
        scale = scale_of(node)
        assert scale is not None
        vector = row(scale.operand, scale.data.type)
        assert isinstance(product.op, MatMul)
        assert vector is not None
        apply = times if scale.kind == "mul" else over
        weight, bias = weight_of(product), bias_of(product)
        weights = (
            apply(weight, on_columns(product.op, vector, weight)),
            *(() if bias is None else (apply(bias, vector),)),
        )
        operands = (product.operands[0], *weights, *node.epilogue_operands)
        epilogue = (*product.epilogue, *node.epilogue)
        scaled = Node.make(product.op, operands, epilogue, outputs=node.outputs, name=product.name)
        return Rewrite((node, product), (scaled,))


@dataclass(frozen=True)
class ScaleRows:
    """matmul(x · c, W) = matmul(x, c · W)

    Likewise for division. W is a constant matrix, c a constant number or one number per element of the last axis of x;
    nothing is fused into the scale, and nothing else reads it.

    Pays: Scales in front of a linear layer: none is left at run time.
    """

    name: str = "scale-rows"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        scale = None if before is None or not has_constant_matrix(node) else scale_of(before)
        if before is None or scale is None:
            return
        reason = _operand_refusal(graph, scale, before, node)
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        scale = scale_of(before)
        assert scale is not None
        vector = row(scale.operand, scale.data.type)
        assert isinstance(node.op, MatMul)
        assert vector is not None
        weight = weight_of(node)
        scaled = (times if scale.kind == "mul" else over)(weight, on_depth(node.op, vector, weight))
        operands = (scale.data, scaled, *node.epilogue_operands)
        return Rewrite((node, before), (_like(node, operands),))


@dataclass(frozen=True)
class ShiftIntoBias:
    """matmul(x + c, W) + b = matmul(x, W) + (c · W + b)

    Likewise for a difference. W is a constant matrix, c a constant with one number per element of the last axis of x;
    nothing is fused into the shift, nothing else reads it, and the result is not of rank 4, where a bias would not lie
    along the columns. b may be absent.

    Pays: Shifts in front of a linear layer: none is left at run time.
    """

    name: str = "shift-into-bias"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        shift = None if before is None or not has_constant_matrix(node) else shift_of(before)
        if before is None or shift is None:
            return
        reason = _operand_refusal(graph, shift, before, node)
        vector = row(shift.operand, shift.data.type)
        if reason is None and (vector is None or vector.type.size != shift.data.type.shape[-1]):
            reason = "the shift is one number, not one per element of the last axis"
        if reason is None and len(node.outputs[0].type.shape) == 4:
            reason = f"a bias of {label(node)} would not lie along its columns"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        shift = shift_of(before)
        vector = None if shift is None else row(shift.operand, shift.data.type)
        assert shift is not None
        assert vector is not None
        epilogue, operands = biased(node, _through(node, vector))
        operands = (shift.data, weight_of(node), *operands)
        return Rewrite((node, before), (Node.make(node.op, operands, epilogue, outputs=node.outputs, name=node.name),))


@dataclass(frozen=True)
class ScaleFactor:
    """matmul(a, b) · c = matmul(a · c, b)

    Likewise for division. c is a constant number, a and b are both computed at run time; nothing is fused into the
    product, and nothing else reads it.

    Pays: The 1/sqrt(d) of attention, moved to the smaller tensor, from where it folds into a projection.
    """

    name: str = "scale-factor"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        scale = scale_of(node)
        product = None if scale is None else producer(graph, scale.data)
        if scale is None or product is None or not isinstance(product.op, MatMul) or len(product.inputs) < 2:
            return
        reason = None
        if not scale.is_number:
            reason = "the scale is not one number"
        elif product.epilogue:
            reason = f"something is fused into {label(product)}"
        elif not is_private(graph, product, node):
            reason = f"{label(product)} has other readers"
        yield Match((node, product)) if reason is None else Mismatch((node, product), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, product = match.nodes
        scale = scale_of(node)
        assert scale is not None
        factor = reshaped(scale.operand, ())
        before = interim(Binary(scale.kind), (product.operands[0], factor), name=node.name)
        operands = (*before.outputs, product.operands[1], *node.epilogue_operands)
        after = Node.make(product.op, operands, node.epilogue, outputs=node.outputs, name=product.name)
        return Rewrite((node, product), (before, after))


@dataclass(frozen=True)
class ScaleResult:
    """matmul(a · c, b) = matmul(a, b) · c

    Likewise for division. c is a constant number, a and b are both computed at run time; nothing is fused into scale or
    product, and nothing else reads the scale.

    Pays: The way back, where the result is the smaller tensor.
    """

    name: str = "scale-result"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        scale = None if before is None or len(node.inputs) < 2 else scale_of(before)
        if before is None or scale is None or not isinstance(node.operands[1], Value):
            return
        reason = None if scale.is_number else "the scale is not one number"
        reason = reason or _operand_refusal(graph, scale, before, node)
        if reason is None and node.epilogue:
            reason = f"something is fused into {label(node)}"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        scale = scale_of(before)
        assert scale is not None
        product = interim(node.op, (scale.data, node.operands[1]), name=node.name)
        factor = reshaped(scale.operand, ())
        after = Node.make(Binary(scale.kind), (*product.outputs, factor), outputs=node.outputs, name=before.name)
        return Rewrite((node, before), (product, after))


@dataclass(frozen=True)
class FoldNormScale:
    """matmul(norm(x) · g + s, W) + b = matmul(norm(x), g · W) + (s · W + b)

    The layer normalisation runs over the last axis alone, its g and s (which may be absent) are constant, and nothing
    is fused into it. All that read it are products with constant matrices, which read it once, as their first operand;
    the graph does not return it. With s, the results are not of rank 4, where a bias would not lie along the columns.

    Pays: Transformers: the gain and shift of layer normalisation move into the projections that read it.
    """

    name: str = "fold-norm-scale"
    anchor: type[Operator] = LayerNorm

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        if len(node.anchor_operands) < 2:
            return
        readers = graph.consumers.get(node.outputs[0], ())
        if not any(isinstance(reader.op, MatMul) for reader in readers):
            return
        reason = self._refusal(graph, node, readers)
        found = (node, *readers)
        yield Match(found) if reason is None else Mismatch(found, reason)

    @staticmethod
    def _refusal(graph: Graph, node: Node, readers: tuple[Node, ...]) -> str | None:
        value = node.outputs[0]
        if node.epilogue or not all(isinstance(operand, Weight) for operand in node.operands[1:]):
            return f"scale and shift of {label(node)} are not constant, or something is fused into it"
        if not isinstance(node.op, LayerNorm) or node.op.axis != len(value.type.shape) - 1:
            return f"{label(node)} normalises more than the last axis"
        for reader in readers:
            linear = has_constant_matrix(reader) and reader.operands[0] == value and reader.operands.count(value) == 1
            if not linear or value in graph.outputs:
                return f"not all that read {label(node)} are products with constant matrices"
        if len(node.operands) == 3 and len(value.type.shape) == 4:
            return "biases do not lie along the columns"
        return None

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, *readers = match.nodes
        bare = interim(node.op, node.operands[:1], name=node.name)
        scale, *shift = [operand for operand in node.operands[1:] if isinstance(operand, Weight)]
        added = [bare]
        for reader in readers:
            assert isinstance(reader.op, MatMul)
            weight = weight_of(reader)
            epilogue, operands = reader.epilogue, reader.epilogue_operands
            if shift:
                epilogue, operands = biased(reader, _through(reader, shift[0]))
            operands = (*bare.outputs, times(weight, on_depth(reader.op, scale, weight)), *operands)
            added.append(Node.make(reader.op, operands, epilogue, outputs=reader.outputs, name=reader.name))
        return Rewrite(match.nodes, tuple(added))


def _through(product: Node, vector: Weight) -> Weight:
    """A vector times a product's constant matrix."""
    assert isinstance(product.op, MatMul)
    weight = weight_of(product)
    moved = multiplied(along(vector, 1, 2), transposed(weight) if product.op.transpose_b else weight)
    return reshaped(moved, (moved.type.size,))


def _operand_refusal(graph: Graph, constant: Constant, before: Node, product: Node) -> str | None:
    if row(constant.operand, constant.data.type) is None:
        return "the constant varies along another axis than the last"
    if before.epilogue:
        return f"something is fused into {label(before)}"
    return None if is_private(graph, before, product) else f"{label(before)} has other readers"


def _like(node: Node, operands: tuple[Value | Weight, ...]) -> Node:
    return Node.make(node.op, operands, node.epilogue, outputs=node.outputs, name=node.name)
