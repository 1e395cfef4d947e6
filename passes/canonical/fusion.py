"""Fusion of elementwise steps into the epilogue of the node before them."""

from __future__ import annotations

import numpy as np

from joulec.passes.canonical.site import Site
from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Conv2d,
    Literal,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Rewrite,
    Softmax,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.node import Operand

_ANCHORS = (
    Conv2d,
    MatMul,
    MaxPool2d,
    AvgPool2d,
    Activation,
    Add,
    Binary,
    ChannelAffine,
    LocalResponseNorm,
    Softmax,
)
"""What an epilogue may follow: operators that compute and have one result."""


def fuse_activation(site: Site, node: Node) -> Rewrite | None:
    """f(anchor(x)) = anchor(x) with the step f."""
    if not isinstance(node.op, Activation):
        return None
    return _fused(site, node, node.operands[0], Step("activation", node.op.kind, node.op.params), ())


def fuse_bias(site: Site, node: Node) -> Rewrite | None:
    """anchor(x) + c for a constant c per channel = anchor(x) with the step bias, merged with a bias right before it."""
    data, bias = shift_of(node)
    if data is None or bias is None:
        return None
    anchor = site.private_producer(data, node)
    if anchor is None or not isinstance(anchor.op, _ANCHORS):
        return None
    last = anchor.operands[-1]
    if anchor.epilogue[-1:] != (Step("bias"),) or not isinstance(last, Literal):
        return _fused(site, node, data, Step("bias"), (bias,))
    total = literal(np.add(last.value(), bias.value()))
    merged = Node(anchor.op, (*anchor.operands[:-1], total), anchor.epilogue, node.outputs, anchor.name)
    extended = site.extended(merged, node.epilogue, node.epilogue_operands, node)
    return None if extended is None else Rewrite((anchor, node), (extended,))


def fuse_residual(site: Site, node: Node) -> Rewrite | None:
    """anchor(x) + y for y of the same shape = anchor(x) with the step add.

    Nothing but the sum reads anchor(x), so y cannot depend on it and no cycle arises. Of two anchors that could take
    the sum, the later one does: y is at hand by then.
    """
    if not isinstance(node.op, Add) or len(node.anchor_operands) != 2:
        return None
    result = node.outputs[0].type
    values = [operand for operand in node.anchor_operands if isinstance(operand, Value) and operand.type == result]
    if len(values) != 2:
        return None
    anchors = [
        (site.place.get(producer, -1), index) for index, producer in enumerate(map(site.producer, values)) if producer
    ]
    for _, index in sorted(anchors, reverse=True):
        rewrite = _fused(site, node, values[index], Step("add"), (values[1 - index],))
        if rewrite is not None:
            return rewrite
    return None


def _fused(site: Site, node: Node, data: Operand, step: Step, operands: tuple[Operand, ...]) -> Rewrite | None:
    """The producer of ``data`` with the node's step and epilogue, where it is the node's alone and all steps fuse."""
    anchor = site.private_producer(data, node)
    if anchor is None or not isinstance(anchor.op, _ANCHORS):
        return None
    extended = site.extended(anchor, (step, *node.epilogue), (*operands, *node.epilogue_operands), node)
    return None if extended is None else Rewrite((anchor, node), (extended,))


def shift_of(node: Node) -> tuple[Value | None, Literal | None]:
    """The data and the vector of a node that adds a constant per channel."""
    result = node.outputs[0].type
    if isinstance(node.op, ChannelAffine):
        data, scale, shift = node.anchor_operands
        if isinstance(data, Value) and isinstance(scale, Literal) and isinstance(shift, Literal):
            pure = len(result.shape) in (2, 4) and bool((scale.value() == 1).all())
            return (data, shift) if pure else (None, None)
    if isinstance(node.op, Add) and len(node.anchor_operands) == 2:
        for data, constant in (node.anchor_operands, node.anchor_operands[::-1]):
            if isinstance(data, Value) and isinstance(constant, Literal) and data.type == result:
                return data, _vector(constant, result)
    return None, None


def _vector(constant: Literal, result: TensorType) -> Literal | None:
    """A constant that varies along the result's channels alone, as a vector (see `Step`)."""
    rank = len(result.shape)
    axis = 1 if rank == 4 else rank - 1
    shape = (1,) * (rank - len(constant.type.shape)) + constant.type.shape
    if axis < 0 or any(size != 1 for other, size in enumerate(shape) if other != axis):
        return None
    return literal(np.broadcast_to(constant.value().reshape(-1), (result.shape[axis],)).copy())
