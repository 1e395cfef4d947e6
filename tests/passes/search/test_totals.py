"""Totals of a graph: the memory that it needs at once."""

from __future__ import annotations

import random

from joulec.passes.graph import Activation, Concat, Graph, Node, Reshape, TensorType, Value
from joulec.passes.search.totals import peak_memory_bytes

VECTOR = TensorType((8,))
X = Value.input("x", VECTOR)


class TestPeakMemory:
    """Most bytes alive at once."""

    def brute(self, graph):
        """By looking at every moment: a tensor lives from its producer to its last reader, through its views."""
        owner = {}
        for node in graph.nodes:
            if node.op.is_view:
                owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])

        def root(value):
            return owner.get(value, value)

        last = {root(value): len(graph.nodes) for value in graph.outputs}
        for index, node in enumerate(graph.nodes):
            for value in node.inputs:
                last[root(value)] = max(last.get(root(value), 0), index)
        peak = sum(value.type.bytes for value in graph.inputs)
        for moment in range(len(graph.nodes)):
            alive = [v for v in graph.inputs if last.get(v, len(graph.nodes)) >= moment]
            for index, node in enumerate(graph.nodes[: moment + 1]):
                fresh = (value for value in node.outputs if value not in owner)
                alive += [value for value in fresh if index == moment or last.get(value, -1) >= moment]
            peak = max(peak, sum(value.type.bytes for value in alive))
        return peak

    def test_of_random_graphs(self, toy):
        for seed in range(40):
            graph = toy.random_graph(random.Random(seed), 9)
            assert peak_memory_bytes(graph) == self.brute(graph)

    def test_views_share_their_operands_memory(self):
        double = Node.make(Activation("relu"), (X,))
        view = Node.make(Reshape((2, 4)), double.outputs)
        last = Node.make(Activation("tanh"), view.outputs)
        graph = Graph.build([X], last.outputs, [double, view, last])
        assert peak_memory_bytes(graph) == self.brute(graph) == 2 * VECTOR.bytes
        kept = Graph.build([X], [view.outputs[0], last.outputs[0]], [double, view, last])
        assert peak_memory_bytes(kept) == self.brute(kept) == 2 * VECTOR.bytes

    def test_what_lies_in_a_concat_has_no_memory_of_its_own(self):
        one, two = (Node.make(Activation(kind), (X,)) for kind in ("relu", "tanh"))
        copied = Node.make(Concat(0), (one.outputs[0], two.outputs[0]))
        shared = Node.make(Concat(0, (True, True)), (one.outputs[0], two.outputs[0]))
        partly = Node.make(Concat(0, (False, True)), (one.outputs[0], two.outputs[0]))
        peaks = [
            peak_memory_bytes(Graph.build([X], both.outputs, [one, two, both])) for both in (copied, shared, partly)
        ]
        assert peaks == [4 * VECTOR.bytes, 3 * VECTOR.bytes, 4 * VECTOR.bytes]
