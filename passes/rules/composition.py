"""Linear steps in a row as one convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import (
    ChannelAffine,
    Conv2d,
    Graph,
    Literal,
    Node,
    Operator,
    Rewrite,
    Weight,
    composed,
    projected,
    scaled,
    summed,
)
from joulec.passes.graph.node import Operand
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import BIAS, affine, bias_of, combined, convolution, producer, shared


@dataclass(frozen=True)
class PointwiseOfConvolution:
    """conv(conv(x, W1), W2) = conv(x, W2 * W1) where W2 is 1x1; strides multiply

    The outer convolution has a constant 1x1 kernel, one group and no padding; the inner one has one group, a constant
    kernel, nothing but a constant bias behind it, and no other reader. The inner bias goes through W2; what follows the
    outer one stays.

    Pays: A linear bottleneck or projection behind a convolution, where the product of both has less arithmetic
    than the two.
    """

    name: str = "pointwise-of-convolution"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = _inner(graph, node, Conv2d)
        if inner is None or node.operands[1].type.shape[2:] != (1, 1):
            return
        reason = _refusal(node, inner) or shared(graph, inner, node)
        if any(convolution(node).padding):
            reason = f"{label(node)} pads what {label(inner)} computes"
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, inner = match.nodes
        (down, across), (first, second) = convolution(node).strides, convolution(inner).strides
        return _composed(node, inner, replace(convolution(inner), strides=(down * first, across * second)))


@dataclass(frozen=True)
class ConvolutionOfPointwise:
    """conv(conv(x, W1), W2) = conv(x, W2 * W1) where W1 is 1x1

    The inner convolution has a constant 1x1 kernel, one group, stride 1 and no padding, nothing but a constant bias
    behind it, and no other reader; the outer one has one group, a constant kernel that is larger than 1x1, and, where
    the inner one has a bias, no padding (which would be zero, not the bias). What follows the outer one stays.

    Pays: A linear 1x1 in front of a convolution that widens little: one convolution in place of two.
    """

    name: str = "convolution-of-pointwise"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = _inner(graph, node, Conv2d)
        if inner is None or inner.operands[1].type.shape[2:] != (1, 1) or node.operands[1].type.shape[2:] == (1, 1):
            return
        reason = _refusal(node, inner) or shared(graph, inner, node)
        if convolution(inner).strides != (1, 1) or any(convolution(inner).padding):
            reason = f"{label(inner)} has strides or padding"
        elif any(convolution(node).padding) and inner.epilogue:
            reason = f"{label(node)} pads with zeros what has a bias"
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, inner = match.nodes
        return _composed(node, inner, convolution(node))


@dataclass(frozen=True)
class FoldAffine:
    """conv(x * s + t, W) = conv(x, W * s) + W * t

    Scale s and shift t per channel are constants, nothing is fused into the scaling, and the convolution, whose kernel
    is constant and which may have groups, is its only reader and does not pad (padding would be zero, not t) unless t
    is known to be zero.

    Pays: Batch normalisation or scaling in front of a convolution (pre-activation networks).
    """

    name: str = "fold-affine"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        inner = _inner(graph, node, ChannelAffine)
        if inner is None:
            return
        reason = _kernel_and_bias(node) or shared(graph, inner, node)
        if inner.epilogue or not all(isinstance(operand, Weight) for operand in inner.operands[1:]):
            reason = f"{label(inner)} is not by constants alone, or something is fused into it"
        elif any(convolution(node).padding) and not _is_zero(inner.operands[2]):
            reason = f"{label(node)} pads with zeros what is shifted"
        yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, inner = match.nodes
        groups = convolution(node).groups
        kernel, scale, shift = combined(node.operands[1], *inner.operands[1:])
        operands = (inner.operands[0], scaled(kernel, scale, groups))
        added = () if _is_zero(shift) else (projected(kernel, shift, groups),)
        return _replaced(node, convolution(node), operands, added)


def _inner(graph: Graph, node: Node, kind: type[Operator]) -> Node | None:
    inner = producer(graph, node.operands[0])
    return inner if inner is not None and isinstance(inner.op, kind) else None


def _is_zero(shift: object) -> bool:
    return isinstance(shift, Literal) and not shift.array.any()


def _kernel_and_bias(node: Node) -> str | None:
    if not isinstance(node.operands[1], Weight):
        return f"{label(node)} has weights that are computed at run time"
    if node.epilogue[:1] == (BIAS,) and bias_of(node) is None:
        return f"{label(node)} has a bias that is computed at run time"
    return None


def _refusal(outer: Node, inner: Node) -> str | None:
    if convolution(outer).groups != 1 or convolution(inner).groups != 1:
        return "one of the convolutions has groups"
    return affine(inner) or _kernel_and_bias(outer)


def _composed(outer: Node, inner: Node, op: Conv2d) -> Rewrite:
    kernel, other = combined(outer.operands[1], inner.operands[1])
    bias = bias_of(inner)
    added = () if bias is None else (projected(kernel, bias),)
    return _replaced(outer, op, (inner.operands[0], composed(kernel, other)), added)


def _replaced(node: Node, op: Conv2d, operands: tuple[Operand, Weight], added: tuple[Weight, ...]) -> Rewrite:
    """The node with another operator, data and kernel, and biases added to its own."""
    own = bias_of(node)
    biases = added if own is None else (*added, own)
    rest, steps = node.epilogue_operands, node.epilogue
    if own is not None:
        rest, steps = rest[1:], steps[1:]
    bias, step = ((summed(biases),), (BIAS,)) if biases else ((), ())
    data, kernel = operands
    return Rewrite(
        (node,),
        (Node.make(op, (data, kernel, *bias, *rest), (*step, *steps), outputs=node.outputs, name=node.name),),
    )
