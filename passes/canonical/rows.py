"""Simplifications of convolutions over rows: planes of height one between two changes of rank."""

from __future__ import annotations

from joulec.passes.canonical.site import Site
from joulec.passes.graph import Activation, Add, ChannelAffine, Conv2d, Node, Operator, Reshape, Rewrite, Step, Value
from joulec.passes.graph.node import Operand


def step_before_rank(site: Site, node: Node) -> Rewrite | None:
    """f(squeeze(conv(x))) = squeeze(f(conv(x))) for an activation, a scale and shift per channel, or a sum of two.

    There f meets what can fuse it. Nothing else reads the convolution or its squeezed result.
    """
    if not isinstance(node.op, Activation | Add | ChannelAffine) or any(step.operands for step in node.epilogue):
        return None
    places = range(len(node.anchor_operands)) if isinstance(node.op, Add) else (0,)
    return next((found for found in (_moved(site, node, place) for place in places) if found is not None), None)


def _moved(site: Site, node: Node, place: int) -> Rewrite | None:
    """The node in front of the change of rank that gives its operand at a place."""
    operands: list[Operand] = list(node.anchor_operands)
    view = site.private_producer(operands[place], node)
    if view is None or not _squeezes(view) or view.outputs[0].type != node.outputs[0].type:
        return None
    planes = view.operands[0]
    convolution = site.private_producer(planes, view)
    if convolution is None or not isinstance(convolution.op, Conv2d):
        return None
    operands[place] = planes
    others: list[Node] = []
    if isinstance(node.op, Add):
        other = operands[1 - place]
        if len(operands) != 2 or not isinstance(other, Value) or other.type != node.outputs[0].type:
            return None
        others = [_unnamed(Reshape(planes.type.shape), (other,), (), view.name)]
        operands[1 - place] = others[0].outputs[0]
    inner = _unnamed(node.op, tuple(operands), node.epilogue, node.name)
    outer = Node.make(view.op, inner.outputs, outputs=node.outputs, name=view.name)
    return Rewrite((view, node), (*others, inner, outer))


def _unnamed(op: Operator, operands: tuple[Operand, ...], epilogue: tuple[Step, ...], name: str) -> Node:
    """A node whose results are known to the rewrite alone, and so have no names."""
    return Node(op, operands, epilogue, Node.make(op, operands, epilogue).outputs, name)


def _squeezes(view: Node) -> bool:
    """Whether it drops the height of one of [N,C,1,W] and does nothing else."""
    if not isinstance(view.op, Reshape) or view.epilogue:
        return False
    before, after = view.operands[0].type.shape, view.outputs[0].type.shape
    return len(before) == 4 and before[2] == 1 and after == (*before[:2], before[3])
