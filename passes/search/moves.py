"""Substitutions of a graph as differences, found again only near what a substitution changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from joulec.passes.graph import Concat, Graph, Node, Split, Value
from joulec.passes.rules import Rule, substitutions

REACH = 3
"""How many steps from a changed node a match may notice it. A match reads its anchor's neighbours and theirs, and
canonicalisation reads the neighbours of what a match wrote; nodes are neighbours when they touch a common value, and
a chain of concats and splits counts as no step."""


@dataclass(frozen=True, slots=True)
class Move:
    """One substitution with all that it brings about, canonicalisation included.

    Attributes:
        rule: the rule's name.
        removed: nodes that go.
        added: nodes that come.
        replaced: outputs of the graph that others take the place of.
        key_shift: what is added to the graph's key (modulo 2^128).
    """

    rule: str
    removed: tuple[Node, ...]
    added: tuple[Node, ...]
    replaced: Mapping[Value, Value]
    key_shift: int

    def applied(self, graph: Graph) -> Graph:
        """The graph after the move."""
        outputs = tuple(self.replaced.get(value, value) for value in graph.outputs)
        return graph.patched(self.removed, self.added, outputs)


Moves = Mapping[Node, tuple[Move, ...]]
"""The moves anchored at each node that has any."""


@dataclass
class MoveFinder:
    """Finds the moves of graphs; equal surroundings give equal moves, which are computed once.

    Attributes:
        rules: the substitutions.
        tidy: canonicalises a rewritten graph.
    """

    rules: tuple[Rule, ...]
    tidy: Callable[[Graph], Graph]

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...], int, tuple[Value, ...]], Move] = {}

    def all(self, graph: Graph) -> Moves:
        """The moves of a graph, from nothing."""
        return self._at(graph, graph.nodes)

    def after(self, graph: Graph, move: Move, before: Moves) -> Moves:
        """The moves of the graph that a move led to, given those of the graph that it came from."""
        touched = surroundings(graph, _touched_values(graph, move), REACH)
        gone = set(move.removed)
        kept = {anchor: moves for anchor, moves in before.items() if anchor not in touched and anchor not in gone}
        kept.update(self._at(graph, [node for node in graph.nodes if node in touched]))
        return kept

    def _at(self, graph: Graph, anchors: Iterable[Node]) -> dict[Node, tuple[Move, ...]]:
        found: dict[Node, list[Move]] = {}
        for rule, match in substitutions(graph, self.rules, anchors):
            zone = surroundings(graph, {value for node in match.nodes for value in _values(node)}, REACH)
            key = (rule.name, tuple(n.key for n in match.nodes), sum(n.key for n in zone), graph.outputs)
            if key not in self._known:
                self._known[key] = difference(rule.name, graph, self.tidy(graph.apply(rule.rewrite(graph, match))))
            found.setdefault(match.nodes[0], []).append(self._known[key])
        return {anchor: tuple(moves) for anchor, moves in found.items()}


def difference(rule: str, before: Graph, after: Graph) -> Move:
    """What leads from one graph to another."""
    old, new = set(before.nodes), set(after.nodes)
    return Move(
        rule,
        tuple(node for node in before.nodes if node not in new),
        tuple(node for node in after.nodes if node not in old),
        {old: new for old, new in zip(before.outputs, after.outputs, strict=True) if old != new},
        after.key - before.key,
    )


def surroundings(graph: Graph, values: Iterable[Value], reach: int) -> set[Node]:
    """The nodes within so many steps of those that touch the values; joints (concat, split) are passed for free."""
    found: set[Node] = set()
    seen: set[Value] = set()
    frontier = set(values)
    for _ in range(reach):
        following: set[Value] = set()
        while frontier:
            joints: set[Value] = set()
            for value in frontier - seen:
                seen.add(value)
                for node in _touching(graph, value):
                    if node not in found:
                        found.add(node)
                        (joints if isinstance(node.op, (Concat, Split)) else following).update(_values(node))
            frontier = joints
        frontier = following
    return found


def _touched_values(graph: Graph, move: Move) -> set[Value]:
    nodes = (*move.removed, *move.added)
    return {value for node in nodes for value in _values(node) if value in graph.consumers or value in graph.producers}


def _values(node: Node) -> tuple[Value, ...]:
    return (*node.inputs, *node.outputs)


def _touching(graph: Graph, value: Value) -> Iterable[Node]:
    producer = graph.producers.get(value)
    consumers = graph.consumers.get(value, ())
    return consumers if producer is None else (producer, *consumers)
