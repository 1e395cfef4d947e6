"""Cutting a large graph at narrow places (after the flow-based splitting of Jia et al., SysML 2019, Section 5).

The nodes stand in topological order. A place between two nodes is as narrow as few substitutions reach across it; of
equally narrow places the one with the fewest values alive is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from joulec.passes.graph import Graph, Node, Value
from joulec.passes.graph.values import content_key
from joulec.passes.rules import Rule, substitutions


@dataclass(frozen=True)
class Part:
    """Consecutive nodes of a graph as a graph of their own.

    Attributes:
        graph: its inputs are the values that come from outside, its outputs those that are read outside.
        signature: equal for parts that differ only in the contents of weights and the names of values.
    """

    graph: Graph
    signature: int


def cut(graph: Graph, rules: tuple[Rule, ...], size: int, avoid: Iterable[Node] = ()) -> list[Part]:
    """Cut a graph into parts of about ``size`` nodes.

    Args:
        rules: the substitutions.
        size: parts have between half and one and a half times as many nodes.
        avoid: nodes before which no part shall begin again (the seams of an earlier cut).
    """
    nodes = graph.nodes
    positions = {node: index for index, node in enumerate(nodes)}
    width = list(zip(_crossings(graph, rules, positions), _alive(graph), strict=True))
    shunned = {positions[node] for node in avoid if node in positions}
    starts = [0]
    while len(nodes) - starts[-1] > size + size // 2:
        low, high = starts[-1] + max(size // 2, 1), starts[-1] + size + size // 2
        choices = [place for place in range(low, high + 1) if place not in shunned] or [high]
        starts.append(min(choices, key=lambda place: (*width[place], abs(place - starts[-1] - size))))
    bounds = [*starts, len(nodes)]
    return [_part(graph, nodes[begin:end]) for begin, end in pairwise(bounds) if end > begin]


def _crossings(graph: Graph, rules: tuple[Rule, ...], positions: dict[Node, int]) -> list[int]:
    """How many substitutions touch nodes on both sides of each place."""
    steps = [0] * (len(graph.nodes) + 1)
    for _, match in substitutions(graph, rules):
        touched = [positions[node] for node in match.nodes]
        steps[min(touched) + 1] += 1
        steps[max(touched) + 1] -= 1
    return _running(steps)


def _alive(graph: Graph) -> list[int]:
    """How many computed values are read on the far side of each place."""
    steps = [0] * (len(graph.nodes) + 1)
    born: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[value] = index
        for value in node.outputs:
            born[value] = index
    for value, index in born.items():
        end = last.get(value, index)
        steps[index + 1] += 1
        steps[end + 1] -= 1
    return _running(steps)


def _running(steps: Sequence[int]) -> list[int]:
    total, sums = 0, []
    for step in steps:
        total += step
        sums.append(total)
    return sums


def _part(graph: Graph, nodes: Sequence[Node]) -> Part:
    inside = set(nodes)
    produced = {value for node in nodes for value in node.outputs}
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in produced)
    returned = set(graph.outputs)
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value in returned or any(reader not in inside for reader in graph.consumers.get(value, ()))
    ]
    part = Graph.build(inputs, outputs, nodes)
    return Part(part, _signature(part))


def _signature(part: Graph) -> int:
    """A hash of the part's structure: operators and connections, but neither weights' contents nor values' names."""
    numbers = {value: f"i{index}" for index, value in enumerate(part.inputs)}
    weights: dict[int, str] = {}
    words: list[str] = []
    for position, node in enumerate(part.nodes):
        for index, value in enumerate(node.outputs):
            numbers[value] = f"n{position}.{index}"
        names = [
            numbers[operand] if isinstance(operand, Value) else weights.setdefault(operand.key, f"w{len(weights)}")
            for operand in node.operands
        ]
        words.append(f"{node.spec!r}({','.join(names)})")
    words.append(",".join(numbers[value] for value in part.outputs))
    words.extend(str(value.type) for value in part.inputs)
    return content_key(*words)
