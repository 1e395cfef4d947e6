"""Poolings exchanged with what stands before or after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from joulec.passes.graph import (
    Activation,
    AvgPool2d,
    Conv2d,
    Graph,
    MaxPool2d,
    Node,
    Operator,
    Rewrite,
    TensorType,
)
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import affine, interim, is_pointwise, last_activation, left_by, producer, shared

_MONOTONE = frozenset({"relu", "clip", "leaky_relu", "sigmoid", "tanh", "exp", "erf"})
"""Activations that are defined everywhere and never fall (leaky ReLU: where its slope is not negative)."""


@dataclass(frozen=True)
class MaxPoolOfActivation:
    """max_pool(f(x)) = f(max_pool(x))

    f never falls: relu, clip, leaky relu of a slope not below zero, sigmoid, tanh, exp, erf. It is a node of its own or
    the last step fused into the node before, which only the pooling reads; each window holds an element of x, so that
    no padding comes through.

    Pays: The activation runs on fewer elements, or becomes free to fuse into the pooling.
    """

    name: str = "max-pool-of-activation"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        function = last_activation(before) if before is not None and len(before.outputs) == 1 else None
        if before is None or function is None:
            return
        reason = shared(graph, before, node) or not_monotone(function) or empty_window(node)
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, before = match.nodes
        function = last_activation(before)
        assert function is not None
        added = []
        data = before.operands[0]
        if before.epilogue:
            bare = interim(graph, before.op, before.operands, before.epilogue[:-1], name=before.name)
            added.append(bare)
            data = bare.outputs[0]
        pool = interim(graph, node.op, (data,), name=node.name, replaced=before.outputs, witness=(data,))
        after = Node.make(
            function, (*pool.outputs, *node.epilogue_operands), node.epilogue, outputs=node.outputs, name=node.name
        )
        return Rewrite((node, before), (*added, pool, after))


@dataclass(frozen=True)
class ActivationOfMaxPool:
    """f(max_pool(x)) = max_pool(f(x))

    f never falls (see max-pool-of-activation). It is a node of its own, only reader of the pooling, into which nothing
    is fused; or it is the first step fused into the pooling. Each window holds an element of x. Only the pooling reads
    x, so that f can become part of the node that computes it.

    Pays: Lets the activation fuse into the convolution in front of the pooling.
    """

    name: str = "activation-of-max-pool"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        after = _activation_after(graph, node)
        if after is None:
            return
        function, places = after
        before = producer(graph, node.operands[0])
        reason = not_monotone(function) or empty_window(node)
        if before is None or len(before.outputs) != 1:
            reason = "nothing that could take in the activation computes what is pooled"
        elif reason is None:
            reason = shared(graph, before, node)
        yield Match(places) if reason is None else Mismatch(places, reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        pool, last = match.nodes[0], match.nodes[-1]
        found = _activation_after(graph, pool)
        assert found is not None
        data = pool.operands[0]
        wanted = left_by(pool.outputs[0], (data,))
        function = interim(graph, found[0], (data,), name=last.name, wanted=wanted)
        if last is pool:
            steps, operands = pool.epilogue[1:], pool.epilogue_operands
        else:
            steps, operands = last.epilogue, last.epilogue_operands
        renewed = Node.make(pool.op, (*function.outputs, *operands), steps, outputs=last.outputs, name=pool.name)
        return Rewrite(match.nodes, (function, renewed))


@dataclass(frozen=True)
class AvgPoolOfPointwise:
    """avg_pool(conv(x, W)) = conv(avg_pool(x), W) where W is 1x1

    The convolution has one group, stride 1, no padding, a constant kernel, nothing but a constant bias behind it and no
    other reader. With a bias, padding does not count in the pooling's divisor (or there is none). Pooling first does
    not do more arithmetic.

    Pays: Transition layers (DenseNet): the convolution runs on a plane that is smaller by the stride squared.
    """

    name: str = "avg-pool-of-pointwise"
    anchor: type[Operator] = AvgPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        conv = producer(graph, node.operands[0])
        if conv is None or not isinstance(conv.op, Conv2d) or not is_pointwise(conv):
            return
        reason = affine(conv) or shared(graph, conv, node) or (_diluted(node) if conv.epilogue else None)
        if reason is None and _pool_first(node, conv, conv.operands[0].type) > _arithmetic(node, conv):
            reason = "pooling first would do more arithmetic"
        yield Match((node, conv)) if reason is None else Mismatch((node, conv), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, conv = match.nodes
        data, *weights = conv.operands
        pool = interim(graph, node.op, (data,), name=node.name, replaced=conv.outputs, witness=(data,))
        operands = (*pool.outputs, *weights, *node.epilogue_operands)
        renewed = Node.make(conv.op, operands, (*conv.epilogue, *node.epilogue), outputs=node.outputs, name=conv.name)
        return Rewrite((node, conv), (pool, renewed))


@dataclass(frozen=True)
class PointwiseOfAvgPool:
    """conv(avg_pool(x), W) = avg_pool(conv(x, W)) where W is 1x1

    The convolution has one group, stride 1, no padding, a constant kernel, and is the pooling's only reader; nothing is
    fused into the pooling. With a bias, padding does not count in the pooling's divisor (or there is none). What
    follows the bias stays at the end. The convolution first does not do more arithmetic.

    Pays: Where the convolution narrows the tensor more than pooling shrinks it, and to reach rules of the other
    order.
    """

    name: str = "pointwise-of-avg-pool"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        pool = producer(graph, node.operands[0])
        if pool is None or not isinstance(pool.op, AvgPool2d) or not is_pointwise(node):
            return
        begun = self._linear(node)
        reason = affine(begun) or shared(graph, pool, node) or (_diluted(pool) if begun.epilogue else None)
        if pool.epilogue:
            reason = f"something is fused into {label(pool)}"
        if reason is None and _pool_first(pool, node, pool.operands[0].type) < self._first(pool, node):
            reason = "the convolution first would do more arithmetic"
        yield Match((node, pool)) if reason is None else Mismatch((node, pool), reason)

    @staticmethod
    def _linear(node: Node) -> Node:
        """The convolution with its leading bias alone."""
        count = 1 if node.epilogue and node.epilogue[0].kind == "bias" else 0
        operands = (*node.anchor_operands, *node.epilogue_operands[:count])
        return Node.make(node.op, operands, node.epilogue[:count], name=node.name)

    @staticmethod
    def _first(pool: Node, node: Node) -> int:
        (wide,) = node.op.infer([pool.operands[0].type, node.operands[1].type])
        return node.op.flops([pool.operands[0].type, node.operands[1].type], [wide]) + pool.op.flops(
            [wide], node.spec.results
        )

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, pool = match.nodes
        begun = self._linear(node)
        data = pool.operands[0]
        wanted = left_by(pool.outputs[0], (data,))
        conv = interim(graph, node.op, (data, *begun.operands[1:]), begun.epilogue, name=node.name, wanted=wanted)
        count = len(begun.epilogue)
        operands = (*conv.outputs, *node.epilogue_operands[count:])
        renewed = Node.make(pool.op, operands, node.epilogue[count:], outputs=node.outputs, name=pool.name)
        return Rewrite((node, pool), (conv, renewed))


@dataclass(frozen=True)
class MaxPoolOfMaxPool:
    """max_pool(max_pool(x, k1, s1), k2, s2) = max_pool(x, k1 + (k2 - 1) * s1, s1 * s2)

    Neither pads, dilates, or rounds sizes up; on each axis the inner windows leave no gap (s1 <= k1) unless the outer
    window is one element long. Nothing is fused into the inner pooling, and nothing else reads it.

    Pays: Stacked poolings (SPP blocks): one pass over memory.
    """

    name: str = "max-pool-of-max-pool"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        yield from _poolings(graph, node, "the inner windows leave gaps", lambda length, stride: stride <= length)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _one_pooling(*match.nodes)


@dataclass(frozen=True)
class AvgPoolOfAvgPool:
    """avg_pool(avg_pool(x, k1, k1), k2, s2) = avg_pool(x, k1 * k2, k1 * s2)

    Neither pads, dilates, or rounds sizes up; on each axis the inner windows stand side by side (s1 = k1) unless the
    outer window is one element long. Nothing is fused into the inner pooling, and nothing else reads it.

    Pays: Stacked averages: one pass over memory.
    """

    name: str = "avg-pool-of-avg-pool"
    anchor: type[Operator] = AvgPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        yield from _poolings(graph, node, "the inner windows overlap or leave gaps", int.__eq__)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return _one_pooling(*match.nodes)


def _poolings(graph: Graph, node: Node, gaps: str, fits: Callable[[int, int], bool]) -> Iterator[Match | Mismatch]:
    inner = producer(graph, node.operands[0])
    if inner is None or type(inner.op) is not type(node.op):
        return
    reason = shared(graph, inner, node)
    outer_op, inner_op = pooling(node), pooling(inner)
    if inner.epilogue:
        reason = f"something is fused into {label(inner)}"
    for op in (outer_op, inner_op):
        if any(op.padding) or op.dilation != (1, 1) or op.ceil_mode:
            reason = "one of the poolings pads, dilates or rounds its size up"
    steps = zip(outer_op.kernel, inner_op.kernel, inner_op.strides, strict=True)
    if not all(outer == 1 or fits(length, stride) for outer, length, stride in steps):
        reason = gaps
    yield Match((node, inner)) if reason is None else Mismatch((node, inner), reason)


def _one_pooling(node: Node, inner: Node) -> Rewrite:
    outer_op, inner_op = pooling(node), pooling(inner)
    kernel = [a + (b - 1) * s for a, b, s in zip(inner_op.kernel, outer_op.kernel, inner_op.strides, strict=True)]
    strides = [a * b for a, b in zip(inner_op.strides, outer_op.strides, strict=True)]
    op = replace(outer_op, kernel=(kernel[0], kernel[1]), strides=(strides[0], strides[1]))
    operands = (*inner.operands, *node.epilogue_operands)
    return Rewrite((node, inner), (Node.make(op, operands, node.epilogue, outputs=node.outputs, name=node.name),))


def pooling(node: Node) -> MaxPool2d | AvgPool2d:
    """The operator of a pooling.

    Raises:
        TypeError: the node is none.
    """
    if not isinstance(node.op, MaxPool2d | AvgPool2d):
        raise TypeError(f"{node} is no pooling")
    return node.op


def _activation_after(graph: Graph, pool: Node) -> tuple[Activation, tuple[Node, ...]] | None:
    """The activation that follows a pooling at once, with the nodes concerned."""
    if pool.epilogue:
        step = pool.epilogue[0]
        return (Activation(step.activation, step.params), (pool,)) if step.kind == "activation" else None
    reader = graph.sole_consumer(pool.outputs[0])
    if reader is None or not isinstance(reader.op, Activation) or reader.operands.count(pool.outputs[0]) != 1:
        return None
    return reader.op, (pool, reader)


def not_monotone(function: Activation) -> str | None:
    """Why a function cannot change places with a maximum."""
    if function.kind not in _MONOTONE or (function.kind == "leaky_relu" and function.params[0] < 0):
        return f"{function.kind} is not known never to fall"
    return None


def empty_window(node: Node) -> str | None:
    """Why a pooling's padding would come through: a window of it holds nothing else."""
    pool = pooling(node)
    if not _windows_hold_data(pool, node.operands[0].type, node.outputs[0].type):
        return f"a window of {label(node)} holds nothing but padding"
    return None


@lru_cache(maxsize=4096)
def _windows_hold_data(op: MaxPool2d | AvgPool2d, data: TensorType, result: TensorType) -> bool:
    for axis in (0, 1):
        size, step, before = data.shape[2 + axis], op.dilation[axis], op.padding[axis]
        for index in range(result.shape[2 + axis]):
            start = index * op.strides[axis] - before
            if not any(0 <= start + step * tap < size for tap in range(op.kernel[axis])):
                return False
    return True


def _diluted(node: Node) -> str | None:
    """Why the mean of a constant is not the constant."""
    op = pooling(node)
    if isinstance(op, AvgPool2d) and op.count_include_pad and any(op.padding):
        return "padding counts in the divisor, so the mean of the bias is not the bias"
    return empty_window(node)


def _arithmetic(*nodes: Node) -> int:
    return sum(node.op.flops([o.type for o in node.anchor_operands], node.spec.results) for node in nodes)


def _pool_first(pool: Node, conv: Node, data: TensorType) -> int:
    """Arithmetic of pooling, then convolution."""
    (pooled,) = pool.op.infer([data])
    types = [pooled, conv.operands[1].type]
    return pool.op.flops([data], [pooled]) + conv.op.flops(types, conv.op.infer(types))
