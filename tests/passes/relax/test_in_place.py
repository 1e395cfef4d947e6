"""Concats that their producers write in place, from the graph to the compiled module."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulec.passes.canonical import place
from joulec.passes.graph import (
    Activation,
    Add,
    Concat,
    Conv2d,
    Graph,
    MaxPool2d,
    Node,
    Reshape,
    Split,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules.common import ShareEqual
from joulec.passes.rules.rule import Match
from joulec.passes.search.choices import Choice

HEIGHT, WIDTH = 5, 7
RELU = Activation("relu")


def constant(*shape, seed=0):
    return literal(np.random.default_rng((seed, *shape)).standard_normal(shape).astype("float32"))


def conv(value, channels, size=1, seed=0):
    inner = value.type.shape[1]
    return Node.make(Conv2d(padding=(size // 2,) * 4), (value, constant(channels, inner, size, size, seed=seed)))


def concat(*values, axis=1):
    return Node.make(Concat(axis), values)


def image(channels=4, batch=1):
    return Value.input("x", TensorType((batch, channels, HEIGHT, WIDTH)))


def build(inputs, outputs, *nodes):
    return Graph.build(inputs, outputs, nodes)


def placed(tools, graph):
    return place(graph, tools.back_end().takes_parts)


def in_place(graph):
    """What each concat has in place, in the graph's order."""
    return [node.op.in_place for node in graph.nodes if isinstance(node.op, Concat)]


def assert_means(tools, graph, assignment):
    given = tools.given_for(graph.inputs)
    found = tools.run_module(tools.exported(graph, assignment), *given.values())
    for one, two in zip(found, evaluate(graph, given), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def calls(module):
    """The kernels that `main` calls."""
    text = module["main"].script()
    return text.count("R.call_tir(") + text.count("R.call_tir_inplace(")


class TestPlacing:
    def test_both_branches_write_into_the_result(self, tools):
        x = image()
        a, b = conv(x, 3), conv(x, 5, 3)
        both = concat(a.outputs[0], b.outputs[0])
        graph = placed(tools, build([x], both.outputs, a, b, both))
        assert in_place(graph) == [(True, True)]
        module = tools.exported(graph, tools.native(graph))
        assert calls(module) == 2
        assert_means(tools, graph, tools.native(graph))

    def test_nested_concats_lie_in_the_outermost(self, tools):
        x = image()
        a, b, c = conv(x, 3), conv(x, 5), conv(x, 2)
        inner = concat(a.outputs[0], b.outputs[0])
        reader = Node.make(RELU, inner.outputs)
        outer = concat(c.outputs[0], inner.outputs[0], reader.outputs[0])
        graph = placed(tools, build([x], outer.outputs, a, b, c, inner, reader, outer))
        assert sorted(in_place(graph)) == [(True, True), (True, True, True)]
        assert calls(tools.exported(graph, tools.native(graph))) == 4
        assert_means(tools, graph, tools.native(graph))

    def test_what_cannot_be_in_place_is_copied_beside_what_is(self, tools):
        x = image()
        a, b = conv(x, 3), conv(x, 5)
        twice = conv(x, 1)
        both = concat(x, a.outputs[0], twice.outputs[0], twice.outputs[0], b.outputs[0], constant(1, 2, HEIGHT, WIDTH))
        graph = placed(tools, build([x], [both.outputs[0], b.outputs[0]], a, b, twice, both))
        assert in_place(graph) == [(False, True, False, False, False, False)]
        for assign in (tools.native, tools.plain):
            assert_means(tools, graph, assign(graph))

    @pytest.mark.parametrize(
        ("batch", "axis", "wanted"), [(1, 1, True), (3, 1, False), (3, 0, True), (1, 2, False)], ids=str
    )
    def test_where_a_part_is_contiguous(self, tools, batch, axis, wanted):
        x = image(batch=batch)
        a, b = conv(x, 4), conv(x, 4, seed=1)
        both = concat(a.outputs[0], b.outputs[0], axis=axis)
        graph = placed(tools, build([x], both.outputs, a, b, both))
        assert in_place(graph) == [(True, True) if wanted else ()]
        assert_means(tools, graph, tools.native(graph))

    def test_parts_of_a_split_and_views_are_copied(self, tools):
        x = image()
        halves = Node.make(Split(1, (1, 3)), (x,))
        flat = Node.make(Reshape((1, 3, WIDTH, HEIGHT)), halves.outputs[1:])
        back = Node.make(Reshape((1, 3, HEIGHT, WIDTH)), flat.outputs)
        a = conv(x, 3)
        seen = Node.make(Reshape((1, 3, WIDTH, HEIGHT)), a.outputs)
        both = concat(halves.outputs[0], back.outputs[0], a.outputs[0])
        graph = placed(tools, build([x], [both.outputs[0], seen.outputs[0]], halves, flat, back, a, seen, both))
        assert in_place(graph) == [()]
        assert_means(tools, graph, tools.native(graph))

    def test_a_value_lies_in_one_concat_alone(self, tools):
        x = image()
        a, b, c = conv(x, 3), conv(x, 5), conv(x, 2)
        one, two = concat(a.outputs[0], b.outputs[0]), concat(a.outputs[0], c.outputs[0])
        graph = placed(tools, build([x], [one.outputs[0], two.outputs[0]], a, b, c, one, two))
        assert sorted(in_place(graph)) == [(False, True), (True, True)]
        assert_means(tools, graph, tools.native(graph))

    def test_placing_forgets_what_was_placed_before(self, tools):
        x = image()
        a, b = conv(x, 3), conv(x, 5)
        both = concat(a.outputs[0], b.outputs[0])
        whole = placed(tools, build([x], both.outputs, a, b, both))
        assert placed(tools, whole) is whole
        returned = Graph.build(whole.inputs, [*whole.outputs, a.outputs[0]], whole.nodes)
        assert in_place(placed(tools, returned)) == [(False, True)]

    def test_equal_concats_are_still_found_equal(self, tools):
        x = image()
        a, b = conv(x, 3), conv(x, 5)
        first, second = concat(a.outputs[0], b.outputs[0]), concat(a.outputs[0], b.outputs[0])
        second = Node(second.op, second.operands, (), (Value.input("other", second.outputs[0].type),))
        both = Node.make(Add(), (first.outputs[0], second.outputs[0]))
        graph = placed(tools, build([x], both.outputs, a, b, first, second, both))
        assert sorted(in_place(graph)) == [(), (True, True)]
        matches = [found for node in graph.nodes for found in ShareEqual().matches(graph, node)]
        assert [isinstance(found, Match) for found in matches] == [True]


@st.composite
def graphs(draw):
    """Convolutions, poolings, sums, splits and views between concats of whatever there is."""
    batch = draw(st.sampled_from([1, 1, 1, 3]))
    x = image(draw(st.sampled_from([1, 4])), batch)
    values, nodes = [x], []

    def pick():
        return values[-1 - draw(st.integers(0, min(len(values), 5) - 1))]

    def add(node):
        nodes.append(node)
        values.extend(node.outputs)

    for seed in range(draw(st.integers(3, 9))):
        kind = draw(st.sampled_from(["conv", "conv", "concat", "concat", "relu", "pool", "add", "split", "view"]))
        value = pick()
        channels = value.type.shape[1]
        if kind == "conv":
            add(conv(value, draw(st.sampled_from([1, 3, 16, 17])), draw(st.sampled_from([1, 3])), seed))
        elif kind == "concat" and channels < 64:
            add(concat(*[value, *(pick() for _ in range(draw(st.integers(1, 3))))]))
        elif kind == "relu":
            add(Node.make(RELU, (value,)))
        elif kind == "pool":
            add(Node.make(MaxPool2d((3, 3), padding=(1, 1, 1, 1)), (value,)))
        elif kind == "add":
            alike = [other for other in values if other.type == value.type]
            add(Node.make(Add(), (value, draw(st.sampled_from(alike))), (Step("activation", "relu"),)))
        elif kind == "split" and channels > 1:
            add(Node.make(Split(1, (1, channels - 1)), (value,)))
        elif kind == "view":
            turned = Node.make(Reshape((batch, channels, WIDTH, HEIGHT)), (value,))
            nodes.append(turned)
            add(Node.make(Reshape((batch, channels, HEIGHT, WIDTH)), turned.outputs))
    computed = [value for value in values if value != x] or [x]
    others = draw(st.lists(st.sampled_from(computed), max_size=2, unique=True))
    return Graph.build([x], dict.fromkeys([computed[-1], *others]), dict.fromkeys(nodes))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_any_graph_of_concats_means_the_same_under_any_assignment(tools, graph, picks):
    graph = placed(tools, graph)
    backend = tools.back_end()
    assignment = {}
    for node, pick in zip(graph.nodes, picks, strict=False):
        algorithms = backend.algorithms(node.spec)  # the last one is TVM's own mostly, which takes no parts
        chosen = algorithms[-1] if pick == 0 else algorithms[0]
        assignment[node] = Choice(chosen, tools.plain(graph)[node].cost)
    assert_means(tools, graph, assignment)
