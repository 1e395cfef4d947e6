"""Which nodes of a program become one node of the graph: alone, or joined where a value between them is no edge.

The graph's edges are tensors of numbers with fixed shapes. A value that is none (its shape depends on data; it is text,
a sequence or an optional) stays inside one opaque node, together with the node that computes it and all that read it.
So do the sums of an integer product: what is added to them, and their conversion to float32, belong to its node; and
so do the bytes that are only made to be made floats again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from joulec.passes.onnx.program import references

_SUMS = ("ConvInteger", "MatMulInteger")
"""Products whose results are sums in int32."""


@dataclass(frozen=True)
class Region:
    """Nodes in topological order that are converted together.

    Attributes:
        nodes: one, or several connected by values that are no edges.
        inputs: values from outside that they read, constants too, in order of appearance.
        outputs: values that are read outside or are outputs of the model, in order of appearance.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def regions(nodes: Sequence[onnx.NodeProto], edges: Collection[str], outputs: Collection[str]) -> list[Region]:
    """The regions of a program in topological order.

    Args:
        nodes: in topological order.
        edges: values that can be edges of the graph.
        outputs: the model's outputs.
    """
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    readers = [
        [producers[name] for name in references(node) if name in producers and producers[name] != index]
        for index, node in enumerate(nodes)
    ]
    leader = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        for name in references(node):
            if name in producers and name not in edges:
                _join(leader, producers[name], index)
    for producer, index in _of_numbers(nodes, producers, outputs):
        _join(leader, producer, index)
    if all(_find(leader, index) == index for index in range(len(nodes))):
        groups = [[index] for index in range(len(nodes))]
    else:
        groups = _convex(leader, readers)
    needed = set(outputs)
    consumers: dict[str, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in references(node):
            consumers.setdefault(name, set()).add(index)
    return [_region([nodes[index] for index in group], set(group), edges, needed, consumers) for group in groups]


def _of_numbers(
    nodes: Sequence[onnx.NodeProto], producers: Mapping[str, int], outputs: Collection[str]
) -> list[tuple[int, int]]:
    """Pairs of a node and the only one that reads its result, which a kernel computes without storing that.

    The one makes sums and the other adds to them or makes them float32, or the one quantises and the other dequantises.
    """
    read = Counter(name for node in nodes for name in references(node))
    quantised = {index for index, node in enumerate(nodes) if node.op_type == "QuantizeLinear" and not node.domain}
    open_ = {index for index, node in enumerate(nodes) if node.op_type in _SUMS and not node.domain}
    found = []
    for index, node in enumerate(nodes):
        adds, dequantises = node.op_type == "Add", node.op_type == "DequantizeLinear"
        casts = node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT
        if node.domain or not (adds or casts or dequantises):
            continue
        taken = quantised if dequantises else open_
        made = [producers[name] for name in node.input[: 2 if adds else 1] if producers.get(name) in taken]
        if len(made) != 1 or any(name in outputs or read[name] > 1 for name in nodes[made[0]].output):
            continue
        found.append((made[0], index))
        if adds:
            open_ = (open_ - {made[0]}) | {index}
    return found


def _find(leader: list[int], index: int) -> int:
    while leader[index] != index:
        leader[index] = leader[leader[index]]
        index = leader[index]
    return index


def _join(leader: list[int], one: int, other: int) -> None:
    first, second = sorted((_find(leader, one), _find(leader, other)))
    leader[second] = first


def _convex(leader: list[int], operands: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups in topological order; those between which there is a cycle become one."""
    while True:
        members: dict[int, list[int]] = {}
        for index in range(len(leader)):
            members.setdefault(_find(leader, index), []).append(index)
        before = {
            group: {_find(leader, operand) for index in inside for operand in operands[index]} - {group}
            for group, inside in members.items()
        }
        cycle = _strong_components(before)
        if all(len(component) == 1 for component in cycle):
            return [members[component[0]] for component in cycle]
        for component in cycle:
            for group in component[1:]:
                _join(leader, component[0], group)


def _strong_components(before: Mapping[int, Collection[int]]) -> list[list[int]]:
    """Strongly connected components (Tarjan 1972, without recursion), each after those that it depends on."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    open_: set[int] = set()
    components: list[list[int]] = []
    for root in sorted(before):
        if root in order:
            continue
        work = [(root, iter(sorted(before[root])))]
        order[root] = low[root] = len(order)
        stack.append(root)
        open_.add(root)
        while work:
            group, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[group])
                if low[group] == order[group]:
                    component: list[int] = []
                    while not component or component[-1] != group:
                        component.append(stack.pop())
                        open_.discard(component[-1])
                    components.append(sorted(component))
            elif following not in order:
                order[following] = low[following] = len(order)
                stack.append(following)
                open_.add(following)
                work.append((following, iter(sorted(before[following]))))
            elif following in open_:
                low[group] = min(low[group], order[following])
    return components


def _region(
    nodes: Sequence[onnx.NodeProto],
    indices: set[int],
    edges: Collection[str],
    needed: set[str],
    consumers: Mapping[str, set[int]],
) -> Region:
    own = {name for node in nodes for name in node.output if name}
    inputs = dict.fromkeys(name for node in nodes for name in references(node) if name not in own)
    outputs = dict.fromkeys(
        name
        for node in nodes
        for name in node.output
        if name in edges and (len(nodes) == 1 or name in needed or consumers.get(name, set()) - indices)
    )
    return Region(tuple(nodes), tuple(inputs), tuple(outputs))
