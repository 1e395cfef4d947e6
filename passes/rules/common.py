"""Nodes that compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from joulec.passes.graph import Add, Binary, Concat, Graph, Node, Opaque, Operator, Rewrite
from joulec.passes.graph.node import Operand
from joulec.passes.rules.joined import Joined, identify
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class ShareEqual:
    """f(x), f(x) = f(x), read twice

    Both nodes have the same operator, epilogue and operands (of a sum or product of tensors in any order), and the
    operator is pure. The graph does not return results of both.

    Pays: Work written twice: exporters that repeat shape arithmetic, masks and projections.
    """

    name: str = "share-equal"
    anchor: type[Operator] = Operator

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        if not node.inputs:
            return
        readers = graph.consumers[node.inputs[0]]
        if len(readers) < 2:
            return
        for other in readers:
            if other.key <= node.key or _meaning(other.op) != _meaning(node.op) or other.epilogue != node.epilogue:
                continue
            if _operands(other) != _operands(node):
                continue
            reason = None
            if isinstance(node.op, Opaque) and not node.op.pure:
                reason = f"{label(node)} has effects, or gives other results each time"
            elif any(value in graph.outputs for value in node.outputs) and any(
                value in graph.outputs for value in other.outputs
            ):
                reason = "the graph returns both"
            yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        kept, copy = match.nodes
        if any(isinstance(value, Joined) for value in kept.outputs) or any(
            value in graph.outputs for value in copy.outputs
        ):
            kept, copy = copy, kept
        pairs = dict(zip(copy.outputs, kept.outputs, strict=True))
        same = identify(graph, {value: original for value, original in pairs.items() if value != original})
        return Rewrite((copy, *same.remove), same.add, same.replace)


def _meaning(op: Operator) -> Operator:
    """The operator without what it says of where its operands lie."""
    return replace(op, in_place=()) if isinstance(op, Concat) else op


def _operands(node: Node) -> tuple[Operand, ...]:
    """A node's operands, those of a commutative operator in the order of their keys."""
    if isinstance(node.op, Add) or node.op == Binary("mul"):
        ordered = sorted(node.anchor_operands, key=lambda operand: operand.key)
        return (*ordered, *node.epilogue_operands)
    return node.operands
