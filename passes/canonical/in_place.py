"""Which operands of concats their producers write in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from joulec.passes.graph import Concat, Graph, Node, NodeSpec, Value

TakesParts = Callable[[NodeSpec], bool]
"""Whether the kernels of a spec can be given parts of larger tensors to read and to write."""


def place(graph: Graph, takes_parts: TakesParts) -> Graph:
    """The graph with every concat saying which of its operands are written in place.

    It follows from the graph alone: an operand is, where its part of the result is contiguous, a kernel writes it and
    kernels read it, the graph does not return it, and no other concat has it in place already.
    """
    homes = _homes(graph, takes_parts)
    changed: dict[Node, Node] = {}
    for node in graph.nodes:
        if type(node.op) is not Concat:
            continue
        found = tuple(homes.get(operand) is node for operand in node.operands)
        in_place = found if any(found) else ()
        if in_place != node.op.in_place:
            op = replace(node.op, in_place=in_place)
            changed[node] = Node(op, node.operands, node.epilogue, node.outputs, node.name)
    return graph.patched(changed, changed.values()) if changed else graph


def _homes(graph: Graph, takes_parts: TakesParts) -> dict[object, Node]:
    """The concat in whose result each value lies that lies in one; of several the one whose own result sorts first."""
    homes: dict[object, Node] = {}
    for node in graph.nodes:
        for value in _candidates(graph, node, takes_parts):
            other = homes.get(value)
            if other is None or node.outputs[0].key < other.outputs[0].key:
                homes[value] = node
    return homes


def _candidates(graph: Graph, node: Node, takes_parts: TakesParts) -> Iterator[Value]:
    """The operands that could lie in the result of a concat."""
    if type(node.op) is not Concat or node.epilogue or len(node.operands) < 2:
        return
    if math.prod(node.outputs[0].type.shape[: node.op.axis]) != 1 or not takes_parts(_copying(node)):
        return
    for operand in node.operands:
        if not isinstance(operand, Value) or node.operands.count(operand) > 1 or operand in graph.outputs:
            continue
        producer = graph.producers.get(operand)
        if producer is None or len(producer.outputs) > 1:
            continue
        if all(takes_parts(_copying(one)) for one in (producer, *graph.consumers[operand])):
            yield operand


def _copying(node: Node) -> NodeSpec:
    """The node's spec; of a concat as if it copied all operands, so that nothing depends on what was placed before."""
    return node.spec if type(node.op) is not Concat or not node.op.in_place else _copying_spec(node.spec)


@lru_cache(maxsize=1 << 14)
def _copying_spec(spec: NodeSpec) -> NodeSpec:
    """Remembered: a search places the concats of thousands of graphs, which share nearly all of them."""
    assert type(spec.op) is Concat
    return replace(spec, op=replace(spec.op, in_place=()))
