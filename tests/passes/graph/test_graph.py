"""Graphs: order, liveness, keys, effects, and rewrites."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import (
    Activation,
    Add,
    Conv2d,
    Graph,
    GraphError,
    Node,
    Opaque,
    OperatorError,
    Reshape,
    Rewrite,
    Split,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate

VECTOR = TensorType((4,))
X = Value.input("x", VECTOR)
RELU, TANH, EXP = (Activation(kind) for kind in ("relu", "tanh", "exp"))


def effect(tag: str, *operands: Value, results: int = 1) -> Node:
    """An impure node; its results are its own."""
    types = tuple(operand.type for operand in operands)
    op = Opaque("tick", "relax", tag.encode(), types, (VECTOR,) * results, pure=False)
    return Node.make(op, operands, name=tag)


def chain(*ops, source: Value = X) -> list[Node]:
    """Nodes that feed one another."""
    nodes = []
    for op in ops:
        nodes.append(Node.make(op, (source,)))
        source = nodes[-1].outputs[0]
    return nodes


def test_nodes_stand_in_topological_order_whatever_the_order_given():
    nodes = chain(RELU, TANH, EXP)
    for seed in range(6):
        shuffled = list(nodes)
        random.Random(seed).shuffle(shuffled)
        assert Graph.build([X], [nodes[-1].outputs[0]], shuffled).nodes == tuple(nodes)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_key_and_order_do_not_depend_on_insertion_order(seed):
    rng = random.Random(seed)
    values, nodes = [X], []
    for _ in range(rng.randint(1, 10)):
        if rng.random() < 0.5:
            node = Node.make(rng.choice([RELU, TANH, EXP]), (rng.choice(values),))
        else:
            node = Node.make(Add(), (rng.choice(values), rng.choice(values)))
        nodes.append(node)
        values.append(node.outputs[0])
    outputs = [rng.choice(values[1:]), values[-1]]
    graph = Graph.build([X], outputs, nodes)
    rng.shuffle(nodes)
    other = Graph.build([X], outputs, nodes)
    assert (graph.key, graph.nodes) == (other.key, other.nodes)
    seen = {X}
    for node in graph.nodes:
        assert seen.issuperset(node.inputs)
        seen.update(node.outputs)


def test_key_tells_outputs_and_their_order_apart():
    first, second = Node.make(RELU, (X,)), Node.make(TANH, (X,))
    a, b = first.outputs[0], second.outputs[0]
    keys = {Graph.build([X], outputs, [first, second]).key for outputs in ([a, b], [b, a], [a, a, b], [a, b, b])}
    assert len(keys) == 4


def test_two_equal_computations_are_one_node():
    graph = Graph.build([X], [Node.make(RELU, (X,)).outputs[0]], [Node.make(RELU, (X,)), Node.make(RELU, (X,))])
    assert len(graph.nodes) == 1


def test_names_are_no_part_of_identity():
    assert Node.make(RELU, (X,), name="a") == Node.make(RELU, (X,), name="b")


def test_dead_nodes_are_left_out_when_building():
    used, unused = chain(RELU, TANH)
    graph = Graph.build([X], [used.outputs[0]], [used, unused])
    assert graph.nodes == (used,)
    assert list(graph.producers) == [used.outputs[0]]


def test_an_output_may_be_an_input_and_stand_twice():
    graph = Graph.build([X], [X, X], [])
    assert graph.nodes == ()
    assert graph.output_names == ("x", "x")


def test_long_chains_need_no_recursion():
    nodes = chain(*[RELU, TANH] * 3000)
    assert len(Graph.build([X], [nodes[-1].outputs[0]], nodes).nodes) == 6000


def test_a_value_without_producer_is_refused():
    ghost = Value.input("ghost", VECTOR)
    with pytest.raises(GraphError, match="nothing produces"):
        Graph.build([X], [Node.make(RELU, (ghost,)).outputs[0]], [Node.make(RELU, (ghost,))])
    with pytest.raises(GraphError, match="no producer"):
        Graph.build([X], [ghost], [])


def test_a_value_produced_twice_is_refused():
    target = Value(7, VECTOR, "t")
    twice = [Node.make(op, (X,), outputs=(target,)) for op in (RELU, TANH)]
    with pytest.raises(GraphError, match="t is produced twice"):
        Graph.build([X], [target], twice)
    with pytest.raises(GraphError, match="x is produced twice"):
        Graph.build([X], [X], [Node.make(RELU, (X,), outputs=(X,))])


def test_a_cycle_is_refused():
    a, b = Value(1, VECTOR), Value(2, VECTOR)
    nodes = [Node.make(RELU, (a,), outputs=(b,)), Node.make(TANH, (b,), outputs=(a,))]
    with pytest.raises(GraphError, match="cycle"):
        Graph.build([X], [a], nodes)


def test_consumers_count_a_reader_once_and_outputs_are_no_readers():
    first, second = chain(RELU, TANH)
    double = Node.make(Add(), (second.outputs[0], second.outputs[0]))
    graph = Graph.build([X], [double.outputs[0], first.outputs[0]], [first, second, double])
    assert graph.consumers[second.outputs[0]] == (double,)
    assert graph.sole_consumer(second.outputs[0]) == double
    assert graph.sole_consumer(first.outputs[0]) is None, "the graph returns it"
    assert graph.sole_consumer(double.outputs[0]) is None


class TestApply:
    """`Graph.apply`."""

    def test_replaces_a_computation_and_keeps_the_value(self):
        first, second = chain(RELU, TANH)
        graph = Graph.build([X], [second.outputs[0]], [first, second])
        clipped = Node.make(Activation("clip", (0.0, 3.0)), (X,), outputs=first.outputs)
        changed = graph.apply(Rewrite((first,), (clipped,)))
        assert changed.nodes == (clipped, second)
        assert changed.key != graph.key
        assert changed.apply(Rewrite((clipped,), (first,))).key == graph.key

    def test_removes_what_nothing_reads_any_more(self):
        first, second, third = chain(RELU, TANH, EXP)
        graph = Graph.build([X], [third.outputs[0]], [first, second, third])
        short = Node.make(RELU, (X,), outputs=third.outputs)
        changed = graph.apply(Rewrite((third,), (short,)))
        assert changed.nodes == (short,)
        assert set(changed.producers) == {short.outputs[0]}
        assert changed.key == Graph.build([X], [third.outputs[0]], [short]).key

    def test_replace_redirects_readers_and_outputs_through_chains(self):
        first, second, third = chain(RELU, RELU, TANH)
        a, b = first.outputs[0], second.outputs[0]
        graph = Graph.build([X], [third.outputs[0], b], [first, second, third])
        changed = graph.apply(Rewrite((first, second), (), {b: a, a: X}))
        assert changed.outputs == (third.outputs[0], X)
        assert [node.op for node in changed.nodes] == [TANH]
        assert changed.nodes[0].outputs == third.outputs
        np.testing.assert_equal(evaluate(changed, {"x": np.ones(4, "f")})[0], np.tanh(np.ones(4, "f")))

    def test_an_unproduced_value_is_refused(self):
        first, second = chain(RELU, TANH)
        graph = Graph.build([X], [second.outputs[0]], [first, second])
        with pytest.raises(GraphError, match="nothing produces"):
            graph.apply(Rewrite((first,)))

    def test_a_cycle_is_refused(self):
        first, second, third = chain(RELU, TANH, EXP)
        graph = Graph.build([X], [third.outputs[0]], [first, second, third])
        looped = Node.make(RELU, (second.outputs[0],), outputs=first.outputs)
        with pytest.raises(GraphError, match="cycle"):
            graph.apply(Rewrite((first,), (looped,)))

    def test_the_original_is_untouched(self):
        first, second = chain(RELU, TANH)
        graph = Graph.build([X], [second.outputs[0]], [first, second])
        key, nodes = graph.key, graph.nodes
        graph.apply(Rewrite((second,), (Node.make(EXP, first.outputs, outputs=second.outputs),)))
        assert (graph.key, graph.nodes) == (key, nodes)


class TestEffects:
    """Impure nodes."""

    def test_stay_though_nothing_reads_them_and_keep_their_order(self):
        head = Node.make(RELU, (X,))
        one, two = effect("one", X), effect("two", head.outputs[0])
        for nodes in ([head, one, two], [one, head, two]):
            graph = Graph.build([X], [head.outputs[0]], nodes)
            assert [node for node in graph.nodes if node in (one, two)] == [one, two]

    def test_run_in_the_order_given_even_where_outputs_would_reverse_it(self):
        one, two = effect("one", X), effect("two", X)
        graph = Graph.build([X], [two.outputs[0], one.outputs[0]], [one, two])
        assert graph.nodes == (one, two)

    def test_an_order_that_dependencies_contradict_is_refused(self):
        two = effect("two", X)
        one = effect("one", two.outputs[0])
        with pytest.raises(GraphError, match="must run after"):
            Graph.build([X], [X], [one, two])

    def test_a_rewrite_redirects_them_and_keeps_their_order(self):
        head, same = chain(RELU, RELU)
        one, two = effect("one", same.outputs[0]), effect("two", X)
        graph = Graph.build([X], [same.outputs[0]], [head, same, one, two])
        changed = graph.apply(Rewrite((same,), (), {same.outputs[0]: head.outputs[0]}))
        assert [node.name for node in changed.effects] == ["one", "two"]
        assert changed.effects[0].inputs == head.outputs
        assert changed.effects[0].outputs == one.outputs
        assert [node.name for node in changed.nodes if node in changed.effects] == ["one", "two"]

    def test_dead_code_beside_an_effect_without_results_is_removed(self):
        first, second = chain(RELU, TANH)
        silent = effect("silent", X, results=0)
        graph = Graph.build([X], [second.outputs[0]], [first, second, silent])
        direct = Node.make(EXP, (X,), outputs=second.outputs)
        changed = graph.apply(Rewrite((second,), (direct,)))
        assert set(changed.nodes) == {silent, direct}
        assert set(changed.producers.values()) == {direct}
        assert changed.key == Graph.build([X], [second.outputs[0]], [silent, direct]).key


class TestNodes:
    """Nodes and their specs."""

    def test_outputs_of_another_type_are_refused(self):
        with pytest.raises(OperatorError, match="computes"):
            Node.make(RELU, (X,), outputs=(Value(1, TensorType((5,))),))

    def test_epilogue_operands_follow_the_anchors(self):
        data = Value.input("d", TensorType((1, 2, 4, 4)))
        kernel, bias = literal(np.ones((3, 2, 1, 1), "f")), literal(np.ones(3, "f"))
        residual = Value.input("r", TensorType((1, 3, 4, 4)))
        steps = (Step("bias"), Step("add"), Step("activation", "relu"))
        node = Node.make(Conv2d(), (data, kernel, bias, residual), steps)
        assert node.anchor_operands == (data, kernel)
        assert node.epilogue_operands == (bias, residual)
        assert node.inputs == (data, residual)
        assert node.spec.anchor_operands == node.spec.operands[:2]
        assert [operand.constant for operand in node.spec.operands] == [False, True, True, False]
        assert node.spec.flops == 2 * 48 * 2 + 3 * 48
        assert node.spec.bytes == 4 * (32 + 6 + 3 + 48 + 48)

    def test_specs_ignore_identity_but_not_constness(self):
        y = Value.input("y", VECTOR)
        constant = literal(np.ones(4, "f"))
        assert Node.make(Add(), (X, y)).spec == Node.make(Add(), (y, X)).spec
        assert Node.make(Add(), (X, y)).spec != Node.make(Add(), (X, constant)).spec
        assert Node.make(Split(0, (1, 3)), (X,)).spec != Node.make(Split(0, (2, 2)), (X,)).spec

    def test_a_pickled_spec_is_found_in_another_process(self):
        spec = Node.make(Reshape((2, 2)), (X,)).spec
        program = (
            "import pickle, sys\n"
            "from joulec.passes.graph import Node, Reshape, TensorType, Value\n"
            "made = Node.make(Reshape((2, 2)), (Value.input('x', TensorType((4,))),)).spec\n"
            "read = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
            "sys.exit(0 if {made: 1}.get(read) == 1 else 1)\n"
        )
        for seed in ("1", "2"):
            ran = subprocess.run(
                [sys.executable, "-c", program, pickle.dumps(spec).hex()],
                env={**os.environ, "PYTHONHASHSEED": seed},
                check=False,
            )
            assert ran.returncode == 0

    def test_graph_keys_are_equal_between_processes(self):
        program = (
            "from joulec.passes.graph import *\n"
            "x = Value.input('x', TensorType((4,)))\n"
            "n = Node.make(Activation('clip', (0.0, 6.0)), (x,))\n"
            "print(Graph.build([x], n.outputs, [n]).key)\n"
        )
        node = Node.make(Activation("clip", (0.0, 6.0)), (X,))
        here = Graph.build([X], node.outputs, [node]).key
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": "7"},
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
        assert int(ran.stdout) == here


def test_patched_exchanges_nodes_outputs_and_effects():
    first, second = chain(RELU, TANH)
    tick = effect("tick", first.outputs[0])
    graph = Graph.build([X], [second.outputs[0]], [first, second, tick])
    direct = Node.make(EXP, (X,), outputs=second.outputs)
    moved = Node(tick.op, (X,), (), tick.outputs, tick.name)
    patched = graph.patched((first, second, tick), (direct, moved))
    assert patched.effects == (moved,)
    assert patched.key == Graph.build([X], [second.outputs[0]], [direct, moved]).key
