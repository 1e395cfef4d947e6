"""Outer search: Algorithm 1 of the first paper, made precise, on a toy world that can be searched by brute force."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Activation, Add, Concat, Conv2d, Graph, Node, Split, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules import CONVERGENT
from joulec.passes.search.choices import CostingError
from joulec.passes.search.objective import ObjectiveError, as_objective
from joulec.passes.search.outer import OuterSearch, SearchOptions
from joulec.passes.search.totals import Bounds, GraphFigures

OBJECTIVES = ["time", "energy", "0.3*energy + 0.7*time", "power", "energy*time", "energy**0.3*time**0.7"]
EVERYTHING = {"alpha": 1e6, "budget": 10**6}
"""Options under which every graph is seen."""


def few_kernels(totals, origin):
    return totals.kernels / origin.kernels + totals.energy_j / origin.energy_j


def run(graph, rules, costs, objective, bounds=None, **options):
    search = OuterSearch(rules, costs, as_objective(objective, bounds), SearchOptions(**options))
    return search.run(graph)


def counts(statistics):
    names = ("expanded", "generated", "duplicates", "inadmissible")
    return {name: getattr(statistics, name) for name in names}


def fingerprint(result):
    statistics = {name: value for name, value in vars(result.statistics).items() if name != "seconds"}
    best = result.best
    picks = [choice.algorithm.name for choice in best.choices]
    return best.graph.key, picks, best.totals, best.optimal, [rule for rule, _ in best.applied], statistics


@pytest.fixture(scope="module")
def world(toy):
    """A random graph, rules and costs; costs are whole numbers with few ties, so that sums are exact."""

    def make(seed, size=7, lame=False):
        rng = random.Random(seed)

        def points():
            return [(rng.randint(1, 10**6), rng.randint(1, 10**6)) for _ in range(rng.randint(1, 3))]

        table = {kind: points() for kind in (*toy.KINDS, "add")}
        if lame:
            del table["sigmoid"]
        rules = (
            toy.Exchange("relu", "tanh"),
            toy.Exchange("tanh", "exp"),
            toy.Shorten("relu", "tanh", "sqrt"),
            toy.Shorten("exp", "relu", "sigmoid"),
            toy.Vanish("sqrt"),
        )
        return toy.random_graph(rng, size), rules, toy.FakeCosts(table)

    return make


class TestAlgorithm1:
    """The same graphs in the same order as a plain implementation that builds and solves every graph."""

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize(
        ("alpha", "budget"), [(1.0, 10**6), (1.05, 10**6), (1.3, 10**6), (1.3, 1), (1.3, 4), (1.05, 0)]
    )
    def test_expands_what_it_should(self, toy, world, objective, alpha, budget):
        for seed in range(6):
            graph, rules, costs = world(seed, lame=seed % 2 == 1)
            plain = toy.algorithm1(
                graph, rules, world(seed, lame=seed % 2 == 1)[2], as_objective(objective), alpha, budget
            )
            found = run(graph, rules, costs, objective, alpha=alpha, budget=budget)
            assert counts(found.statistics) == {name: getattr(plain, name) for name in counts(found.statistics)}
            assert found.best.graph.key in plain.seen
            value = as_objective(objective).value(found.best.totals, plain.origin)
            assert float(value) == pytest.approx(plain.best[1], rel=1e-12)

    def test_budget_counts_expansions(self, world):
        graph, rules, costs = world(1)
        for budget in (0, 1, 2, 5):
            found = run(graph, rules, costs, "energy", alpha=1e6, budget=budget)
            assert found.statistics.expanded == budget
            assert not found.statistics.exhausted
        assert run(graph, rules, costs, "energy", alpha=1e6, budget=10**6).statistics.exhausted

    def test_an_improvement_is_kept_at_alpha_one(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 5)], "tanh": [(4, 4)], "exp": [(3, 3)], "sqrt": [(9, 9)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"), toy.Exchange("exp", "sqrt"))
        found = run(toy.chain("relu", "relu"), rules, costs, "time", alpha=1.0)
        assert found.best.totals.time_s == 6
        assert found.substitutions == (("relu-to-tanh", 2), ("tanh-to-exp", 2))

    def test_alpha_lets_a_detour_through(self, toy):
        costs = toy.FakeCosts({"relu": [(100, 1)], "tanh": [(104, 1)], "exp": [(50, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        graph = toy.chain("relu")
        assert run(graph, rules, costs, "time", alpha=1.03).best.totals.time_s == 100
        assert run(graph, rules, costs, "time", alpha=1.05).best.totals.time_s == 50

    def test_a_graph_at_alpha_exactly_is_not_kept(self, toy):
        costs = toy.FakeCosts({"relu": [(4, 1)], "tanh": [(5, 1)], "exp": [(1, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        assert run(toy.chain("relu"), rules, costs, "time_s", alpha=1.25).best.totals.time_s == 4
        assert run(toy.chain("relu"), rules, costs, "time_s", alpha=1.26).best.totals.time_s == 1

    @pytest.mark.parametrize("objective", ["energy_j - 20*time_s", "-power", "-time"])
    def test_negative_costs_are_searched_too(self, toy, objective):
        costs = toy.FakeCosts({"relu": [(2, 5)], "tanh": [(3, 5)], "exp": [(4, 9)], "sqrt": [(1, 8)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"), toy.Exchange("exp", "sqrt"))
        graph = toy.chain("relu", "relu")
        wide = toy.algorithm1(graph, rules, costs, as_objective(objective), alpha=-1e9)
        found = run(graph, rules, costs, objective, alpha=3.0)
        value = as_objective(objective).value(found.best.totals, wide.origin)
        assert float(value) == pytest.approx(wide.best[1])

    def test_the_way_to_the_best_is_told(self, toy, world):
        for seed in range(6):
            graph, rules, costs = world(seed)
            best = run(graph, rules, costs, "energy", **EVERYTHING).best
            here = graph
            by_name = {rule.name: rule for rule in rules}
            for name, after in best.applied:
                rule = by_name[name]
                steps = {
                    here.apply(rule.rewrite(here, match)).key
                    for node in here.nodes
                    if isinstance(node.op, rule.anchor)
                    for match in rule.matches(here, node)
                }
                assert after.key in steps
                here = after
            assert here.key == best.graph.key


class TestOptimality:
    """With a wide alpha the best of all graphs and all assignments is found."""

    @pytest.mark.parametrize(
        "objective", [*OBJECTIVES, "kernels + energy", few_kernels, "peak_memory_bytes*time"], ids=str
    )
    def test_global_optimum(self, toy, world, objective):
        for seed in range(5):
            graph, rules, costs = world(seed, size=6)
            chosen = as_objective(objective)
            wide = toy.algorithm1(graph, rules, costs, chosen, alpha=1e9)
            graphs = self.reachable(graph, rules)
            assert set(graphs) == wide.seen
            best = min(
                toy.brute_force([costs.options(n.spec) for n in g.nodes], GraphFigures.of(g), chosen, wide.origin)
                for g in graphs.values()
            )
            found = run(graph, rules, costs, objective, **EVERYTHING)
            assert float(chosen.value(found.best.totals, wide.origin)) == pytest.approx(best[1], rel=1e-9)
            assert found.statistics.generated - found.statistics.duplicates + 1 == len(graphs)
            assert found.statistics.exhausted

    @staticmethod
    def reachable(graph, rules):
        """Every graph that rewriting reaches, breadth first."""
        found = {graph.key: graph}
        frontier = [graph]
        while frontier:
            following = []
            for state, rule in itertools.product(frontier, rules):
                for node in state.nodes:
                    for match in rule.matches(state, node) if isinstance(node.op, rule.anchor) else ():
                        new = state.apply(rule.rewrite(state, match))
                        if new.key not in found:
                            found[new.key] = new
                            following.append(new)
            frontier = following
        return found

    def test_never_worse_than_the_original(self, world):
        for seed in range(8):
            graph, rules, costs = world(seed)
            for objective in OBJECTIVES:
                found = run(graph, rules, costs, objective)
                value = as_objective(objective).value(found.best.totals, found.origin.totals)
                assert float(value) <= 1.0 + 1e-12

    def test_the_best_plan_adds_up(self, world):
        for seed in range(5):
            graph, rules, costs = world(seed)
            best = run(graph, rules, costs, "energy*time").best
            assert len(best.choices) == len(best.graph.nodes)
            assert best.totals.time_s == sum(choice.time_s for choice in best.choices)
            assert best.totals.energy_j == sum(choice.energy_j for choice in best.choices)
            assert best.totals.kernels == len(best.graph.nodes)
            assert best.assignment == dict(zip(best.graph.nodes, best.choices, strict=True))


class TestCosting:
    """What is asked of the cost source."""

    def test_unchanged_operators_are_asked_for_once(self, toy):
        table = {"relu": [(5, 1)], "tanh": [(4, 1)], "exp": [(3, 1)], "erf": [(7, 1)]}
        costs = toy.FakeCosts(table)
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        graph = toy.chain("erf", "relu", "relu", "relu")
        run(graph, rules, costs, "time", **EVERYTHING)
        asked = [{costs.kind(spec) for spec in specs} for specs in costs.prepared]
        assert asked[0] == {"erf", "relu"}
        assert all("erf" not in kinds for kinds in asked[1:])

    def test_one_request_for_an_expansion(self, world):
        graph, rules, costs = world(1)
        found = run(graph, rules, costs, "energy", **EVERYTHING)
        assert len(costs.prepared) <= 1 + found.statistics.expanded

    def test_duplicates_are_dropped_before_costing(self, toy):
        """Two orders of the same two substitutions meet; with a function as objective each graph is solved once."""
        calls = []

        def counted(totals, origin):
            calls.append(totals)
            return totals.time_s

        costs = toy.FakeCosts({"relu": [(5, 1)], "tanh": [(4, 1)]})
        found = run(toy.chain(*["relu"] * 4), (toy.Exchange("relu", "tanh"),), costs, counted, **EVERYTHING)
        assert found.statistics.generated == 4 * 2**3
        assert found.statistics.duplicates == 4 * 2**3 - (2**4 - 1)
        distinct = 2**4
        assert len(calls) <= 2 * distinct + 16, "some of the best may be solved again, none of the duplicates"

    def test_graphs_that_cannot_be_computed_are_counted_and_not_expanded(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)], "exp": [(1, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        found = run(toy.chain("relu"), rules, costs, "time", **EVERYTHING)
        assert found.statistics.inadmissible == 1
        assert found.best.totals.time_s == 5

    def test_an_original_that_cannot_be_computed_is_refused(self, toy):
        with pytest.raises(CostingError, match="tanh"):
            run(toy.chain("tanh"), (), toy.FakeCosts({}), "time")

    @pytest.mark.parametrize("objective", ["time", "0.3*energy + 0.7*time", "energy*time", "time**2"])
    @pytest.mark.parametrize("bounds", [None, Bounds(max_time_s=2.2e6), Bounds(max_energy_j=2.5e6)], ids=str)
    def test_lower_bounds_never_change_the_result(self, toy, world, objective, bounds):
        pruned = 0
        for seed, alpha in itertools.product(range(6), (1.0, 1.05, 1.5)):
            graph, rules, costs = world(seed)
            bounded = toy.FakeCosts(costs.table)
            for kind, points in costs.table.items():
                share = random.Random(f"{seed}{kind}").choice((0.5, 0.9, 1.0))
                bounded.bound[kind] = tuple(share * min(axis) for axis in zip(*points, strict=True))
            free = run(graph, rules, costs, objective, bounds, alpha=alpha, budget=10**6)
            cut = run(graph, rules, bounded, objective, bounds, alpha=alpha, budget=10**6)
            assert cut.best.graph.key == free.best.graph.key
            assert cut.best.totals == free.best.totals
            assert free.statistics.pruned == 0 or bounds is None
            pruned += cut.statistics.pruned
        assert bounds is not None or pruned > 0, "the test must prune something"

    def test_pruned_graphs_are_not_costed(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)], "tanh": [(99, 1)]}, bound={"relu": (5, 0), "tanh": (50, 0)})
        found = run(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "time")
        assert found.statistics.pruned == 1
        assert [{costs.kind(spec) for spec in specs} for specs in costs.prepared if specs] == [{"relu"}]

    def test_power_is_never_pruned(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 5)], "tanh": [(50, 6)]}, bound={"tanh": (50, 6)})
        found = run(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "power")
        assert found.statistics.pruned == 0
        assert found.best.totals.power_w == 6 / 50


class TestModes:
    """How much is searched."""

    def test_without_any_search_the_original_comes_back(self, world):
        for seed in range(4):
            graph, rules, costs = world(seed)
            for objective in OBJECTIVES:
                found = run(graph, rules, costs, objective, budget=0, inner="none")
                assert found.best.graph is graph
                assert found.best.choices == found.origin.choices
                assert found.best.totals == found.origin.totals
                assert found.best.applied == ()
                assert found.substitutions == ()

    def test_the_origin_is_the_fastest_assignment_of_the_graph_given(self, world):
        graph, rules, costs = world(2)
        origin = run(graph, rules, costs, "energy").origin
        for node, choice in zip(graph.nodes, origin.choices, strict=True):
            assert choice.time_s == costs.options(node.spec).times.min()

    def test_inner_search_alone(self, world):
        graph, rules, costs = world(2)
        found = run(graph, rules, costs, "energy", budget=0)
        assert found.best.graph is graph
        for node, choice in zip(graph.nodes, found.best.choices, strict=True):
            assert choice.energy_j == costs.options(node.spec).energies.min()

    @pytest.mark.parametrize("objective", ["energy", "power", few_kernels], ids=str)
    def test_outer_search_alone_keeps_the_fastest_algorithms(self, toy, world, objective):
        for seed in range(4):
            graph, rules, costs = world(seed)
            found = run(graph, rules, costs, objective, inner="none", **EVERYTHING)
            for node, choice in zip(found.best.graph.nodes, found.best.choices, strict=True):
                assert choice.time_s == costs.options(node.spec).times.min()
            plain = toy.algorithm1(graph, rules, costs, as_objective(objective), alpha=1e9, inner="none")
            value = as_objective(objective).value(found.best.totals, plain.origin)
            assert float(value) == pytest.approx(plain.best[1])

    def test_neighbourhood_of_full_distance_finds_what_exact_does(self, world):
        for seed in range(3):
            graph, rules, costs = world(seed, size=4)
            for objective in ("power", "energy*time"):
                exact = run(graph, rules, costs, objective, **EVERYTHING)
                found = run(graph, rules, costs, objective, inner="neighbourhood", distance=9, **EVERYTHING)
                assert float(found.best.totals.power_w) == pytest.approx(float(exact.best.totals.power_w))


class TestTime:
    """The time limit, by a clock of the test's own."""

    class Clock:
        """Moves on by a step at each reading."""

        def __init__(self, step):
            self.now, self.step = 100.0, step

        def __call__(self):
            self.now += self.step
            return self.now

    def test_the_best_so_far_comes_back(self, world):
        graph, rules, costs = world(3)
        whole = run(graph, rules, costs, "energy", **EVERYTHING)
        options = SearchOptions(alpha=1e6, budget=10**6, time_limit_s=2.5)
        cut = OuterSearch(rules, costs, as_objective("energy"), options, clock=self.Clock(1.0)).run(graph)
        assert cut.statistics.cut
        assert not cut.statistics.exhausted
        assert 0 < cut.statistics.expanded < whole.statistics.expanded
        assert whole.best.totals.energy_j <= cut.best.totals.energy_j <= cut.origin.totals.energy_j
        assert cut.statistics.seconds > 2.5

    def test_no_time_is_enough_for_the_original(self, world):
        graph, rules, costs = world(3)
        options = SearchOptions(time_limit_s=0.0)
        found = OuterSearch(rules, costs, as_objective("energy"), options, clock=self.Clock(1.0)).run(graph)
        assert found.statistics.cut
        assert found.statistics.expanded == 0
        assert found.best.graph is graph

    def test_enough_time_cuts_nothing(self, world):
        graph, rules, costs = world(3)
        found = run(graph, rules, costs, "energy", time_limit_s=1e9, **EVERYTHING)
        assert not found.statistics.cut
        assert found.statistics.exhausted


class TestBounds:
    """Graphs that break a bound."""

    def test_are_ordered_by_excess_and_expanded(self, toy):
        """The way to the graph that keeps the bound leads through one that breaks it, less than the original does."""
        table = {"relu": [(10, 1)], "tanh": [(8, 5)], "exp": [(4, 9)]}
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        found = run(toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=5.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 4
        assert not run(toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=3.0)).met_bounds

    def test_the_nearest_point_comes_back_where_none_keeps_them(self, toy):
        table = {"relu": [(10, 1)], "tanh": [(8, 5)], "exp": [(9, 2)]}
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("relu", "exp"))
        found = run(toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=1.0))
        assert not found.met_bounds
        assert found.best.totals.time_s == 8

    def test_a_bound_on_power_is_met_by_taking_longer(self, toy):
        table = {"relu": [(1, 10), (20, 11)]}
        found = run(toy.chain("relu"), (), toy.FakeCosts(table), "energy", Bounds(max_power_w=1.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 20

    def test_a_bound_that_the_original_meets_exactly_is_met(self, toy):
        table = {"relu": [(3, 10), (4, 9)]}
        found = run(toy.chain("relu"), (), toy.FakeCosts(table), "energy", Bounds(max_time_s=3.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 3


class TestDeterminism:
    """Two runs give the same graph, picks and statistics."""

    @pytest.mark.parametrize("objective", [*OBJECTIVES, "0.5*power + 0.5*energy", few_kernels], ids=str)
    def test_two_runs_agree(self, world, objective):
        for seed in range(3):
            one, two = (run(*world(seed), objective, budget=12) for _ in range(2))
            assert fingerprint(one) == fingerprint(two)

    def test_ties_do_not_depend_on_chance(self, toy):
        """Every assignment and every order of rewriting costs the same."""
        table = {kind: [(2, 2), (2, 2)] for kind in toy.KINDS}
        rules = tuple(toy.Exchange(a, b) for a, b in itertools.permutations(toy.KINDS[:3], 2))
        graph = toy.chain("relu", "tanh", "exp")
        prints = [fingerprint(run(graph, rules, toy.FakeCosts(table), "energy", budget=9)) for _ in range(2)]
        assert prints[0] == prints[1]
        assert prints[0][0] == graph.key, "what is no better does not replace the original"

    def test_one_search_can_be_run_twice(self, world):
        graph, rules, costs = world(0)
        search = OuterSearch(rules, costs, as_objective("energy"), SearchOptions(budget=5))
        assert fingerprint(search.run(graph)) == fingerprint(search.run(graph))

    def test_progress_is_told_after_every_expansion(self, world):
        graph, rules, costs = world(3)
        told = []
        search = OuterSearch(
            rules,
            costs,
            as_objective("energy"),
            SearchOptions(**EVERYTHING),
            on_progress=lambda statistics, value: told.append((statistics.expanded, value)),
        )
        found = search.run(graph)
        assert [expanded for expanded, _ in told] == list(range(1, found.statistics.expanded + 1))
        values = [value for _, value in told]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(found.best.totals.energy_j / found.origin.totals.energy_j)


class TestObjectivesWithoutValue:
    """Energies that are not known, and objectives that have no value."""

    def test_time_needs_no_energies(self, toy):
        costs = toy.FakeCosts({"relu": [(5, None), (4, None)], "tanh": [(3, None)]})
        found = run(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "time")
        assert found.best.totals.time_s == 3
        assert math.isnan(found.best.totals.energy_j)

    @pytest.mark.parametrize("objective", ["energy", "power", "energy*time", "0.5*power + time"])
    def test_energy_does(self, toy, objective):
        costs = toy.FakeCosts({"relu": [(5, None)]})
        with pytest.raises(CostingError, match="energ"):
            run(toy.chain("relu"), (), costs, objective)

    def test_what_has_no_value_for_the_original_is_refused(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)]})
        for objective in ("(time - 2)**0.5", lambda totals, origin: math.nan):
            with pytest.raises(ObjectiveError, match="no value for the original"):
                run(toy.chain("relu"), (), costs, objective)

    def test_functions_may_divide_by_any_figure_of_the_original(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)]})

        def all_figures(totals, origin):
            names = ("flops", "bytes", "peak_memory_bytes", "kernels", "time_s", "energy_j", "power_w")
            return sum(getattr(totals, name) / getattr(origin, name) for name in names)

        found = run(toy.chain("relu"), (), costs, all_figures)
        assert found.best.totals == found.origin.totals

    @pytest.mark.parametrize("objective", [*OBJECTIVES, "0.5*power + 0.5*energy"])
    def test_a_graph_that_computes_nothing_is_fine(self, toy, objective):
        x = Value.input("x", toy.VECTOR)
        found = run(Graph.build([x], [x], []), (), toy.FakeCosts({}), objective)
        assert found.best.totals.time_s == 0
        assert found.best.choices == ()


class TestRealRules:
    """Moves found only near a change, against matching every graph anew."""

    RELU = Step("activation", "relu")

    class Formula:
        """Costs that a few integers of a spec decide."""

        def __init__(self, toy):
            self.toy, self.made, self.prepared = toy, {}, []

        def prepare(self, specs):
            for spec in specs:
                if spec not in self.made:
                    rng = random.Random(str(spec))
                    base = 1000 + spec.flops // 8 + spec.bytes // 4
                    points = [(base * rng.randint(80, 120), base * rng.randint(80, 120)) for _ in range(2)]
                    self.made[spec] = self.toy.choices(*points)

        def knows(self, spec):
            return spec in self.made

        def options(self, spec):
            return self.made[spec]

        def lower_bound(self, spec):
            return 0.0, 0.0

    @classmethod
    def network(cls, seed):
        """Two modules of parallel convolutions with concats and splits between; both ends are returned."""
        rng = random.Random(seed)
        weights = np.random.default_rng(seed)
        nodes = []

        def add(op, operands, epilogue=()):
            nodes.append(Node.make(op, tuple(operands), epilogue))
            return nodes[-1].outputs

        def conv(value, out, kernel):
            weight = literal(weights.standard_normal((out, value.type.shape[1], kernel, kernel)).astype("float32"))
            pad = kernel // 2
            steps = (cls.RELU,) if rng.random() < 0.7 else ()
            return add(Conv2d(padding=(pad,) * 4), (value, weight), steps)[0]

        x = value = Value.input("x", TensorType((1, 4, 5, 5)))
        outputs = []
        for _ in range(2):
            branches = [conv(value, rng.choice((2, 4)), rng.choice((1, 1, 3))) for _ in range(rng.randint(2, 3))]
            if rng.random() < 0.5:
                branches[0] = add(Activation("tanh"), branches[:1])[0]
            value = add(Concat(1), branches)[0]
            if rng.random() < 0.5:
                half = value.type.shape[1] // 2
                parts = add(Split(1, (half, value.type.shape[1] - half)), [value])
                outputs.append(parts[1])
                value = add(Concat(1), [parts[1], parts[0]])[0]
            outputs.append(value)
        return Graph.build([x], list(dict.fromkeys(outputs)), nodes)

    @staticmethod
    def tidy(graph):
        def fuses(spec, step):
            return isinstance(spec.op, (Conv2d, Add)) and step.kind == "activation" and not spec.epilogue

        return canonicalise(graph, fuses)

    @pytest.mark.parametrize("seed", range(8))
    def test_same_graphs(self, toy, seed):
        graph = self.tidy(self.network(seed))
        objective = as_objective("energy")
        plain = toy.algorithm1(graph, CONVERGENT, self.Formula(toy), objective, alpha=1.2, budget=60, tidy=self.tidy)
        options = SearchOptions(alpha=1.2, budget=60)
        found = OuterSearch(CONVERGENT, self.Formula(toy), objective, options, self.tidy).run(graph)
        assert counts(found.statistics) == {name: getattr(plain, name) for name in counts(found.statistics)}
        assert found.best.graph.key == plain.winner.key
        rng = np.random.default_rng(1)
        given = {"x": rng.standard_normal((1, 4, 5, 5)).astype("float32")}
        for one, two in zip(evaluate(found.best.graph, given), evaluate(graph, given), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)

    def test_some_of_these_graphs_are_rewritten(self, toy):
        applied = set()
        for seed in range(8):
            graph = self.tidy(self.network(seed))
            search = OuterSearch(CONVERGENT, self.Formula(toy), as_objective("energy"), SearchOptions(), self.tidy)
            applied.update(rule for rule, _ in search.run(graph).best.applied)
        assert len(applied) >= 2
