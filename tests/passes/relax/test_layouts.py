"""Blocked activations between kernels: what graphs compute, what conversions cost, and how both are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulec.costdb.cost import Cost
from joulec.passes.canonical import place
from joulec.passes.graph import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Graph,
    MaxPool2d,
    Node,
    Reshape,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.layouts.costs import LayoutMeasuredCosts, LayoutRooflineCosts
from joulec.passes.layouts.layout import PLAIN, Relayout, relayout_spec
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions

RNG = np.random.default_rng(4)
BIAS, ADD, RELU = Step("bias"), Step("add"), Step("activation", "relu")


def constant(*shape):
    return literal((RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype("float32"))


def conv(data, filters, kernel, *added, **attributes):
    """A convolution with bias and ReLU, and what is added before that."""
    channels = data.type.shape[1]
    pad = kernel // 2
    operands = (data, constant(filters, channels, kernel, kernel), constant(filters), *added)
    steps = (BIAS, *([ADD] if added else []), RELU)
    return Node.make(Conv2d(padding=(pad,) * 4, **attributes), operands, steps)


def residual_network(batch=1):
    """A fire module, a residual block and a global mean, between row-major ends."""
    x = Value.input("x", TensorType((batch, 16, 12, 13)))
    squeeze = conv(x, 16, 1)
    small, large = conv(squeeze.outputs[0], 32, 1), conv(squeeze.outputs[0], 32, 3)
    joined = Node.make(Concat(1), (small.outputs[0], large.outputs[0]))
    pooled = Node.make(MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), joined.outputs)
    inner = conv(pooled.outputs[0], 32, 3)
    outer = conv(inner.outputs[0], 64, 1, pooled.outputs[0])
    total = Node.make(Add(), (outer.outputs[0], pooled.outputs[0]))
    mean = Node.make(AvgPool2d(total.outputs[0].type.shape[2:]), total.outputs)
    flat = Node.make(Reshape((batch, 64)), mean.outputs)
    nodes = [squeeze, small, large, joined, pooled, inner, outer, total, mean, flat]
    return Graph.build([x], [flat.outputs[0], inner.outputs[0]], nodes, ["means", "features"])


def assert_means(tools, graph, assignment):
    given_arrays = tools.given_for(graph.inputs)
    found = tools.run_module(tools.exported(graph, assignment), *given_arrays.values())
    for one, two in zip(found, evaluate(graph, given_arrays), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def picked(tools, graph, pick):
    """An algorithm for every node by a function of its index and its choices."""
    costs = LayoutRooflineCosts(tools.back_end(), lambda work, seconds: seconds)
    costs.prepare({node.spec for node in graph.nodes})
    return {node: pick(index, costs.options(node.spec).choices) for index, node in enumerate(graph.nodes)}


def placed(tools, graph):
    """With concats in place."""
    found = place(graph, tools.back_end().takes_parts)
    assert any(node.op.in_place for node in found.nodes if isinstance(node.op, Concat))
    return found


def blocked(choice):
    return bool(getattr(choice.algorithm, "reads", PLAIN) or getattr(choice.algorithm, "writes", PLAIN))


def conversions(tools, graph, assignment):
    """How many calls of conversions a function has."""
    text = tools.exported(graph, assignment)["main"].script()
    return sum("relayout" in line for line in text.splitlines())


def all_blocked(_, some):
    return next((one for one in some if blocked(one)), some[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_everything_blocked_means_the_same(tools, batch):
    graph = residual_network(batch)
    assignment = picked(tools, graph, all_blocked)
    assert sum(map(blocked, assignment.values())) == 9
    assert_means(tools, graph, assignment)
    assert conversions(tools, graph, assignment) == 2  # the input, and the second output


def test_concats_in_place_are_blocked_too(tools):
    graph = placed(tools, residual_network())
    assignment = picked(tools, graph, all_blocked)
    assert sum(map(blocked, assignment.values())) == 9
    assert_means(tools, graph, assignment)
    assert conversions(tools, graph, assignment) == 2


def test_what_a_concat_holds_in_another_layout_is_converted_on_its_way(tools):
    """The concat is row-major, its operands and its reader are blocked; and the other way round."""
    graph = placed(tools, residual_network())
    concat = next(index for index, node in enumerate(graph.nodes) if isinstance(node.op, Concat))
    for inner, outer in ((all_blocked, lambda _, some: some[0]), (lambda _, some: some[0], all_blocked)):
        assignment = picked(
            tools,
            graph,
            lambda index, some, inner=inner, outer=outer: (outer if index == concat else inner)(index, some),
        )
        assert_means(tools, graph, assignment)


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(picks=st.lists(st.integers(0, 100), min_size=10, max_size=10), how=st.sampled_from([1, 2, "in place"]))
def test_any_mixture_of_layouts_means_the_same(tools, picks, how):
    graph = placed(tools, residual_network()) if how == "in place" else residual_network(how)
    assert_means(tools, graph, picked(tools, graph, lambda index, some: some[picks[index] % len(some)]))


def nested_network():
    """A concat within a concat, part of which is an input."""
    x = Value.input("x", TensorType((1, 16, 9, 8)))
    first, second, third = (conv(x, filters, 1) for filters in (16, 32, 16))
    inner = Node.make(Concat(1), (first.outputs[0], second.outputs[0]))
    outer = Node.make(Concat(1), (inner.outputs[0], third.outputs[0], x))
    last = conv(outer.outputs[0], 16, 3)
    return Graph.build([x], last.outputs, [first, second, third, inner, outer, last])


def test_nested_concats_share_one_layout(tools):
    graph = placed(tools, nested_network())
    lanes = tools.TARGET.lanes
    costs = LayoutRooflineCosts(tools.back_end(), lambda work, seconds: seconds)
    costs.prepare({node.spec for node in graph.nodes})
    inner, outer = (node.spec for node in graph.nodes if isinstance(node.op, Concat))
    layouts = {
        spec: [getattr(choice.algorithm, "writes", PLAIN) for choice in costs.options(spec).choices]
        for spec in (inner, outer)
    }
    assert set(layouts[inner]) == {PLAIN, lanes}
    for one, writes in enumerate(layouts[inner]):
        for other, reads in enumerate(layouts[outer]):
            assert (costs.edge(inner, one, outer, 0, other) == (np.inf, np.inf)) == (writes != reads)
    for pick in (all_blocked, lambda _, some: some[0]):
        assert_means(tools, graph, picked(tools, graph, pick))


def test_keys_tell_layouts_apart(tools):
    backend = tools.back_end()
    spec = residual_network().nodes[1].spec
    algorithms = backend.algorithms(spec)
    keys = {backend.key(spec, one) for one in algorithms}
    lanes = tools.TARGET.lanes
    assert len(keys) == len(algorithms) == len({one.name for one in algorithms})
    plain, blocked = "NCHW", f"NCHW{lanes}c"
    assert {key.layouts for key in keys} == {"row-major", f"{plain} -> {blocked}", f"{blocked} -> {blocked}"}
    assert not any("reads" in key.parameters for key in keys)


class Store:
    """Costs by a rule; None is measured."""

    def __init__(self, price):
        self.price = price
        self.asked = []

    def get_many(self, keys):
        keys = list(keys)
        self.asked += keys
        return {key: Cost(self.price(key), 1.0, "measured", "estimated") for key in keys}


def searched(tools, price, objective="time", graph=None):
    graph = graph or residual_network()
    costs = LayoutMeasuredCosts(tools.back_end(), Store(price), "estimated", objective=as_objective(objective))
    return OuterSearch((), costs, as_objective(objective), SearchOptions(budget=0)).run(graph), costs


def price_with(conversion, blocked=1.0):
    """Seconds: of a conversion; of blocked and of row-major algorithms alike."""

    def price(key):
        if key.operator == "relayout":
            return conversion
        return blocked if key.layouts != "row-major" else 2.0

    return price


@pytest.mark.parametrize("objective", ["time", "0.5*time + 0.5*energy", "power", "energy*time"])
def test_layouts_follow_what_conversions_cost(tools, objective):
    cheap, _ = searched(tools, price_with(0.1), objective)
    dear, _ = searched(tools, price_with(100.0), objective)
    if objective == "time":
        laid = [choice.algorithm for choice in cheap.best.choices if choice.time_s > 0]
        assert all(one.reads or one.writes for one in laid)
        assert laid[0].reads == PLAIN  # as the input is given
        assert cheap.best.totals.time_s == pytest.approx(9 * 1.0 + 0.1)
    if objective != "power":
        mean = dear.best.choices[8].algorithm  # which reads blocks only where the sum before it writes them
        assert mean.reads == dear.best.choices[7].algorithm.writes
    for found in (cheap, dear):
        assert found.best.totals.energy_j >= len(found.best.choices) - 1
        assert_means(tools, found.best.graph, found.best.assignment)


def test_an_objective_that_rewards_slowness_keeps_all_choices(tools):
    _, costs = searched(tools, price_with(0.1), "power")
    spec = residual_network().nodes[0].spec
    assert len(costs.options(spec)) == len(tools.back_end().algorithms(spec))
    _, few = searched(tools, price_with(0.1))
    assert len(few.options(spec)) == 3


def test_edges_cost_nothing_where_nothing_is_blocked(tools):
    x = Value.input("x", TensorType((1, 6, 9, 9)))
    first = conv(x, 6, 3)
    second = conv(first.outputs[0], 6, 3)
    graph = Graph.build([x], second.outputs, [first, second])
    found, costs = searched(tools, price_with(1.0), graph=graph)
    options = [costs.options(node.spec) for node in graph.nodes]
    assert edge_tables(graph, options, costs) == ()
    assert found.best.optimal
    assert not any(key.operator == "relayout" for key in costs.store.asked)


def test_a_conversion_costs_its_share_of_the_next_power_of_two_of_blocks(tools):
    lanes = tools.TARGET.lanes
    x = Value.input("x", TensorType((1, lanes, 9, 9)))
    graph = Graph.build([x], (first := conv(x, 3 * lanes, 3)).outputs, [first])
    _, costs = searched(tools, price_with(0.1), graph=graph)
    blocked_index = next(i for i, one in enumerate(costs.options(first.spec).choices) if one.algorithm.writes)
    assert costs.exit(first.spec, 0, blocked_index) == pytest.approx((0.075, 0.75))
    shapes = {key.shapes for key in costs.store.asked if key.operator == "relayout"}
    assert any(f"1,{4 * lanes},9,9" in shape for shape in shapes)
    assert not any(f"1,{3 * lanes},9,9" in shape for shape in shapes)


def test_views_of_whole_blocks_stand_in_either_layout(tools):
    backend, lanes = tools.back_end(), tools.TARGET.lanes

    def layouts(axis, *channels):
        operands = tuple(Value.input(f"x{i}", TensorType((1, count, 4, 4))) for i, count in enumerate(channels))
        return backend.view_layouts(Node.make(Concat(axis, (True,) * len(channels)), operands).spec)

    assert layouts(1, lanes, 2 * lanes) == (PLAIN, lanes)
    assert layouts(1, lanes, lanes + 1) == layouts(2, lanes, lanes) == (PLAIN,)


def test_estimates_know_conversions_too(tools):
    lanes = tools.TARGET.lanes
    costs = LayoutRooflineCosts(tools.back_end(), lambda work, seconds: 2 * seconds)
    spec = relayout_spec(TensorType((1, lanes, 8, 8)), PLAIN, lanes)
    costs.prepare([spec])
    (choice,) = costs.options(spec).choices
    assert isinstance(spec.op, Relayout)
    assert choice.time_s == pytest.approx(spec.bytes / 1e12)
    assert choice.energy_j == 2 * choice.time_s
