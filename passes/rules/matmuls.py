"""Parallel matrix products merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import Graph, MatMul, Node, Operator, Rewrite
from joulec.passes.rules.merging import axes, branches, merge, refusal, siblings
from joulec.passes.rules.rule import Match, Mismatch


@dataclass(frozen=True)
class MergeMatMuls:
    """matmul(x, W1), matmul(x, W2) = split(matmul(x, concat(W1, W2)))

    Both store W the same way (transposed or not) and with the same leading dimensions, and have the same dtype and
    epilogue; weights and biases are constant, and neither adds another tensor. Widths may differ.

    Pays: Query, key and value projections, also of unequal widths; heads that read one tensor.
    """

    name: str = "merge-matmuls"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        for other in siblings(graph, node):
            reason = _difference(node, other) or refusal(node, other)
            yield Match((node, other)) if reason is None else Mismatch((node, other), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        return merge(graph, match.nodes[0].op, tuple(branches(graph, node) for node in match.nodes))


def _difference(first: Node, second: Node) -> str | None:
    if first.op != second.op:
        return "one weight is stored transposed, the other is not"
    left, right = first.operands[1].type.shape, second.operands[1].type.shape
    axis, _ = axes(first)
    if len(left) != len(right) or (left[:axis], left[axis + 1 :]) != (right[:axis], right[axis + 1 :]):
        return f"weights {left} and {right} do not lie side by side"
    return None
