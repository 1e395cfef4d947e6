"""Tensors that lie inside others: operands of concats that their producers write in place."""

from __future__ import annotations

from dataclasses import dataclass

from joulec.passes.graph.graph import Graph
from joulec.passes.graph.operators import Concat
from joulec.passes.graph.values import Value


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value lies.

    Attributes:
        whole: the result of the outermost concat that holds it.
        offset: where in it the value begins, in elements; it is contiguous from there on.
    """

    whole: Value
    offset: int


def parts_of(graph: Graph) -> dict[Value, Part]:
    """The values of a graph that lie inside others, by what the graph's concats say."""
    parts: dict[Value, Part] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node.op, Concat) or not node.op.in_place:
            continue
        (result,) = node.outputs
        around = parts.get(result, Part(result, 0))
        begin = around.offset
        for operand, stays in zip(node.operands, node.op.in_place, strict=True):
            if stays and isinstance(operand, Value):
                parts[operand] = Part(around.whole, begin)
            begin += operand.type.size
    return parts
