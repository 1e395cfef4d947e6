"""Substitution terminates, and different orders meet in one graph."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import Step
from joulec.passes.rules import CONVERGENT, Match, find, substitutions
from joulec.passes.rules.text import show

RELU, BIAS = Step("activation", "relu"), Step("bias")
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
KERNELS = (1, 3, 5)


def branched(b, count, epilogue=(BIAS, RELU)):
    """Parallel convolutions of several kernel sizes that a zero frame unites, all with one result size."""
    x = b.input("x", 1, 2, 5, 5)
    return [
        b.conv(f"c{i}", x, i + 1, (k, k), epilogue, padding=(k // 2,) * 4)
        for i, k in zip(range(count), KERNELS * count, strict=False)
    ]


def join(graph, rules, first, second):
    """Merge the nodes that compute two values."""
    for rule, match in substitutions(graph, rules):
        computed = [reach(graph, node) for node in match.nodes]
        if any(first in one and second in two for one, two in (computed, computed[::-1])):
            return graph.apply(rule.rewrite(graph, match))
    raise AssertionError("no such pair")


def reach(graph, node):
    """Values that a node computes or hands out through splits, by name."""
    names = {value.name for value in node.outputs}
    for value in node.outputs:
        for reader in graph.consumers.get(value, ()):
            if reader.op.name == "split":
                names |= {part.name for part in reader.outputs}
    return names


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_all_orders_of_merging_meet(tools, order):
    b = tools.Builder()
    graph = b.graph(*branched(b, 4))
    ends = []
    for sequence in (order, range(4)):
        merged = graph
        for index in sequence[1:] if not isinstance(sequence, range) else range(1, 4):
            merged = join(merged, CONVERGENT, f"c{sequence[0]}", f"c{index}")
        ends.append(merged)
    assert ends[0].key == ends[1].key
    assert show(ends[0]).count("split(") == 1
    assert show(ends[0]).count("conv2d") == 1


def test_merging_two_pairs_first_meets_merging_one_by_one(tools):
    b = tools.Builder()
    graph = b.graph(*branched(b, 4))
    pairs = join(join(join(graph, CONVERGENT, "c0", "c1"), CONVERGENT, "c2", "c3"), CONVERGENT, "c1", "c2")
    single = join(join(join(graph, CONVERGENT, "c3", "c0"), CONVERGENT, "c0", "c2"), CONVERGENT, "c2", "c1")
    assert pairs.key == single.key


def test_names_of_the_model_survive_whatever_the_order(tools):
    b = tools.Builder()
    one, two = branched(b, 2)
    stranger = b.relu("s", b.inputs[0])
    p, q = b.split("p q", b.concat("k", one, two, stranger), 3, 2)
    graph = b.graph(b.relu("r", p), b.relu("t", q), two)
    ends = {tools.exhaust(graph, CONVERGENT, seed=seed).key: seed for seed in range(12)}
    assert len(ends) == 1
    assert "p = conv2d" in show(tools.exhaust(graph, CONVERGENT))


@EXAMPLES
@given(data=st.data())
def test_random_orders_end_in_one_graph(tools, data):
    """Merges, flattening and cancelling in any order; each branch is read by at most one concat, as in real models."""
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 5)))
    values = branched(b, draw(st.integers(2, 5)))
    stranger = b.relu("s", b.inputs[0])
    pool = draw(st.permutations(values))
    outputs = []
    while pool and len(outputs) < 2:
        taken, pool = pool[: draw(st.integers(1, len(pool)))], pool[len(pool) :] if draw(st.booleans()) else pool[1:]
        pool = [value for value in pool if value not in taken]
        if draw(st.booleans()):
            taken.insert(draw(st.integers(0, len(taken))), stranger)
        level = b.concat(f"k{len(outputs)}", *taken)
        outputs.append(b.concat(f"o{len(outputs)}", level, stranger) if draw(st.booleans()) else level)
    outputs += [value for value in values if draw(st.integers(0, 2)) == 0]
    graph = b.graph(*(b.relu(f"r{i}", value) if i % 2 else value for i, value in enumerate(outputs)))
    ends = [tools.exhaust(graph, CONVERGENT, seed=seed) for seed in range(4)]
    for end in ends:
        tools.assert_valid(end)
        tools.assert_equal(graph, end)
    shown = [show(end) for end in ends]
    assert len({end.key for end in ends}) == 1, "\n\n".join([show(graph), *shown])


@EXAMPLES
@given(data=st.data())
def test_no_sequence_of_substitutions_is_endless(tools, data):
    """Concats that contradict each other, splits of concats of splits: it always ends, in an equal graph."""
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 5)))
    values = branched(b, draw(st.integers(2, 4)), ())
    for count in range(draw(st.integers(1, 4))):
        chosen = [draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 3)))]
        cat = b.concat(f"k{count}", *chosen)
        values.append(cat)
        if draw(st.booleans()):
            sizes = [operand.type.shape[1] for operand in chosen]
            results = b.split(" ".join(f"p{count}_{i}" for i in range(len(sizes))), cat, *sizes)
            values += results if isinstance(results, tuple) else [results]
    graph = b.graph(*draw(st.lists(st.sampled_from(values), min_size=1, max_size=4)), values[-1])
    for seed in range(2):
        end = tools.exhaust(graph, CONVERGENT, seed=seed)
        tools.assert_valid(end)
        tools.assert_equal(graph, end)


def test_matches_come_in_one_order_and_each_pair_once(tools):
    b = tools.Builder()
    graph = b.graph(*branched(b, 5))
    found = [(rule.name, match.nodes) for rule, match in substitutions(graph, CONVERGENT)]
    assert found == [(rule.name, match.nodes) for rule, match in substitutions(graph, CONVERGENT)]
    assert len({frozenset(nodes) for _, nodes in found}) == len(found) == 5 * 4 // 2
    again = b.graph(*graph.outputs)
    assert [match.nodes for _, match in substitutions(again, CONVERGENT)] == [nodes for _, nodes in found]


def test_matching_may_be_confined_to_anchors(tools):
    b = tools.Builder()
    graph = b.graph(*branched(b, 3))
    everywhere = [found for _, found in find(graph, CONVERGENT)]
    piecewise = [found for node in graph.nodes for _, found in find(graph, CONVERGENT, (node,))]
    assert everywhere == piecewise
    assert any(isinstance(found, Match) for found in everywhere)
