"""Parallel convolutions merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import Conv2d, Graph, Node, Operator, Rewrite, padded
from joulec.passes.rules.merging import Branch, Branches, branches, merge, refusal, siblings
from joulec.passes.rules.rule import Match, Mismatch

_Frame = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MergeConvolutions:
    """conv(x, W1), conv(x, W2) = split(conv(x, concat(W1, W2)))

    Both have one group, the same strides, padding on each side, dilation, kernel size, dtype and epilogue; weights
    and biases are constant, and neither adds another tensor. Concats that read the results one after another vanish.

    Pays: One launch and one read of x for several narrow branches: Inception's and SqueezeNet's parallel 1x1
    convolutions.
    """

    name: str = "merge-convolutions"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for other in siblings(graph, node):
            reason = _difference(node, other) or refusal(node, other)
            yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return merge(graph, match.nodes[0].op, tuple(branches(graph, node) for node in match.nodes))


@dataclass(frozen=True)
class MergeEnlargedConvolutions:
    """conv(x, W1), conv(x, W2) = split(conv(x, concat(pad(W1), pad(W2)))), padding wider by dilation times the frame

    The kernels differ in size or place. Each gets a frame of zeros that makes them one size and starts their windows
    at the same element: padding before x grows by dilation times the frame's width, so no result moves whatever the
    strides. Both have one group, the same strides, dtype and epilogue; the dilation is the same or that of a kernel of
    length one, which has none; the paddings before x differ by a multiple of it; results are of one size. Weights and
    biases are constant, and neither adds another tensor.

    Pays: As merge-convolutions where kernels differ (1x1 beside 3x3), on devices where the zeros' arithmetic costs
    less than a second launch: small planes, fast 3x3 algorithms.
    """

    name: str = "merge-enlarged-convolutions"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for other in siblings(graph, node):
            if _difference(node, other) is None:
                continue
            common = common_frame(node, other)
            reason = common if isinstance(common, str) else refusal(node, other)
            yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        common = common_frame(*match.nodes)
        if isinstance(common, str):
            raise ValueError(f"{self.name} does not apply: {common}")
        op, frames = common
        taken = tuple(_enlarged(branches(graph, node), frame) for node, frame in zip(match.nodes, frames, strict=True))
        return merge(graph, op, taken)


def _attributes(node: Node) -> Conv2d:
    if not isinstance(node.op, Conv2d):
        raise TypeError(f"{node} is no convolution")
    return node.op


def _difference(first: Node, second: Node) -> str | None:
    """In what the attributes of two convolutions differ, or why they cannot be merged with any; None if they agree."""
    left, right = _attributes(first), _attributes(second)
    if left.groups != 1 or right.groups != 1:
        return f"grouped convolutions ({left.groups} and {right.groups} groups)"
    kernels = first.operands[1].type.shape[2:], second.operands[1].type.shape[2:]
    if kernels[0] != kernels[1]:
        return f"kernels differ: {kernels[0]} and {kernels[1]}"
    if left == right:
        return None
    attributes = zip(left.attributes.items(), right.attributes.values(), strict=True)
    return "; ".join(f"{name} differs: {one} and {two}" for (name, one), two in attributes if one != two)


def common_frame(first: Node, second: Node) -> tuple[Conv2d, tuple[_Frame, _Frame]] | str:
    """The operator that computes two convolutions of one tensor, and each kernel's frame of zeros; or why none does."""
    left, right = _attributes(first), _attributes(second)
    if left.groups != 1 or right.groups != 1:
        return f"grouped convolutions ({left.groups} and {right.groups} groups)"
    if left.strides != right.strides:
        return f"strides differ: {left.strides} and {right.strides}"
    sizes = first.outputs[0].type.shape[2:], second.outputs[0].type.shape[2:]
    if sizes[0] != sizes[1]:
        return f"results differ in size: {sizes[0]} and {sizes[1]}"
    before, after, dilation = [0, 0], [0, 0], [1, 1]
    frames: tuple[list[tuple[int, int]], ...] = ([(0, 0), (0, 0)], [(0, 0), (0, 0)])
    for axis, name in enumerate(("vertical", "horizontal")):
        lengths = [node.operands[1].type.shape[2 + axis] for node in (first, second)]
        pads = [(op.padding[axis], op.padding[2 + axis]) for op in (left, right)]
        steps = [op.dilation[axis] for op in (left, right)]
        step = steps[0] if lengths[0] > 1 else steps[1]
        if steps[0] != steps[1] and lengths.count(1) != 1:
            return f"{name} dilations differ: {steps[0]} and {steps[1]}"
        lead = max(pad[0] for pad in pads)
        if any((lead - pad[0]) % step for pad in pads):
            return f"{name} paddings {pads[0][0]} and {pads[1][0]} do not differ by a multiple of the dilation {step}"
        leads = [(lead - pad[0]) // step for pad in pads]
        length = max(sum(pair) for pair in zip(lengths, leads, strict=True))
        for frame, own, own_lead in zip(frames, lengths, leads, strict=True):
            frame.append((own_lead, length - own - own_lead))
        # Results are of one size, so any padding after x between the two that the frames ask for gives that size.
        after[axis] = min(pad[1] + step * frame[-1][1] for pad, frame in zip(pads, frames, strict=True))
        before[axis], dilation[axis] = lead, step
    padding = (before[0], before[1], after[0], after[1])
    op = replace(left, padding=padding, dilation=(dilation[0], dilation[1]))
    return op, (tuple(frames[0]), tuple(frames[1]))


def _enlarged(taken: Branches, frame: _Frame) -> Branches:
    parts = tuple(Branch(part.output, (padded(part.weights[0], frame), *part.weights[1:])) for part in taken.parts)
    return replace(taken, parts=parts)
