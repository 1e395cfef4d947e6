"""What of a program runs before and after the compiled function, which holds tensors of numbers with fixed shapes only.

Where an input of the model is something else (text, a sequence, an optional), the nodes that read it run before, in the
*head*, with all that they need, or after, in the *tail*, with all that follows from them: whichever is fewer. Where an
output of the model is something else, or its size depends on data, what makes it runs in the tail, and so what follows.
Such values between are no matter of this: they stay inside of one node (`joulec.passes.onnx.regions`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.program import Program, bodies, references, title, typed
from joulec.passes.onnx.regions import Region, regions


@dataclass(frozen=True)
class PartModel:
    """A head or a tail as an ONNX model.

    Attributes:
        model: its inputs and outputs bear the names that the values have in the whole.
        first: the node that is why there is this part, for people.
        share: of the program's nodes that lie in it.
    """

    model: onnx.ModelProto
    first: str
    share: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values that it takes."""
        return tuple(value.name for value in self.model.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that it gives."""
        return tuple(value.name for value in self.model.graph.output)


@dataclass(frozen=True)
class Partition:
    """A program in parts.

    Attributes:
        core: what is compiled.
        head: what runs before.
        tail: what runs after.
    """

    core: Program
    head: PartModel | None
    tail: PartModel | None


def partition(program: Program, types: Mapping[str, TensorType], edges: Collection[str]) -> Partition | None:
    """Cut a program where values are that a compiled function does not take or give; None where there are none.

    Args:
        types: of its values, as far as they are known.
        edges: values that the compiled function can hold.
    """
    given = {value.name for value in program.inputs}
    wanted = [value.name for value in program.outputs]
    if given.union(wanted) <= set(edges):
        return None
    found = regions(program.nodes, edges, wanted)
    head, tail = _cut(found, given - set(edges), set(wanted) - set(edges))
    cut = _Cut(program, types, edges, found, head, tail)
    return Partition(cut.core(), cut.part(head), cut.part(tail))


def _cut(found: Sequence[Region], given: Collection[str], wanted: Collection[str]) -> tuple[list[int], list[int]]:
    """Which regions run before and which after the compiled function, in topological order.

    Args:
        given: inputs of the model that are no edges.
        wanted: outputs of the model that are none.
    """
    made = [{name for node in region.nodes for name in node.output} for region in found]
    producer = {name: index for index, names in enumerate(made) for name in names}
    before = [{producer[name] for name in region.inputs if name in producer} for region in found]
    after: list[set[int]] = [set() for _ in found]
    for index, operands in enumerate(before):
        for operand in operands:
            after[operand].add(index)
    asking = [index for index, region in enumerate(found) if not set(region.inputs).isdisjoint(given)]
    giving = [index for index, names in enumerate(made) if not names.isdisjoint(wanted)]
    tail = _closure(set(giving) - set(asking), after)
    for index in asking:
        needs, follow = _closure([index], before), _closure([index], after)
        if index not in tail and (needs & tail or _size(found, needs) > _size(found, follow)):
            tail |= follow
    head = _closure(set(asking) - tail, before)
    return sorted(head), sorted(tail)


def _closure(start: Iterable[int], following: Sequence[Collection[int]]) -> set[int]:
    reached = set(start)
    waiting = list(reached)
    while waiting:
        fresh = set(following[waiting.pop()]) - reached
        reached |= fresh
        waiting.extend(fresh)
    return reached


def _size(found: Sequence[Region], indices: Iterable[int]) -> int:
    return sum(len(found[index].nodes) for index in indices)


class _Cut:
    """Makes programs of the regions of each part."""

    def __init__(
        self,
        program: Program,
        types: Mapping[str, TensorType],
        edges: Collection[str],
        found: Sequence[Region],
        head: Sequence[int],
        tail: Sequence[int],
    ) -> None:
        self._program, self._types, self._edges, self._found = program, types, edges, found
        self._outside = {*head, *tail}
        self._values = program.values()
        self._wanted = [value.name for value in program.outputs]
        self._giving = {value.name for value in program.outputs if value.name not in edges}
        self._asked = {value.name for value in program.inputs if value.name not in edges}

    def core(self) -> Program:
        """The program of what is compiled."""
        inside = [index for index in range(len(self._found)) if index not in self._outside]
        core = self._program.copy()
        core.nodes = self._nodes(inside)
        core.inputs = [typed(name, self._types[name]) for name in self._read(inside)]
        core.outputs = [typed(name, self._types[name]) for name in self._given(inside)]
        core.prune()
        return core

    def part(self, indices: Sequence[int]) -> PartModel | None:
        """The model of a head or tail; None of nothing."""
        if not indices:
            return None
        program, nodes = self._program, self._nodes(indices)
        part = program.copy()
        part.name, part.nodes = "+".join(dict.fromkeys(node.op_type for node in nodes)), nodes
        opened = any(True for node in nodes for _ in bodies(node))  # a branch that is not taken need not fit the shapes
        part.inputs = [self._info(name, opened) for name in self._read(indices)]
        part.outputs = [self._info(name, opened=True) for name in self._given(indices)]
        part.prune()
        share = len(nodes) / len(program.nodes)
        return PartModel(part.model({}), self._reason(indices), share)

    def _reason(self, indices: Sequence[int]) -> str:
        """The node, of one of these regions, that no compiled function holds."""
        nodes = self._nodes(indices)
        for node in nodes:
            strange = [name for name in node.output if name and name not in self._edges]
            if strange or self._asked.intersection(references(node)):
                return f"'{title(node)}' ({node.op_type})"
        return f"'{title(nodes[0])}' ({nodes[0].op_type})"

    def _nodes(self, indices: Sequence[int]) -> list[onnx.NodeProto]:
        """Their nodes, in the program's order."""
        own = {id(node) for index in indices for node in self._found[index].nodes}
        return [node for node in self._program.nodes if id(node) in own]

    def _read(self, indices: Sequence[int]) -> list[str]:
        """What regions read from outside, constants left out: the model's inputs first, in its order."""
        made = {name for index in indices for node in self._found[index].nodes for name in node.output}
        read = dict.fromkeys(chain.from_iterable(self._found[index].inputs for index in indices))
        names = [name for name in read if name not in made and name not in self._program.constants]
        order = {value.name: place for place, value in enumerate(self._program.inputs)}
        return sorted(names, key=lambda name: order.get(name, len(order)))

    def _given(self, indices: Sequence[int]) -> list[str]:
        """What regions make that others read or that the model gives."""
        own = set(indices)
        made = dict.fromkeys(name for index in indices for node in self._found[index].nodes for name in node.output)
        others = chain.from_iterable(one.inputs for index, one in enumerate(self._found) if index not in own)
        needed = set(others).union(self._wanted)
        return [name for name in made if name and name in needed]

    def _info(self, name: str, opened: bool) -> onnx.ValueInfoProto:
        """A value with its type; of no sizes where these are not to be relied on."""
        if name in self._edges and not opened:
            return typed(name, self._types[name])
        info = onnx.ValueInfoProto()
        info.CopyFrom(self._values.get(name, onnx.ValueInfoProto(name=name)))
        if name in self._types:
            info.CopyFrom(typed(name, self._types[name]))
        if opened and info.type.HasField("tensor_type"):
            for dimension in info.type.tensor_type.shape.dim:
                dimension.Clear()
        return info
