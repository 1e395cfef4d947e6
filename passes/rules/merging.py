"""Merging of nodes that read one tensor and differ in their constants: what rules for convolution and matmul share.

A merged node computes its branches side by side along one axis, and a split hands them out. The order of the branches
is a function of the graph alone, so that all orders of merging meet: branches that a concat reads one after another
stand together in its order (they then need no concat at all), and what remains is sorted by the keys of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from joulec.passes.graph import (
    Concat,
    Concatenated,
    Conv2d,
    Graph,
    MatMul,
    Node,
    Operator,
    Rewrite,
    Split,
    Value,
    Weight,
    concatenated,
)
from joulec.passes.graph.node import Operand
from joulec.passes.rules.joined import Joined, joined, plain


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the results of a merged node.

    Attributes:
        output: the tensor.
        weights: the constants that make it: kernel, then the epilogue's operands.
    """

    output: Value
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Branches:
    """A node taken apart into its branches.

    Attributes:
        parts: the branches, in the order in which the node computes them.
        nodes: the node itself and the splits that hand out the branches.
        unfolded: what each of a rewrite's own values that those splits read consists of.
    """

    parts: tuple[Branch, ...]
    nodes: tuple[Node, ...]
    unfolded: Mapping[Value, tuple[Value, ...]]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Branches in their canonical order.

    Attributes:
        parts: the branches, those that a concat wants joined.
        splits: nodes that hand out the joined ones, for other readers.
        concats: concats that change, with their new operands; a concat of less than two is not needed.
    """

    parts: tuple[Branch, ...]
    splits: tuple[Node, ...]
    concats: tuple[tuple[Node, tuple[Operand, ...]], ...]

    @property
    def saved(self) -> int:
        """How many operands fewer the concats read (a concat that goes counts with all of them)."""
        return sum(len(node.operands) - (len(operands) if len(operands) > 1 else 0) for node, operands in self.concats)


def axes(node: Node) -> tuple[int, int]:
    """The axis of the kernel and that of the result along which the branches of a convolution or matmul lie."""
    if isinstance(node.op, Conv2d):
        return 0, 1
    rank = len(node.operands[1].type.shape)
    transposed = isinstance(node.op, MatMul) and node.op.transpose_b
    return rank - 2 if transposed else rank - 1, len(node.outputs[0].type.shape) - 1


def label(node: Node) -> str:
    """How to call a node in front of the user."""
    return node.name or str(node.op)


def siblings(graph: Graph, node: Node) -> Iterator[Node]:
    """Nodes of the same kind that read the same data and have a greater key (so that each pair is met once)."""
    data = node.operands[0]
    if not isinstance(data, Value):
        return
    readers = graph.consumers[data]
    if len(readers) < 2:
        return
    kind = type(node.op)
    for other in readers:
        if type(other.op) is kind and other.key > node.key and other.operands[0] == data:
            yield other


def refusal(first: Node, second: Node) -> str | None:
    """Why two nodes cannot be merged whatever their attributes, or None.

    Both need constant weights, equal epilogues without a residual add, biases that lie along the branches, and results
    that differ along the branches only.
    """
    for node in (first, second):
        if not all(isinstance(operand, Weight) for operand in node.operands[1:]):
            adds = any(step.kind == "add" for step in node.epilogue)
            return f"{label(node)} {'adds another tensor' if adds else 'has weights that are computed at run time'}"
        if any(step.kind == "add" for step in node.epilogue):
            return f"{label(node)} adds another tensor"
    if first.epilogue != second.epilogue:
        return f"epilogues differ: {_steps(first)} and {_steps(second)}"
    _, axis = axes(first)
    left, right = first.outputs[0].type, second.outputs[0].type
    if (left.shape[:axis], left.shape[axis + 1 :]) != (right.shape[:axis], right.shape[axis + 1 :]):
        return f"results {left} and {right} do not lie side by side"
    for node in (first, second):
        result = node.outputs[0].type
        bias_axis = 1 if len(result.shape) == 4 else len(result.shape) - 1
        for bias in node.epilogue_operands:
            if bias_axis != axis or bias.type.shape != (result.shape[axis],):
                return f"the bias of {label(node)} does not lie along axis {axis}"
    if [operand.type.dtype for operand in first.operands] != [operand.type.dtype for operand in second.operands]:
        return "dtypes differ"
    return None


def branches(graph: Graph, node: Node) -> Branches:
    """The branches of a node: those that its split hands out if it is a merged one, else its one result."""
    weights = tuple(operand for operand in node.operands[1:] if isinstance(operand, Weight))
    parts: list[Branch] = []
    nodes = [node]
    unfolded: dict[Value, tuple[Value, ...]] = {}
    kernel_axis, axis = axes(node)

    def unfold(branch: Branch) -> tuple[Value, ...]:
        split = _handing_out(graph, branch.output, axis)
        inner = None if split is None else _cut(branch.weights, split, kernel_axis, axis)
        if split is None or inner is None:
            parts.append(branch)
            return (branch.output,)
        nodes.append(split)
        values = tuple(value for part in inner for value in unfold(part))
        unfolded[branch.output] = values
        return values

    unfold(Branch(node.outputs[0], weights))
    return Branches(tuple(parts), tuple(nodes), unfolded)


def arrange(graph: Graph, taken: tuple[Branches, ...]) -> Arrangement:
    """The branches of nodes in canonical order, joined where a concat reads them one after another."""
    kernel_axis, axis = axes(taken[0].nodes[0])
    parts = tuple(part for one in taken for part in one.parts)
    within = {value: inner for one in taken for value, inner in one.unfolded.items()}
    gone = {node for one in taken for node in one.nodes}
    pending = {part.output: part for part in parts}
    groups: list[tuple[Value, tuple[Value, ...]]] = []
    concats: list[tuple[Node, tuple[Operand, ...]]] = []
    for concat in graph.nodes:
        if not plain(concat, Concat, axis):
            continue
        flat = [inner for operand in concat.operands for inner in _inner(operand, within)]
        operands: list[Operand] = []
        for run in _runs(flat, pending):
            if len(run) == 1:
                operands.append(run[0])
                continue
            members = tuple(operand for operand in run if isinstance(operand, Value))
            value = concat.outputs[0]
            if len(run) == len(flat) and plain(graph.sole_consumer(value), Concat, axis):
                within[value] = members  # the outer concat takes them in, as it does where concats are flattened first
                break
            if len(run) < len(flat):
                value = joined(members, axis)
            joint = [pending.pop(member).weights for member in members]
            pending[value] = Branch(value, _together(joint, kernel_axis))
            groups.append((value, members))
            operands.append(value)
        if tuple(operands) != concat.operands:
            concats.append((concat, tuple(operands)))
    ordered = tuple(sorted(pending.values(), key=lambda part: part.output.key))
    gone.update(concat for concat, _ in concats)
    splits = _needed_splits(graph, groups, gone, {operand for _, operands in concats for operand in operands}, axis)
    return Arrangement(ordered, splits, tuple(concats))


def merge(graph: Graph, op: Operator, taken: tuple[Branches, ...]) -> Rewrite:
    """One node in place of several.

    Args:
        op: the merged node's operator; all branches' weights fit it.
        taken: the nodes to merge, taken apart; one alone is merely arranged anew.
    """
    first = taken[0].nodes[0]
    kernel_axis, axis = axes(first)
    arrangement = arrange(graph, taken)
    outputs = tuple(part.output for part in arrangement.parts)
    result = joined(outputs, axis) if len(outputs) > 1 else outputs[0]
    weights = _together([part.weights for part in arrangement.parts], kernel_axis)
    name = "+".join(one.nodes[0].name for one in taken if one.nodes[0].name)
    added = [Node.make(op, (first.operands[0], *weights), first.epilogue, outputs=(result,), name=name)]
    if len(outputs) > 1:
        added.append(_split(result, outputs, axis))
    added.extend(arrangement.splits)
    added.extend(
        Node(concat.op, operands, (), concat.outputs, concat.name)
        for concat, operands in arrangement.concats
        if len(operands) > 1
    )
    removed = [node for one in taken for node in one.nodes] + [concat for concat, _ in arrangement.concats]
    return Rewrite(tuple(removed), tuple(added))


def _steps(node: Node) -> str:
    return "+".join(map(str, node.epilogue)) or "none"


def _inner(operand: Operand, within: Mapping[Value, tuple[Value, ...]]) -> tuple[Operand, ...]:
    return within.get(operand, (operand,)) if isinstance(operand, Value) else (operand,)


def _handing_out(graph: Graph, value: Value, axis: int) -> Node | None:
    """The split that hands out a value's branches, where nothing else needs the value as it is.

    A concat does not need a rewrite's own value as it is: it can read the branches.
    """
    if value in graph.outputs:
        return None
    split = None
    for reader in graph.consumers.get(value, ()):
        if split is None and plain(reader, Split, axis):
            split = reader
        elif not (isinstance(value, Joined) and plain(reader, Concat, axis)):
            return None
    return split


def _cut(weights: tuple[Weight, ...], split: Node, kernel_axis: int, axis: int) -> list[Branch] | None:
    """The branches that a split hands out; None if some weight is not put together at the split's bounds."""
    sizes = [value.type.shape[axis] for value in split.outputs]
    columns: list[list[Weight]] = []
    for index, weight in enumerate(weights):
        along = kernel_axis if index == 0 else 0
        if not isinstance(weight, Concatenated) or weight.axis != along:
            return None
        rest = list(weight.parts)
        column: list[Weight] = []
        for size in sizes:
            taken: list[Weight] = []
            while rest and size > 0:
                size -= rest[0].type.shape[along]
                taken.append(rest.pop(0))
            if size != 0 or not taken:
                return None
            column.append(concatenated(tuple(taken), along))
        columns.append(column)
    return [Branch(value, parts) for value, parts in zip(split.outputs, zip(*columns, strict=True), strict=True)]


def _runs(operands: list[Operand], pending: Mapping[Value, Branch]) -> Iterator[list[Operand]]:
    """The operands in order: distinct pending values that stand together in one list, all others alone."""
    run: list[Operand] = []
    for operand in operands:
        if run and (operand not in pending or operand in run):
            yield run  # the reader may take its members out of what is pending
            run = []
        if isinstance(operand, Value) and operand in pending:
            run.append(operand)
        else:
            yield [operand]
    if run:
        yield run


def _needed_splits(
    graph: Graph, groups: list[tuple[Value, tuple[Value, ...]]], gone: set[Node], read: set[Operand], axis: int
) -> tuple[Node, ...]:
    """The splits that hand out the members of groups to readers other than those in ``gone``, inner groups first.

    Members side by side that nobody reads stay together, so that it does not matter which of them were grouped first.
    """
    read |= set(graph.outputs)
    splits = []
    for value, members in groups:
        needed = [
            member in read or any(reader not in gone for reader in graph.consumers.get(member, ()))
            for member in members
        ]
        if not any(needed):
            continue
        read.add(value)
        outputs: list[Value] = []
        for is_needed, run in groupby(zip(needed, members, strict=True), key=itemgetter(0)):
            values = tuple(member for _, member in run)
            outputs.extend(values if is_needed else (joined(values, axis),))
        splits.append(_split(value, tuple(outputs), axis))
    return tuple(splits)


def _together(rows: list[tuple[Weight, ...]], kernel_axis: int) -> tuple[Weight, ...]:
    columns = zip(*rows, strict=True)
    return tuple(concatenated(column, kernel_axis if index == 0 else 0) for index, column in enumerate(columns))


def _split(value: Value, outputs: tuple[Value, ...], axis: int) -> Node:
    sizes = tuple(output.type.shape[axis] for output in outputs)
    return Node.make(
        Split(axis, sizes), (value,), outputs=outputs, name="+".join(output.name for output in outputs if output.name)
    )
