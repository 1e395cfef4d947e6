"""Arithmetic with constants: scales and shifts combined, inverted, dropped and distributed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import Add, Binary, Graph, Node, Operator, Rewrite, Value, Weight
from joulec.passes.graph.arithmetic import is_filled_with, over, reciprocal, times
from joulec.passes.graph.node import Operand
from joulec.passes.graph.weights import Literal, reshaped, summed
from joulec.passes.rules.joined import identify
from joulec.passes.rules.linear import interim, is_private, producer, scale_of, shift_of
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class ReciprocalScale:
    """x / c = x · (1 / c)

    c is a constant of the model, of a floating-point type and nowhere zero. Exact where c is a power of two; elsewhere
    1 / c is rounded, and a result may differ by one and a half units in its last place.

    Pays: Multiplication is cheaper than division, and folds into weights by the rules for scales.
    """

    name: str = "reciprocal-scale"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        scale = scale_of(node)
        if scale is None or scale.kind != "div":
            return
        reason = None
        if not scale.operand.type.dtype.startswith("float"):
            reason = "integers have no reciprocal"
        elif not isinstance(scale.operand, Literal) or bool((scale.operand.array == 0).any()):
            reason = "the divisor is zero somewhere, or itself computed from constants"
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        scale = scale_of(node)
        assert scale is not None
        return Rewrite((node,), (_remade(node, Binary("mul"), (scale.data, reciprocal(scale.operand))),))


@dataclass(frozen=True)
class NegatedShift:
    """x - c = x + (-c)

    c is constant and of a floating-point type. Exact.

    Pays: Opens differences to the rules for sums and biases.
    """

    name: str = "negated-shift"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        if shift_of(node) is not None:
            yield Match((node,))

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        shift = shift_of(node)
        assert shift is not None
        return Rewrite((node,), (_remade(node, Add(), (shift.data, shift.operand)),))


@dataclass(frozen=True)
class CombineScales:
    """(x · c) · d = x · (c · d)

    Either scale may be a division. c and d are constant and of a floating-point type; nothing is fused into the inner
    scale, and nothing else reads it. One of two roundings goes.

    Pays: Chains of scales: one pass less over memory.
    """

    name: str = "combine-scales"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        outer = scale_of(node)
        before = None if outer is None else producer(graph, outer.data)
        if outer is None or before is None or scale_of(before) is None:
            return
        reason = _refusal(graph, before, node)
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        outer, inner = scale_of(node), scale_of(before)
        assert outer is not None
        assert inner is not None
        first, second = _alike(inner.operand, outer.operand)
        if outer.kind == inner.kind:
            constant = times(*sorted((first, second), key=lambda part: part.key))
        else:
            constant = over(first, second) if inner.kind == "mul" else over(second, first)
        kind = "div" if outer.kind == inner.kind == "div" else "mul"
        return Rewrite((node, before), (_remade(node, Binary(kind), (inner.data, constant)),))


@dataclass(frozen=True)
class CombineShifts:
    """(x + c) + d = x + (c + d)

    Either shift may be a difference. c and d are constants of one shape and of a floating-point type; nothing is fused
    into the inner shift, and nothing else reads it.

    Pays: Chains of shifts: one pass less over memory.
    """

    name: str = "combine-shifts"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        outer = shift_of(node)
        before = None if outer is None else producer(graph, outer.data)
        inner = None if before is None else shift_of(before)
        if outer is None or before is None or inner is None:
            return
        reason = _refusal(graph, before, node)
        if reason is None and _squeezed(inner.operand, node) != _squeezed(outer.operand, node):
            reason = "the constants differ in shape"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        outer, inner = shift_of(node), shift_of(before)
        assert outer is not None
        assert inner is not None
        constant = summed((reshaped(inner.operand, outer.operand.type.shape), outer.operand))
        return Rewrite((node, before), (_remade(node, Add(), (inner.data, constant)),))


@dataclass(frozen=True)
class UnitScale:
    """x · 1 = x / 1 = x - 0 = x

    The constant is filled with the number, and nothing is fused into the node.

    Pays: What other rules leave behind.
    """

    name: str = "unit-scale"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        data = _kept(node)
        if data is not None:
            yield from _droppable(graph, node, data)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        data = _kept(node)
        assert data is not None
        return identify(graph, {node.outputs[0]: data})


@dataclass(frozen=True)
class ZeroShift:
    """x + 0 = x

    The constant is filled with zeros, and nothing is fused into the sum.

    Pays: What other rules leave behind.
    """

    name: str = "zero-shift"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        shift = shift_of(node)
        if shift is None or not is_filled_with(shift.operand, 0.0):
            return
        yield from _droppable(graph, node, shift.data)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        shift = shift_of(node)
        assert shift is not None
        return identify(graph, {node.outputs[0]: shift.data})


@dataclass(frozen=True)
class DistributeScale:
    """(a + b) · c = a · c + b · c

    Likewise for division. c is a constant number; a and b are computed and have the type of their sum, into which
    nothing is fused and which nothing else reads.

    Pays: A scale over a residual sum that folds into both branches' weights.
    """

    name: str = "distribute-scale"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        scale = scale_of(node)
        before = None if scale is None else producer(graph, scale.data)
        if scale is None or before is None or not isinstance(before.op, Add) or shift_of(before) is not None:
            return
        reason = _refusal(graph, before, node) if scale.is_number else "the scale is not one number"
        if reason is None and any(
            operand.type != scale.data.type or not isinstance(operand, Value) for operand in before.operands
        ):
            reason = f"an operand of {label(before)} is constant or broadcast"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        scale = scale_of(node)
        assert scale is not None
        op = Binary(scale.kind)
        parts = [interim(op, (operand, scale.operand), name=node.name) for operand in before.operands]
        total = _remade(node, Add(), tuple(part.outputs[0] for part in parts))
        return Rewrite((node, before), (*parts, total))


@dataclass(frozen=True)
class FactorScale:
    """a · c + b · c = (a + b) · c

    Likewise for division. c is the same constant number everywhere; nothing is fused into the scales, nothing but the
    sum reads them, and a and b have the type of the sum, which consists of nothing else.

    Pays: Two scales become one.
    """

    name: str = "factor-scale"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        parts = [producer(graph, operand) for operand in node.anchor_operands]
        scales = [None if part is None else scale_of(part) for part in parts]
        known = [part for part in parts if part is not None]
        found = [scale for scale in scales if scale is not None]
        if len(found) < 2 or len(found) < len(parts):
            return
        reason = next(filter(None, (_refusal(graph, part, node) for part in known)), None)
        if len({(scale.kind, scale.operand) for scale in found}) > 1 or not found[0].is_number:
            reason = "the scales are not one number, the same everywhere"
        elif any(operand.type != node.outputs[0].type for operand in node.anchor_operands):
            reason = "an operand of the sum is broadcast"
        yield Match((node, *known)) if reason is None else Mismatch((node, *known), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, *parts = match.nodes
        scales = [scale for scale in map(scale_of, parts) if scale is not None]
        total = interim(Add(), tuple(scale.data for scale in scales), name=node.name)
        scaled = _remade(node, Binary(scales[0].kind), (*total.outputs, scales[0].operand))
        return Rewrite(match.nodes, (total, scaled))


@dataclass(frozen=True)
class FlattenSums:
    """(a + b) + c = a + b + c

    Nothing is fused into the inner sum, nothing else reads it, and it is not broadcast. Sums are taken from left to
    right, so an inner sum that comes first keeps its roundings.

    Pays: One pass over memory for a sum of several terms.
    """

    name: str = "flatten-sums"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for operand in dict.fromkeys(node.anchor_operands):
            inner = producer(graph, operand)
            if inner is None or not isinstance(inner.op, Add) or len(node.anchor_operands) < 2:
                continue
            reason = _refusal(graph, inner, node)
            yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, inner = match.nodes
        operands: list[Operand] = []
        for operand in node.anchor_operands:
            operands.extend(inner.operands if operand == inner.outputs[0] else (operand,))
        return Rewrite(match.nodes, (_remade(node, Add(), tuple(operands)),))


def _remade(node: Node, op: Operator, operands: tuple[Operand, ...]) -> Node:
    """A node of another operator and operands that keeps epilogue, result and name."""
    return Node.make(op, (*operands, *node.epilogue_operands), node.epilogue, outputs=node.outputs, name=node.name)


def _kept(node: Node) -> Value | None:
    """What a node that scales by one or takes off zero leaves as it is."""
    scale = scale_of(node)
    if scale is not None:
        return scale.data if is_filled_with(scale.operand, 1.0) else None
    data, constant = node.anchor_operands
    zero = node.op == Binary("sub") and isinstance(constant, Weight) and is_filled_with(constant, 0.0)
    return data if zero and isinstance(data, Value) and data.type == node.outputs[0].type else None


def _refusal(graph: Graph, before: Node, node: Node) -> str | None:
    if before.epilogue:
        return f"something is fused into {label(before)}"
    if not is_private(graph, before, node):
        return f"{label(before)} has other readers"
    return None if node.outputs[0].type.dtype.startswith("float") else "integers overflow"


def _droppable(graph: Graph, node: Node, data: Value) -> Iterator[Match | Mismatch]:
    both = node.outputs[0] in graph.outputs and (data in graph.inputs or data in graph.outputs)
    reason = f"something is fused into {label(node)}" if node.epilogue else None
    if reason is None and both:
        reason = "the graph would return one of its inputs, or one tensor twice"
    yield Match((node,)) if reason is None else Mismatch((node,), reason)


def _squeezed(constant: Weight, node: Node) -> tuple[int, ...]:
    shape = constant.type.shape
    return (1,) * (len(node.outputs[0].type.shape) - len(shape)) + shape


def _alike(first: Weight, second: Weight) -> tuple[Weight, Weight]:
    """Two constants of one rank, so that they broadcast in whichever order."""
    rank = max(len(first.type.shape), len(second.type.shape))
    shapes = [(1,) * (rank - len(one.type.shape)) + one.type.shape for one in (first, second)]
    return reshaped(first, shapes[0]), reshaped(second, shapes[1])
