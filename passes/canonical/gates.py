"""Activations that exporters write out as a product of a value with a gate of itself."""

from __future__ import annotations

import numpy as np

from joulec.passes.canonical.fusion import shift_of
from joulec.passes.canonical.site import Site
from joulec.passes.graph import Activation, Binary, Literal, Node, Rewrite, Step, Value
from joulec.passes.graph.node import Operand

_SIXTH = (0.166666, 0.166668)


def silu(site: Site, node: Node) -> Rewrite | None:
    """x · sigmoid(x) = silu(x)."""
    for data, gate in _products(node):
        sigmoid = site.private_producer(gate, node)
        if sigmoid is None or sigmoid.op != Activation("sigmoid") or sigmoid.epilogue:
            continue
        if sigmoid.operands[0] == data:
            return _replaced("silu", data, node, sigmoid)
    return None


def hard_swish(site: Site, node: Node) -> Rewrite | None:
    """x · clip(x + 3, 0, 6) / 6 = x · clip(x / 6 + 1/2, 0, 1) = hard_swish(x)."""
    inner = _sixth(site, node)
    if inner is not None and not inner.epilogue:
        for data, gate in _products(inner):
            parts = _ramp(site, gate, data, inner)
            if parts is not None:
                return _replaced("hard_swish", data, node, inner, *parts)
    for data, gate in _products(node):
        made = site.private_producer(gate, node)
        if made is None or made.epilogue:
            continue
        if isinstance(made.op, Activation) and made.op.kind == "hard_sigmoid" and made.operands[0] == data:
            slope, offset = made.op.params
            if _SIXTH[0] <= slope <= _SIXTH[1] and offset == 0.5:
                return _replaced("hard_swish", data, node, made)
        ramp = _divided(made)
        parts = None if ramp is None else _ramp(site, ramp, data, made)
        if parts is not None:
            return _replaced("hard_swish", data, node, made, *parts)
    return None


def _products(node: Node) -> list[tuple[Value, Value]]:
    """The factors of a product of two values of one type, either way round."""
    if node.op != Binary("mul"):
        return []
    one, other = node.anchor_operands
    if not isinstance(one, Value) or not isinstance(other, Value) or one.type != other.type:
        return []
    return [(one, other), (other, one)]


def _divided(node: Node) -> Operand | None:
    """What the node divides by six."""
    if node.op != Binary("div"):
        return None
    data, divisor = node.anchor_operands
    return data if isinstance(divisor, Literal) and bool((divisor.value() == 6).all()) else None


def _sixth(site: Site, node: Node) -> Node | None:
    """The node whose result the given one divides by six."""
    data = _divided(node)
    return None if data is None else site.private_producer(data, node)


def _ramp(site: Site, gate: Operand, data: Value, reader: Node) -> tuple[Node, ...] | None:
    """The nodes of clip(data + 3, 0, 6), of which nobody else reads a part; None where the gate is something else."""
    last = site.private_producer(gate, reader)
    if last is None:
        return None
    if last.op == Activation("clip", (0.0, 6.0)) and not last.epilogue:
        first = site.private_producer(last.operands[0], last)
        if first is None or first.epilogue:
            return None
        return (last, first) if _adds_three(first, data) else None
    fused = last.epilogue == (Step("activation", "clip", (0.0, 6.0)),)
    return (last,) if fused and _adds_three(last, data) else None


def _adds_three(node: Node, data: Value) -> bool:
    source, shift = shift_of(node)
    return source == data and shift is not None and bool(np.all(shift.value() == 3))


def _replaced(kind: str, data: Value, last: Node, *parts: Node) -> Rewrite:
    """The activation in place of the last node and all that only it reads."""
    fresh = Node.make(
        Activation(kind), (data, *last.epilogue_operands), last.epilogue, outputs=last.outputs, name=last.name
    )
    return Rewrite((*parts, last), (fresh,))
