"""Explicit padding taken in by what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import AvgPool2d, Conv2d, Graph, MaxPool2d, Node, Operator, Pad, Rewrite
from joulec.passes.rules.merging import label
from joulec.passes.rules.pools import pooling
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import convolution, producer

_Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class ConvolutionOfPad:
    """conv(pad(x, 0), W) = conv(x, W), with its padding wider by the pads

    The pads are zeros along height and width; nothing is fused into the padding. Any strides, dilation and groups.

    Pays: Exporters that write padding as its own node (TensorFlow's): a copy of the tensor vanishes.
    """

    name: str = "convolution-of-pad"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        yield from _matches(graph, node, 0.0)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, pad = match.nodes
        return _absorbed(node, pad, replace(convolution(node), padding=_wider(node, pad)))


@dataclass(frozen=True)
class MaxPoolOfPad:
    """max_pool(pad(x, -inf)) = max_pool(x), with its padding wider by the pads

    The pads are minus infinity along height and width; nothing is fused into the padding. The pooling does not round
    its size up (whether a last window counts would then depend on where padding begins).

    Pays: As convolution-of-pad.
    """

    name: str = "max-pool-of-pad"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        rounds = "the pooling rounds its size up" if pooling(node).ceil_mode else None
        yield from _matches(graph, node, float("-inf"), rounds)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, pad = match.nodes
        return _absorbed(node, pad, replace(pooling(node), padding=_wider(node, pad)))


@dataclass(frozen=True)
class AvgPoolOfPad:
    """avg_pool(pad(x, 0)) = avg_pool(x), with its padding wider by the pads and counted in the divisor

    The pads are zeros along height and width; nothing is fused into the padding. The pooling counts its own padding in
    the divisor or has none, and does not round its size up.

    Pays: As convolution-of-pad.
    """

    name: str = "avg-pool-of-pad"
    anchor: type[Operator] = AvgPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        op = pooling(node)
        reason = "the pooling rounds its size up" if op.ceil_mode else None
        if isinstance(op, AvgPool2d) and any(op.padding) and not op.count_include_pad:
            reason = "the pooling's own padding does not count in the divisor, the pads do"
        yield from _matches(graph, node, 0.0, reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, pad = match.nodes
        op = pooling(node)
        assert isinstance(op, AvgPool2d)
        return _absorbed(node, pad, replace(op, padding=_wider(node, pad), count_include_pad=True))


def _matches(graph: Graph, node: Node, value: float, reason: str | None = None) -> Iterator[Match | Mismatch]:
    pad = producer(graph, node.operands[0])
    if pad is None or not isinstance(pad.op, Pad):
        return
    if pad.op.value != value:
        reason = f"{label(pad)} pads with {pad.op.value}, not with {value}"
    elif pad.op.pads[:2] != ((0, 0), (0, 0)):
        reason = f"{label(pad)} pads other axes than height and width"
    elif pad.epilogue:
        reason = f"something is fused into {label(pad)}"
    yield Match((node, pad)) if reason is None else Mismatch((node, pad), reason)


def _wider(node: Node, pad: Node) -> _Padding:
    assert isinstance(pad.op, Pad)
    assert isinstance(node.op, Conv2d | MaxPool2d | AvgPool2d)
    (top, bottom), (left, right) = pad.op.pads[2:]
    own = node.op.padding
    return own[0] + top, own[1] + left, own[2] + bottom, own[3] + right


def _absorbed(node: Node, pad: Node, op: Operator) -> Rewrite:
    operands = (pad.operands[0], *node.operands[1:])
    return Rewrite((node,), (Node.make(op, operands, node.epilogue, outputs=node.outputs, name=node.name),))
