"""The graph: nodes keyed by the values they produce, and rewrites of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from joulec.passes.graph.node import Node
from joulec.passes.graph.operators import Opaque
from joulec.passes.graph.values import Value

_MASK = (1 << 128) - 1


class GraphError(ValueError):
    """A graph that is not well formed: a value without producer, a cycle, a value produced twice."""


@dataclass(frozen=True)
class Rewrite:
    """One substitution in a graph.

    Attributes:
        remove: nodes that go.
        add: nodes that come.
        replace: values that every consumer (and the graph's outputs) read from now on in place of others.
    """

    remove: tuple[Node, ...] = ()
    add: tuple[Node, ...] = ()
    replace: Mapping[Value, Value] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable dataflow graph.

    Attributes:
        inputs: values that the caller supplies, in the model's order.
        outputs: values that the caller receives; their names stand in ``output_names``.
        producers: the node that computes each value (a node with two results stands here twice).
        effects: impure nodes in the order in which they must run.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    producers: Mapping[Value, Node]
    effects: tuple[Node, ...] = ()

    @staticmethod
    def build(
        inputs: Iterable[Value], outputs: Iterable[Value], nodes: Iterable[Node], output_names: Iterable[str] = ()
    ) -> Graph:
        """Build a graph from nodes in any order; nodes that no output needs are left out.

        Raises:
            GraphError: a value has no producer or two, or the nodes form a cycle.
        """
        inputs = tuple(inputs)
        producers: dict[Value, Node] = {}
        effects = []
        for node in nodes:
            if isinstance(node.op, Opaque) and not node.op.pure:
                effects.append(node)
            for value in node.outputs:
                if value in inputs or producers.get(value, node) != node:
                    raise GraphError(f"value {_label(value)} is produced twice")
                producers[value] = node
        outputs = tuple(outputs)
        names = tuple(output_names) or tuple(value.name or f"output{i}" for i, value in enumerate(outputs))
        graph = Graph(inputs, outputs, names, producers, tuple(effects))
        live = {value: node for node in graph.nodes for value in node.outputs}
        return replace(graph, producers=live)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in a topological order that depends on nothing but the graph."""
        order: list[Node] = []
        state: dict[Node, bool] = {}
        known = set(self.inputs)
        roots = [*self.effects, *(self.producers[value] for value in self.outputs if value in self.producers)]
        for value in self.outputs:
            if value not in self.producers and value not in known:
                raise GraphError(f"output {_label(value)} has no producer")
        for root in roots:
            stack: list[tuple[Node, Iterator[Value]]] = []
            if root not in state:
                state[root] = False
                stack.append((root, iter(root.inputs)))
            while stack:
                node, pending = stack[-1]
                for value in pending:
                    producer = self.producers.get(value)
                    if producer is None:
                        if value not in known:
                            raise GraphError(f"{node.name or node.op} reads a value that nothing produces")
                        continue
                    finished = state.get(producer)
                    if finished is False:
                        raise GraphError(f"the graph has a cycle through {producer.name or producer.op}")
                    if finished is None:
                        state[producer] = False
                        stack.append((producer, iter(producer.inputs)))
                        break
                else:
                    stack.pop()
                    state[node] = True
                    order.append(node)
        if len(self.effects) > 1:
            place = {node: index for index, node in enumerate(order)}
            if any(place[first] > place[second] for first, second in pairwise(self.effects)):
                raise GraphError("a node with an effect depends on one that must run after it")
        return tuple(order)

    @cached_property
    def consumers(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, each once, in topological order."""
        table: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                table.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in table.items()}

    @cached_property
    def key(self) -> int:
        """128-bit structural hash; it does not depend on the order in which nodes were added."""
        total = sum(node.key for node in set(self.producers.values()) | set(self.effects))
        for index, value in enumerate(self.outputs):
            total += value.key * (2 * index + 3)
        return total & _MASK

    def sole_consumer(self, value: Value) -> Node | None:
        """The one node that reads the value, or None if several do, none does, or the graph returns it."""
        readers = self.consumers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def patched(
        self, removed: Iterable[Node], added: Iterable[Node], outputs: tuple[Value, ...] | None = None
    ) -> Graph:
        """The graph with nodes exchanged for others; the caller vouches that the result is whole and live."""
        producers = dict(self.producers)
        gone = set(removed)
        for node in gone:
            for value in node.outputs:
                producers.pop(value, None)
        fresh = tuple(added)
        for node in fresh:
            for value in node.outputs:
                producers[value] = node
        effects = self.effects
        if any(effect in gone for effect in effects):
            renewed = {node.outputs: node for node in fresh}
            effects = tuple(renewed.get(effect.outputs, effect) if effect in gone else effect for effect in effects)
        return replace(self, producers=producers, effects=effects, outputs=self.outputs if outputs is None else outputs)

    def apply(self, rewrite: Rewrite) -> Graph:
        """The graph after a rewrite, without what it left unused.

        Raises:
            GraphError: the rewrite leaves a value without producer, makes a cycle or changes the order of effects.
        """
        producers = dict(self.producers)
        effects = list(self.effects)
        for node in rewrite.remove:
            for value in node.outputs:
                producers.pop(value, None)
        for node in rewrite.add:
            for value in node.outputs:
                producers[value] = node
        outputs = self.outputs
        if rewrite.replace:
            targets = rewrite.replace
            outputs = tuple(_resolve(value, targets) for value in outputs)
            for node in dict.fromkeys(producers.values()):
                if any(value in targets for value in node.inputs):
                    renewed = replace_operands(node, targets)
                    for value in node.outputs:
                        producers[value] = renewed
                    effects = [renewed if effect == node else effect for effect in effects]
        graph = Graph(self.inputs, outputs, self.output_names, producers, tuple(effects))
        nodes = graph.nodes
        live = {value: node for node in nodes for value in node.outputs}
        if len(live) != len(producers):
            graph = replace(graph, producers=live)
            graph.__dict__["nodes"] = nodes
        return graph


def _label(value: Value) -> str:
    return value.name or f"{value.key:x}"


def _resolve(value: Value, targets: Mapping[Value, Value]) -> Value:
    while value in targets:
        value = targets[value]
    return value


def replace_operands(node: Node, targets: Mapping[Value, Value]) -> Node:
    """The node reading other values; what it computes keeps its identity."""
    operands = tuple(_resolve(operand, targets) if isinstance(operand, Value) else operand for operand in node.operands)
    return Node(node.op, operands, node.epilogue, node.outputs, node.name)
