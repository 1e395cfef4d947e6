"""Concats and splits that undo each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from joulec.passes.graph import Concat, Conv2d, Graph, MatMul, Node, Operator, Rewrite, Split, Value
from joulec.passes.graph.node import Operand
from joulec.passes.rules.joined import identify, movement_axis, plain
from joulec.passes.rules.merging import arrange, branches, label, merge, refusal
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class SplitOfConcat:
    """split(concat(a, b, ...)) = a, b, ...

    Both run along one axis and have no epilogue; each bound of the split is a bound between operands. No result is
    empty or a constant alone. A result that spans several operands becomes their concat.

    Pays: Concats and splits that merging leaves back to back.
    """

    name: str = "split-of-concat"
    anchor: type[Operator] = Split

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        concat = _producer(graph, node.operands[0])
        if concat is None or not isinstance(concat.op, Concat):
            return
        reason = self._refusal(node, concat)
        yield Match((node, concat)) if reason is None else Mismatch((node, concat), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        split, concat = match.nodes
        added: list[Node] = []
        copies: dict[Value, Value] = {}
        for value, operands in zip(split.outputs, _spans(split, concat), strict=True):
            first = operands[0]
            if len(operands) > 1:
                added.append(Node.make(concat.op, operands, outputs=(value,), name=f"{concat.name}/part"))
            elif isinstance(first, Value):
                copies[value] = first
        same = identify(graph, copies)
        return Rewrite((split, *same.remove), (*added, *same.add), same.replace)

    @staticmethod
    def _refusal(split: Node, concat: Node) -> str | None:
        reason = _unlike(concat, split)
        if reason is not None:
            return reason
        axis = movement_axis(concat)
        sizes = [value.type.shape[axis] for value in split.outputs]
        if 0 in sizes:
            return "a result of the split is empty"
        bounds = set(accumulate(operand.type.shape[axis] for operand in concat.operands))
        for bound in accumulate(sizes):
            if bound not in bounds:
                return f"the split cuts an operand of the concat at {bound}"
        if any(len(span) == 1 and not isinstance(span[0], Value) for span in _spans(split, concat)):
            return "a result of the split is a constant"
        return None


@dataclass(frozen=True)
class ConcatOfSplit:
    """concat(..., split(x), ...) = concat(..., x, ...); concat(split(x)) = x

    The concat reads all results of the split one after another in their order; both run along one axis and have no
    epilogue.

    Pays: A concat whose branches were all merged: it vanishes.
    """

    name: str = "concat-of-split"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for split in _splits_read(graph, node):
            reason = _unlike(node, split)
            if reason is None and not _occurrences(node, split):
                reason = f"the concat does not read all results of {label(split)} one after another in their order"
            yield Match((node, split)) if reason is None else Mismatch((node, split), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        concat, split = match.nodes
        whole = split.inputs[0]
        count = len(split.outputs)
        operands: list[Operand] = []
        at = 0
        starts = _occurrences(concat, split)
        while at < len(concat.operands):
            operands.append(whole if at in starts else concat.operands[at])
            at += count if at in starts else 1
        if len(operands) == 1:
            return identify(graph, {concat.outputs[0]: whole})
        return Rewrite((concat,), (Node(concat.op, tuple(operands), (), concat.outputs, concat.name),))


@dataclass(frozen=True)
class FlattenConcats:
    """concat(concat(a, b), c) = concat(a, b, c)

    Both run along one axis, the inner one has no epilogue and no other reader, and the graph does not return it.

    Pays: Nested concats of two inputs (Inception as some exporters write it): one copy less, longer runs of
    branches to merge.
    """

    name: str = "flatten-concats"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for operand in dict.fromkeys(node.anchor_operands):
            inner = _producer(graph, operand)
            if inner is None or not isinstance(inner.op, Concat):
                continue
            if inner.op != node.op:
                yield Mismatch((node, inner), "the concats run along different axes")
            elif inner.epilogue:
                yield Mismatch((node, inner), f"something is fused into {label(inner)}")
            elif operand in node.epilogue_operands or graph.sole_consumer(inner.outputs[0]) is None:
                yield Mismatch((node, inner), f"{label(inner)} has other readers")
            else:
                yield Match((node, inner))

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        outer, inner = match.nodes
        operands: list[Operand] = []
        for operand in outer.anchor_operands:
            operands.extend(inner.operands if operand == inner.outputs[0] else (operand,))
        merged = Node(outer.op, (*operands, *outer.epilogue_operands), outer.epilogue, outer.outputs, outer.name)
        return Rewrite((outer, inner), (merged,))


@dataclass(frozen=True)
class ConcatOfBranches:
    """concat(..., b, a, ...) of split(conv(x, concat(A, B))) = concat(..., conv(x, concat(B, A)), ...)

    The concat reads two or more results of a merged convolution or matmul one after another, but not all of them in
    their order (`ConcatOfSplit` is for that). The merged weights are put together at the split's bounds, so they can be
    put together in the concat's order instead. Nothing but the split, and concats of its results, reads the merged
    tensor, and all concats together read less than before.

    Pays: A concat that reads merged branches in another order or beside others: fewer operands to copy.
    """

    name: str = "concat-of-branches"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        matched = set()
        for split in _splits_read(graph, node):
            producer = _producer(graph, split.operands[0])
            while producer is not None and isinstance(producer.op, Split):
                producer = _producer(graph, producer.operands[0])
            if producer is None or producer in matched or not _mergeable(producer):
                continue
            reason = _unlike(node, split)
            if reason is None:
                if _occurrences(node, split):
                    continue
                reason = self._refusal(graph, node, split, producer)
            if reason is None:
                matched.add(producer)
                yield Match((node, split, producer))
            else:
                yield Mismatch((node, split, producer), reason)

    @staticmethod
    def _refusal(graph: Graph, concat: Node, split: Node, producer: Node) -> str | None:
        taken = branches(graph, producer)
        if split not in taken.nodes:
            return f"{label(producer)} is not merged from these branches, or its whole result has readers"
        arrangement = arrange(graph, (taken,))
        shorter = [node for node, operands in arrangement.concats if len(operands) < len(node.operands)]
        if concat not in shorter or arrangement.saved <= 0:
            return "the concat reads no two branches one after another, or they stand together for another concat"
        if concat != shorter[0]:
            return f"the rule applies to the same branches at {label(shorter[0])}"
        return None

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        producer = match.nodes[2]
        return merge(graph, producer.op, (branches(graph, producer),))


def _mergeable(node: Node) -> bool:
    """Whether a node's branches may be put in another order: a convolution of one group or matmul, constant weights."""
    grouped = isinstance(node.op, Conv2d) and node.op.groups != 1
    return isinstance(node.op, Conv2d | MatMul) and not grouped and refusal(node, node) is None


def _producer(graph: Graph, operand: Operand) -> Node | None:
    return graph.producers.get(operand) if isinstance(operand, Value) else None


def _splits_read(graph: Graph, concat: Node) -> Iterator[Node]:
    """The splits of which a concat reads results, each once, in the concat's order."""
    seen = set()
    for operand in concat.anchor_operands:
        split = _producer(graph, operand)
        if split is not None and isinstance(split.op, Split) and split not in seen:
            seen.add(split)
            yield split


def _unlike(concat: Node, split: Node) -> str | None:
    """Why a concat and a split cannot undo each other whatever their bounds, or None."""
    axis = movement_axis(concat)
    if axis != movement_axis(split):
        return f"axes differ: concat {axis}, split {movement_axis(split)}"
    if not plain(concat, Concat, axis) or not plain(split, Split, axis):
        return "something is fused into the concat or the split"
    if not isinstance(split.operands[0], Value):
        return f"{label(split)} splits a constant"
    return None


def _occurrences(concat: Node, split: Node) -> list[int]:
    """Where the concat's operands hold all results of the split in order."""
    count = len(split.outputs)
    return [at for at in range(len(concat.operands) - count + 1) if concat.operands[at : at + count] == split.outputs]


def _spans(split: Node, concat: Node) -> list[tuple[Operand, ...]]:
    """The concat's operands that each result of the split covers, bounds being known to coincide."""
    axis = movement_axis(concat)
    rest = list(concat.operands)
    spans = []
    for value in split.outputs:
        size = value.type.shape[axis]
        span: list[Operand] = []
        while size > 0:
            size -= rest[0].type.shape[axis]
            span.append(rest.pop(0))
        spans.append(tuple(span))
    return spans
