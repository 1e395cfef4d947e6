"""Values that a merge brings into being, in a normal form that does not depend on the order of merging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joulec.passes.graph import Concat, Graph, Node, Operator, Rewrite, Split, TensorType, Value
from joulec.passes.graph.values import content_key


@dataclass(frozen=True, slots=True)
class Joined(Value):
    """Values one after another along an axis; no part is itself joined along that axis.

    Its key names the parts, never the node that computes it or the input of that node, so that merging A with B and
    then with C meets merging B with C and then with A. `weights.Concatenated` is the same for constants.
    """

    parts: tuple[Value, ...] = field(default=(), compare=False, repr=False)
    axis: int = field(default=0, compare=False, repr=False)

    __hash__ = Value.__hash__


def joined(values: tuple[Value, ...], axis: int) -> Value:
    """Values along an axis, in normal form."""
    flat: list[Value] = []
    for value in values:
        flat.extend(value.parts if isinstance(value, Joined) and value.axis == axis else (value,))
    if len(flat) == 1:
        return flat[0]
    shape = list(flat[0].type.shape)
    shape[axis] = sum(value.type.shape[axis] for value in flat)
    key = content_key("joined", axis, *(value.key for value in flat))
    return Joined(key, TensorType(tuple(shape), flat[0].type.dtype), "", tuple(flat), axis)


def plain(node: Node | None, kind: type[Operator], axis: int) -> bool:
    """Whether a node is a concat or split along the axis with nothing fused into it."""
    return (
        node is not None
        and isinstance(node.op, kind)
        and isinstance(node.op, Concat | Split)
        and node.op.axis == axis
        and not node.epilogue
    )


def identify(graph: Graph, copies: Mapping[Value, Value]) -> Rewrite:
    """Read each copy's original in its place.

    The copy goes, unless it comes from the model while the original is a rewrite's own: then the original's producer
    computes the copy instead, and the model's name survives whatever the order of rewriting.
    """
    targets: dict[Value, Value] = {}
    renamed: list[Node] = []
    for copy, original in copies.items():
        if isinstance(original, Joined) and not isinstance(copy, Joined) and original not in targets:
            targets[original] = copy
            renamed.append(graph.producers[original])
        else:
            targets[copy] = original
    renamed = list(dict.fromkeys(renamed))
    added = [
        Node(node.op, node.operands, node.epilogue, tuple(targets.get(v, v) for v in node.outputs), node.name)
        for node in renamed
    ]
    return Rewrite(tuple(renamed), tuple(added), targets)


def movement_axis(node: Node) -> int:
    """The axis of a concat or split.

    Raises:
        TypeError: the node is neither.
    """
    if not isinstance(node.op, Concat | Split):
        raise TypeError(f"{node} is neither concat nor split")
    return node.op.axis
