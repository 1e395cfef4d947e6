"""Optimising a graph part by part: the parts are cut out, each is rewritten, and the results are joined.

Parts of equal structure take the same way, which is found once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from joulec.passes.graph import Graph, Node, NodeSpec, Value
from joulec.passes.graph.graph import replace_operands
from joulec.passes.rules import Rule
from joulec.passes.search.moves import Move, MoveFinder
from joulec.passes.search.partition import Part, cut

LARGE = 200
"""Nodes from which on a graph is cut; below, one search sees all of it."""
PART_NODES = 40
PASSES = 2
"""How often a graph is cut; each time elsewhere, so that substitutions across the last seams are found."""


@dataclass(frozen=True, slots=True)
class Step:
    """A substitution in words that hold for all parts of one structure.

    Attributes:
        index: its place among the moves of the graph of the part that was searched.
        rule: the rule's name.
        removed: how many nodes of each spec go.
        added: how many of each come.
    """

    index: int = field(compare=False)
    rule: str
    removed: frozenset[tuple[NodeSpec, int]]
    added: frozenset[tuple[NodeSpec, int]]

    @staticmethod
    def of(move: Move, index: int) -> Step:
        """A move's step."""
        removed, added = (Counter(node.spec for node in nodes) for nodes in (move.removed, move.added))
        return Step(index, move.rule, frozenset(removed.items()), frozenset(added.items()))


Way = tuple[Step, ...]


@dataclass(frozen=True)
class Joined:
    """A graph whose parts were rewritten.

    Attributes:
        graph: the whole.
        rules: the substitutions, in order.
        seams: the nodes with which its parts begin.
    """

    graph: Graph
    rules: tuple[str, ...]
    seams: tuple[Node, ...]


@dataclass
class Joiner:
    """Cuts graphs, lets their parts take their ways, and joins them.

    Attributes:
        rules: the substitutions.
        tidy: canonicalises a rewritten graph.
    """

    rules: tuple[Rule, ...]
    tidy: Callable[[Graph], Graph]

    def __post_init__(self) -> None:
        self._finder = MoveFinder(self.rules, self.tidy)

    def run(self, graph: Graph, way_of: Callable[[Part, bool], Way], seams: tuple[Node, ...] = ()) -> Joined:
        """Rewrite all parts of a graph.

        Args:
            way_of: the way of a part; asked again with True where the way that its structure had is not there, since
                the order among equals depends on the names of values, and what a rule does may depend on the contents
                of weights.
            seams: nodes before which no part shall begin.
        """
        nodes: list[Node] = []
        rules: list[str] = []
        starts: list[Node] = []
        renamed: dict[Value, Value] = {}
        for part in cut(graph, self.rules, PART_NODES, seams):
            way = way_of(part, False)
            result = self._follow(part.graph, way)
            if result is None:
                way = way_of(part, True)
                result = self._follow(part.graph, way)
            if result is None:
                result = part.graph
            else:
                rules += [step.rule for step in way]
            fresh = [replace_operands(node, renamed) for node in result.nodes]
            starts += fresh[:1]
            nodes += fresh
            pairs = zip(part.graph.outputs, result.outputs, strict=True)
            renamed.update({old: renamed.get(new, new) for old, new in pairs if old != new})
        outputs = [renamed.get(value, value) for value in graph.outputs]
        whole = self.tidy(Graph.build(graph.inputs, outputs, nodes, graph.output_names))  # parts do not see each other
        return Joined(whole, tuple(rules), tuple(starts))

    def way(self, graph: Graph, path: tuple[int, ...]) -> Way:
        """The way along a path: indices among the moves of each graph on it."""
        steps = []
        moves = self._finder.all(graph) if path else {}
        for index in path:
            move = [move for node in graph.nodes for move in moves.get(node, ())][index]
            steps.append(Step.of(move, index))
            following = move.applied(graph)
            moves = self._finder.after(following, move, moves)
            graph = following
        return tuple(steps)

    def _follow(self, graph: Graph, way: Way) -> Graph | None:
        """Take the same steps in a part of the same structure; None where one is not there."""
        moves = self._finder.all(graph) if way else {}
        for step in way:
            there = [move for node in graph.nodes for move in moves.get(node, ())]
            likely = there[step.index : step.index + 1]
            move = next((move for move in (*likely, *there) if Step.of(move, step.index) == step), None)
            if move is None:
                return None
            following = move.applied(graph)
            moves = self._finder.after(following, move, moves)
            graph = following
        return graph
