"""Sums of convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import (
    Add,
    Concat,
    Conv2d,
    Graph,
    Node,
    Operator,
    Rewrite,
    Step,
    Value,
    Weight,
    concatenated,
    dirac,
    padded,
    sliced,
    summed,
)
from joulec.passes.graph.node import Operand
from joulec.passes.rules.convolutions import common_frame
from joulec.passes.rules.joined import joined
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import BIAS, affine, bias_of, combined, convolution, interim, left_by, producer, shared


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sum of two tensors of one type.

    Attributes:
        node: the node that adds: an `Add`, or a convolution that adds the other term in its epilogue.
        terms: the two tensors; in place of a tensor that the node itself computes stands the convolution that does.
        steps: what the node does with the sum, with its operands.
    """

    node: Node
    terms: tuple[Value | Node, Value | Node]
    steps: tuple[Step, ...]
    operands: tuple[Operand, ...]

    def convolution(self, graph: Graph, index: int) -> Node | None:
        """The convolution that computes a term."""
        term = self.terms[index]
        node = term if isinstance(term, Node) else producer(graph, term)
        return node if node is not None and isinstance(node.op, Conv2d) else None

    def refusal(self, graph: Graph, *convolutions: Node) -> str | None:
        """Why the sum cannot take the place of the convolutions whose results it adds."""
        for node in convolutions:
            reason = affine(node) or (None if node in self.terms else shared(graph, node, self.node))
            if reason is not None:
                return reason
        return None

    def replaced(self, op: Conv2d, data: Value, kernel: Weight, convolutions: tuple[Node, ...]) -> Rewrite:
        """One convolution in place of the sum, with the biases added up."""
        found = [bias for bias in map(bias_of, convolutions) if bias is not None]
        bias, step = ((summed(tuple(found)),), (BIAS,)) if found else ((), ())
        name = "+".join(node.name for node in convolutions if node.name)
        operands = (data, kernel, *bias, *self.operands)
        return Rewrite(
            (self.node,), (Node.make(op, operands, (*step, *self.steps), outputs=self.node.outputs, name=name),)
        )


def _sum(node: Node) -> _Sum | None:
    """The sum that a node computes, if it computes one of two tensors of the result's own type."""
    result = node.outputs[0].type
    if isinstance(node.op, Add):
        terms = node.anchor_operands
        if len(terms) != 2 or not all(isinstance(term, Value) and term.type == result for term in terms):
            return None
        first, second = terms
        assert isinstance(first, Value)
        assert isinstance(second, Value)
        return None if first == second else _Sum(node, (first, second), node.epilogue, node.epilogue_operands)
    kinds = [step.kind for step in node.epilogue]
    if not isinstance(node.op, Conv2d) or "add" not in kinds:
        return None
    at = kinds.index("add")
    if node.epilogue[:at] not in ((), (BIAS,)):
        return None
    rest = node.epilogue_operands
    term = rest[at]
    if not isinstance(term, Value):
        return None
    convolution = Node.make(node.op, (*node.anchor_operands, *rest[:at]), node.epilogue[:at], name=node.name)
    return _Sum(node, (convolution, term), node.epilogue[at + 1 :], rest[at + 1 :])


@dataclass(frozen=True)
class SumOfConvolutions:
    """conv(x, W1) + conv(x, W2) = conv(x, W1 + W2)

    Both have constant weights, nothing but a constant bias behind them, and no reader but the sum. Either attributes
    and kernel shapes are the same, or both have one group and a frame of zeros makes their kernels one size (as in
    merge-enlarged-convolutions). Biases add up; what follows the sum stays. The sum is a node of its own, or a
    convolution's epilogue adds the other's result.

    Pays: Re-parameterised networks (RepVGG's branches): one convolution in place of two and a sum.
    """

    name: str = "sum-of-convolutions"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        total = _sum(node)
        pair = _pair(graph, total)
        if total is None or pair is None or pair[0].operands[0] != pair[1].operands[0]:
            return
        reason = total.refusal(graph, *pair)
        if reason is None and not _alike(*pair):
            common = common_frame(*pair)
            reason = common if isinstance(common, str) else None
        yield Match((node, *pair)) if reason is None else Mismatch((node, *pair), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, first, second = match.nodes
        total = _sum(node)
        data = first.operands[0]
        assert total is not None
        assert isinstance(data, Value)
        kernels = combined(first.operands[1], second.operands[1])
        if _alike(first, second):
            return total.replaced(convolution(first), data, summed(kernels), (first, second))
        common = common_frame(first, second)
        if isinstance(common, str):
            raise ValueError(f"{self.name} does not apply: {common}")
        op, frames = common
        framed = tuple(padded(kernel, frame) for kernel, frame in zip(kernels, frames, strict=True))
        return total.replaced(op, data, summed(framed), (first, second))


@dataclass(frozen=True)
class AbsorbIdentity:
    """conv(x, W) + x = conv(x, W + dirac)

    The convolution has one group, stride 1, a constant kernel, nothing but a constant bias behind it, and no reader but
    the sum; its window has an element exactly over the result's place on both axes (padding before x is a multiple of
    the dilation). The sum is a node of its own, or the convolution's epilogue adds x.

    Pays: Re-parameterised networks and linear residual blocks: the sum and its traffic vanish.
    """

    name: str = "absorb-identity"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        total = _sum(node)
        for index in (0, 1) if total is not None else ():
            conv = total.convolution(graph, index) if total is not None else None
            if total is None or conv is None or conv.operands[0] != total.terms[1 - index]:
                continue
            reason = total.refusal(graph, conv)
            place = _place(conv)
            reason = reason or (place if isinstance(place, str) else None)
            yield Match((node, conv)) if reason is None else Mismatch((node, conv), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, conv = match.nodes
        total, place, data, kernel = _sum(node), _place(conv), conv.operands[0], conv.operands[1]
        assert total is not None
        assert not isinstance(place, str)
        assert isinstance(data, Value)
        assert isinstance(kernel, Weight)
        channels, _, height, width = kernel.type.shape
        identity = dirac(channels, (height, width), place, kernel.type.dtype)
        return total.replaced(convolution(conv), data, summed((kernel, identity)), (conv,))


@dataclass(frozen=True)
class SumAsConvolutionOfConcat:
    """conv(a, W1) + conv(b, W2) = conv(concat(a, b), concat(W1, W2))

    Both have one group, the same attributes, spatial kernel size and dtype, constant weights, nothing but a constant
    bias behind them, and no reader but the sum; a and b are different. Biases add up; what follows the sum stays. The
    sum is a node of its own, or a convolution's epilogue adds the other's result.

    Pays: Sums of small projections of different tensors: one accumulation, where concats are free or cheap.
    """

    name: str = "sum-as-convolution-of-concat"
    anchor: type[Operator] = Add

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        total = _sum(node)
        pair = _pair(graph, total)
        if total is None or pair is None or pair[0].operands[0] == pair[1].operands[0]:
            return
        reason = total.refusal(graph, *pair) or _unlike(*pair)
        yield Match((node, *pair)) if reason is None else Mismatch((node, *pair), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, *pair = match.nodes
        total = _sum(node)
        assert total is not None
        data = tuple(operand for operand in (pair[0].operands[0], pair[1].operands[0]) if isinstance(operand, Value))
        left = [left_by(value, data) for value in node.inputs if left_by(value, data)]
        concat = interim(graph, Concat(1), data, wanted=left[0] if left else (joined(data, 1),))
        kernel = concatenated(combined(pair[0].operands[1], pair[1].operands[1]), 1)
        merged = total.replaced(convolution(pair[0]), concat.outputs[0], kernel, (pair[0], pair[1]))
        return replace(merged, add=(*merged.add, concat))


@dataclass(frozen=True)
class ConvolutionOfConcat:
    """conv(concat(a, b), W) = conv(a, W1) + conv(b, W2) where W = concat(W1, W2)

    The concat joins two tensors along the channels, has no epilogue, and the convolution is its only reader; the
    convolution has one group and a constant kernel, which is cut at the concat's bound. Its bias and all other steps
    follow the sum.

    Pays: A concat read by one convolution alone: its copy vanishes, at the price of a sum (fused where the back
    end adds in place).
    """

    name: str = "convolution-of-concat"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        concat = producer(graph, node.operands[0])
        if concat is None or type(concat.op) is not Concat or len(concat.anchor_operands) != 2:
            return
        reason = shared(graph, concat, node)
        if concat.op.axis != 1:
            reason = "the concat does not run along the channels"
        elif concat.epilogue:
            reason = f"something is fused into {label(concat)}"
        elif convolution(node).groups != 1:
            reason = f"a grouped convolution ({convolution(node).groups} groups)"
        elif not isinstance(node.operands[1], Weight):
            reason = f"{label(node)} has weights that are computed at run time"
        elif not all(isinstance(operand, Value) for operand in concat.operands) or len(set(concat.operands)) != 2:
            reason = "the concat does not join two different tensors"
        yield Match((node, concat)) if reason is None else Mismatch((node, concat), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, concat = match.nodes
        kernel = node.operands[1]
        assert isinstance(kernel, Weight)
        parts: list[Node] = []
        at = 0
        for operand in concat.operands:
            size = operand.type.shape[1]
            taken = sliced(kernel, 1, at, at + size)
            part = interim(
                graph, node.op, (operand, taken), name=node.name, replaced=concat.outputs, witness=concat.operands
            )
            parts.append(part)
            at += size
        operands = (*parts[0].outputs, *parts[1].outputs, *node.epilogue_operands)
        total = Node.make(Add(), operands, node.epilogue, outputs=node.outputs, name=node.name)
        return Rewrite((node, concat), (*parts, total))


def _pair(graph: Graph, total: _Sum | None) -> tuple[Node, Node] | None:
    if total is None:
        return None
    first, second = total.convolution(graph, 0), total.convolution(graph, 1)
    return None if first is None or second is None else (first, second)


def _alike(first: Node, second: Node) -> bool:
    return first.op == second.op and first.operands[1].type == second.operands[1].type


def _unlike(first: Node, second: Node) -> str | None:
    """Why two convolutions of different tensors are not one of both."""
    if first.op != second.op or convolution(first).groups != 1:
        return f"attributes differ, or there are groups: {first.op} and {second.op}"
    kernels = first.operands[1].type, second.operands[1].type
    if kernels[0].shape[2:] != kernels[1].shape[2:] or kernels[0].dtype != kernels[1].dtype:
        return f"kernels differ: {kernels[0]} and {kernels[1]}"
    data = first.operands[0], second.operands[0]
    if not all(isinstance(operand, Value) for operand in data):
        return "a convolution reads a constant"
    if (data[0].type.shape[0], data[0].type.shape[2:]) != (data[1].type.shape[0], data[1].type.shape[2:]):
        return f"inputs differ in size: {data[0].type} and {data[1].type}"
    return None


def _place(conv: Node) -> tuple[int, int] | str:
    """Which element of the window lies over the result's own place; or why none does."""
    op = convolution(conv)
    if op.groups != 1 or op.strides != (1, 1):
        return "the convolution has groups or strides"
    size = conv.operands[1].type.shape[2:]
    place = []
    for axis in (0, 1):
        at, rest = divmod(op.padding[axis], op.dilation[axis])
        if rest or at >= size[axis]:
            return f"no element of the window lies over the result's place (padding {op.padding}, kernel {size})"
        place.append(at)
    return place[0], place[1]
