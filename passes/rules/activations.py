"""Functions recognised in their parts, and softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import Activation, Add, Binary, Graph, Node, Operator, Rewrite, Softmax, Step, Value, Weight
from joulec.passes.graph.node import Operand
from joulec.passes.graph.weights import Literal
from joulec.passes.rules.linear import Constant, interim, is_private, producer, scale_of, shift_of
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch

_ERF = Step("activation", "erf")


@dataclass(frozen=True)
class GeluOfErf:
    """x · (1 + erf(x / sqrt 2)) · 0.5 = gelu(x)

    In any order of the factors; the half may scale x, the sum, or the product of both. Its constants agree with 1, the
    half and the root of two to six digits. Nothing else is fused into the parts, and nothing else reads them, except x.

    Pays: Transformers exported operator by operator: five passes over memory become one, fused where a kernel can.
    """

    name: str = "gelu-of-erf"
    anchor: type[Operator] = Binary

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        found = _gelu(graph, node)
        if found is None:
            return
        last, *parts = found.parts
        within = set(found.parts)
        for part in parts:
            (value,) = part.outputs
            if value in graph.outputs or not within.issuperset(graph.consumers[value]):
                yield Mismatch((node, part), f"{label(part)} has other readers")
                return
        yield Match((node, *(part for part in (last, *parts) if part != node)))

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        found = _gelu(graph, match.nodes[0])
        assert found is not None
        last = found.parts[0]
        operands = (found.data, *last.epilogue_operands)
        fresh = Node.make(Activation("gelu"), operands, last.epilogue, outputs=last.outputs, name=last.name)
        return Rewrite(found.parts, (fresh,))


@dataclass(frozen=True)
class SoftmaxOfShift:
    """softmax(x + c) = softmax(x)

    c has length one along the softmax's axis, constant or not: a sum of two, or a bias, the last step fused into what
    computes x. Nothing else reads the sum.

    Pays: Constant or per-row shifts of attention's scores: they cancel.
    """

    name: str = "softmax-of-shift"
    anchor: type[Operator] = Softmax

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        if before is None or len(before.outputs) != 1:
            return
        if not isinstance(before.op, Add) and before.epilogue[-1:] != (Step("bias"),):
            return
        reason = None if is_private(graph, before, node) else f"{label(before)} has other readers"
        if _unshifted(node, before) is None:
            reason = "what is added varies along the axis of the softmax"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        data = _unshifted(node, before)
        assert data is not None
        added = () if isinstance(data, Value) else (data,)
        value = data if isinstance(data, Value) else data.outputs[0]
        operands = (value, *node.epilogue_operands)
        fresh = Node.make(node.op, operands, node.epilogue, outputs=node.outputs, name=node.name)
        return Rewrite(match.nodes, (*added, fresh))


def _unshifted(node: Node, before: Node) -> Value | Node | None:
    """The softmax's data without what is constant along its axis: a value, or the node that computes it."""
    assert isinstance(node.op, Softmax)
    result = before.outputs[0].type
    rank, axis = len(result.shape), node.op.axis
    if before.epilogue[-1:] == (Step("bias"),):
        if result.shape[axis] != 1 and axis == (1 if rank == 4 else rank - 1):
            return None
        return interim(before.op, before.operands[:-1], before.epilogue[:-1], name=before.name)
    if before.epilogue or len(before.operands) != 2:
        return None
    for data, shift in (before.operands, before.operands[::-1]):
        shape = (1,) * (rank - len(shift.type.shape)) + shift.type.shape
        if isinstance(data, Value) and data.type == result and shape[axis] == 1:
            return data
    return None


@dataclass(frozen=True, slots=True)
class _Gelu:
    """gelu(data) in its parts, of which the first is the last to be computed."""

    data: Value
    parts: tuple[Node, ...]


def _gelu(graph: Graph, node: Node) -> _Gelu | None:
    """The gelu of which the node is the product of x, or x / 2, with a value."""
    if node.op != Binary("mul") or len(node.anchor_operands) != len(node.inputs) - len(node.epilogue_operands):
        return None
    reader = graph.sole_consumer(node.outputs[0])
    after = None if reader is None else scale_of(reader)
    halved = reader is not None and after is not None and not node.epilogue and _is_scale(after, 0.5)
    for data, gate in (node.anchor_operands, node.anchor_operands[::-1]):
        for half in (None,) if halved else (data, gate):
            parts = [reader, node] if halved and reader is not None else [node]
            sources = [_half(graph, one, parts) if one is half else one for one in (data, gate)]
            found = _gated(graph, sources[1], parts)
            if found is not None and found == sources[0]:
                return _Gelu(found, tuple(parts))
    return None


def _half(graph: Graph, operand: Operand, parts: list[Node]) -> Operand | None:
    """y, where the operand is y / 2."""
    node = producer(graph, operand)
    scale = None if node is None or node.epilogue else scale_of(node)
    if node is None or scale is None or not _is_scale(scale, 0.5):
        return None
    parts.append(node)
    return scale.data


def _gated(graph: Graph, operand: Operand | None, parts: list[Node]) -> Value | None:
    """y, where the operand is 1 + erf(y / sqrt 2)."""
    total = None if operand is None else producer(graph, operand)
    shift = None if total is None or total.epilogue else shift_of(total)
    if total is None or shift is None or not _is_number(shift.operand, 1.0):
        return None
    error = producer(graph, shift.data)
    if error is None:
        return None
    parts.extend((total, error))
    if error.op == Activation("erf") and not error.epilogue:
        error = producer(graph, error.operands[0])
        if error is None or error.epilogue:
            return None
        parts.append(error)
    elif error.epilogue != (_ERF,):
        return None
    scale = scale_of(error)
    return scale.data if scale is not None and _is_scale(scale, math.sqrt(0.5)) else None


def _is_scale(scale: Constant, factor: float) -> bool:
    return _is_number(scale.operand, factor if scale.kind == "mul" else 1 / factor)


def _is_number(weight: Weight, number: float) -> bool:
    one = isinstance(weight, Literal) and weight.type.size == 1
    return (
        one and isinstance(weight, Literal) and math.isclose(float(weight.array.reshape(-1)[0]), number, rel_tol=1e-6)
    )
