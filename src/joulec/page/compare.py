"""The original and the chosen plan, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from joulec.passes.graph import Node, Value
from joulec.passes.search.choices import Choice
from joulec.passes.search.results import Plan

Status = Literal["same", "algorithm", "rewritten", "removed", "added"]

STATUSES: Mapping[Status, str] = {
    "same": "as it was",
    "algorithm": "another algorithm",
    "rewritten": "computed in another way",
    "removed": "gone",
    "added": "new",
}
"""What each status says, for people."""


@dataclass(frozen=True)
class Side:
    """An operator in one of the plans.

    Attributes:
        name: where it comes from in the user's model.
        operator: what it computes, with its epilogue.
        shapes: types of its results.
        algorithm: what computes it.
        time_s: seconds per call; 0 for a view, which runs no kernel.
        time_source: where the seconds come from; empty for a view.
        energy_j: joules per call; None where they are not known.
        energy_source: where the joules come from; empty for a view or where there are none.
        spread: half width of the 95% confidence interval of the time, relative to it; None where nothing was sampled.
    """

    name: str
    operator: str
    shapes: str
    algorithm: str
    time_s: float
    time_source: str
    energy_j: float | None
    energy_source: str
    spread: float | None


@dataclass(frozen=True)
class Row:
    """An operator before and after; one of the two is missing where it went or came."""

    status: Status
    before: Side | None
    after: Side | None

    @property
    def side(self) -> Side:
        """The operator as it runs now, or as it was where it is gone."""
        side = self.after or self.before
        assert side is not None
        return side


@dataclass(frozen=True)
class Comparison:
    """All operators of both plans.

    Attributes:
        rows: in the order of the original, with what is new where it comes in.
        before: the row of each node of the original graph.
        after: the row of each node of the chosen graph.
    """

    rows: tuple[Row, ...]
    before: Mapping[Node, int]
    after: Mapping[Node, int]


def compare(origin: Plan, best: Plan) -> Comparison:
    """Match operators by the tensors that they compute: those are what a rewrite keeps."""
    was = {node.outputs: place for place, node in enumerate(origin.graph.nodes)}
    choices = best.assignment
    kept = {node.outputs: node for node in best.graph.nodes if node.outputs in was}
    entries: list[tuple[tuple[int, int, int], Node | None, Node | None]] = []
    for place, node in enumerate(origin.graph.nodes):
        entries.append(((place, 0, 0), node, kept.get(node.outputs)))
    last = -1
    for order, node in enumerate(best.graph.nodes):
        if node.outputs in was:
            last = max(last, was[node.outputs])
        else:
            entries.append(((last, 1, order), None, node))
    entries.sort(key=lambda entry: entry[0])
    rows, before, after = [], {}, {}
    for index, (_, old, new) in enumerate(entries):
        if old is not None:
            before[old] = index
        if new is not None:
            after[new] = index
        left = None if old is None else _side(old, origin.assignment[old])
        right = None if new is None else _side(new, choices[new])
        rows.append(Row(_status(old, new, left, right), left, right))
    return Comparison(tuple(rows), before, after)


def _status(old: Node | None, new: Node | None, left: Side | None, right: Side | None) -> Status:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if old.spec != new.spec:
        return "rewritten"
    assert left is not None
    assert right is not None
    return "same" if left.algorithm == right.algorithm else "algorithm"


def _side(node: Node, choice: Choice) -> Side:
    cost = choice.cost
    runs = cost.time_s > 0
    return Side(
        node.name or node.op.name,
        describe(node),
        ", ".join(shape(value) for value in node.outputs),
        choice.algorithm.name if runs else "view",
        cost.time_s,
        cost.time_source if runs else "",
        cost.energy_j,
        (cost.energy_source or "") if runs else "",
        cost.spread if runs and cost.time_source == "measured" else None,
    )


def describe(node: Node) -> str:
    """Operator and epilogue, e.g. ``conv2d + bias + relu``."""
    return " + ".join([node.op.name.removeprefix("opaque."), *map(str, node.epilogue)])


def shape(value: Value) -> str:
    """A tensor's shape, e.g. ``1×64×56×56``, with its dtype where that is not float32."""
    size = "×".join(map(str, value.type.shape)) or "scalar"
    return size if value.type.dtype == "float32" else f"{size} {value.type.dtype}"
