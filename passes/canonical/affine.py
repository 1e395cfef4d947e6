"""Simplifications of scales and shifts per channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from joulec.passes.canonical.site import Site
from joulec.passes.graph import ChannelAffine, Conv2d, MatMul, Node, Rewrite, Step, Weight, literal

_Array = npt.NDArray[np.float64]
_BIAS = Step("bias")


def affine_of_affine(site: Site, node: Node) -> Rewrite | None:
    """(x · s + t) · u + v = x · (s·u) + (t·u + v), when nothing else reads the inner one."""
    outer = _constants(node)
    inner = site.private_producer(node.operands[0], node) if outer is not None else None
    if outer is None or inner is None or inner.epilogue:
        return None
    first = _constants(inner)
    if first is None:
        return None
    dtype = node.outputs[0].type.dtype
    scale, shift = literal((first[0] * outer[0]).astype(dtype)), literal((first[1] * outer[0] + outer[1]).astype(dtype))
    operands = (inner.operands[0], scale, shift, *node.epilogue_operands)
    return Rewrite((inner, node), (Node.make(node.op, operands, node.epilogue, outputs=node.outputs, name=inner.name),))


def affine_of_product(site: Site, node: Node) -> Rewrite | None:
    """(x * w + b) · s + t = x * (w·s) + (b·s + t) for convolution and matrix product, when nothing else reads them."""
    constants = _constants(node)
    product = site.private_producer(node.operands[0], node) if constants is not None else None
    if constants is None or product is None or not isinstance(product.op, Conv2d | MatMul):
        return None
    if product.epilogue not in ((), (_BIAS,)):
        return None
    data, *rest = product.operands
    if not all(isinstance(operand, Weight) for operand in rest) or node.outputs[0].type.dtype != "float32":
        return None
    weight, *bias = [operand.value().astype(np.float64) for operand in rest if isinstance(operand, Weight)]
    scale, shift = constants
    scaled = _scaled(product, weight, scale)
    if scaled is None:
        return None
    shift = shift + (bias[0] * scale if bias else 0.0)
    kernel = literal(scaled.astype(np.float32))
    steps = (_BIAS,) if bias or shift.any() else ()
    added = (literal(shift.astype(np.float32)),) if steps else ()
    folded = Node(product.op, (data, kernel, *added), steps, node.outputs, product.name)
    extended = site.extended(folded, node.epilogue, node.epilogue_operands, node)
    return None if extended is None else Rewrite((product, node), (extended,))


def _scaled(product: Node, weight: _Array, scale: _Array) -> _Array | None:
    """The weight with each output channel scaled, None where channels are not the matrix product's columns."""
    if isinstance(product.op, Conv2d):
        return weight * scale.reshape(-1, 1, 1, 1)
    if isinstance(product.op, MatMul) and len(product.outputs[0].type.shape) == 2:
        return weight * (scale[:, None] if product.op.transpose_b else scale)
    return None


def _constants(node: Node) -> tuple[_Array, _Array] | None:
    """Scale and shift of a ChannelAffine where they are constants."""
    if not isinstance(node.op, ChannelAffine):
        return None
    scale, shift = node.operands[1:3]
    if not isinstance(scale, Weight) or not isinstance(shift, Weight):
        return None
    return scale.value().astype(np.float64), shift.value().astype(np.float64)
