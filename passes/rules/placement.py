"""Where results are written: concats whose producers write into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from joulec.passes.graph import Concat, Graph, Node, NodeSpec, Operator, PlacedConcat, Rewrite, Value
from joulec.passes.rules.merging import label
from joulec.passes.rules.rule import Match, Mismatch

CanWrite = Callable[[NodeSpec], bool]


@dataclass(frozen=True)
class PlaceConcat:
    """concat(a, b, ...) = placed_concat(a, b, ...)

    Each operand is the only result of a node whose kernel can write into a slice of a larger buffer, is read by the
    concat alone and once, and is not returned by the graph. A result of a split is none: the node before it writes the
    whole tensor.

    Attributes:
        can_write: whether the back end's kernels for a spec can write into a slice.
    """

    can_write: CanWrite
    name: str = "place-concat"
    anchor: type[Operator] = Concat

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        """The concat itself, if its operands can be written in place."""
        reason = _refusal(graph, node, self.can_write)
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        """Only the operator changes."""
        return Rewrite((match.nodes[0],), (_with(match.nodes[0], PlacedConcat),))


def displace(graph: Graph, can_write: CanWrite) -> Graph:
    """The graph with every placed concat that no longer can be one copying again."""
    lost = [node for node in graph.nodes if isinstance(node.op, PlacedConcat) and _refusal(graph, node, can_write)]
    if not lost:
        return graph
    return graph.apply(Rewrite(tuple(lost), tuple(_with(node, Concat) for node in lost)))


def _with(node: Node, kind: type[Concat]) -> Node:
    assert isinstance(node.op, Concat)
    return Node(kind(node.op.axis), node.operands, node.epilogue, node.outputs, node.name)


def _refusal(graph: Graph, node: Node, can_write: CanWrite) -> str | None:
    if node.epilogue:
        return f"something is fused into {label(node)}"
    if len(set(node.operands)) < len(node.operands):
        return "an operand is read twice"
    for operand in node.operands:
        producer = graph.producers.get(operand) if isinstance(operand, Value) else None
        if not isinstance(operand, Value) or producer is None:
            return "an operand is a constant or an input of the graph"
        if len(producer.outputs) > 1:
            return f"an operand is a slice of what {label(producer)} computes"
        if graph.sole_consumer(operand) is None:
            return f"{label(producer)} has other readers"
        if not can_write(producer.spec):
            return f"{label(producer)} cannot write into a part of a larger buffer"
    return None
