"""Costs from a store completed by a profiler, and from a roofline: what is asked, measured, skipped and kept."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest

from joulec.costdb.cost import Cost, Failure
from joulec.passes.graph import Activation, Add, Node, Opaque, Reshape, TensorType, Value
from joulec.passes.search.choices import CostingError
from joulec.passes.search.costing import MeasuredCosts, RooflineCosts
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds
from joulec.profiler.entrant import Point

from .measuring import CountingStore, Fake, FakeBackEnd, FakeProfiler, watts

VECTOR = TensorType((8,))
X = Value.input("x", VECTOR)
RELU, TANH, ADD = (
    Node.make(Activation("relu"), (X,)).spec,
    Node.make(Activation("tanh"), (X,)).spec,
    Node.make(Add(), (X, X)).spec,
)
VIEW = Node.make(Reshape((2, 4)), (X,)).spec
EFFECT = Node.make(Opaque("tick", "relax", b"tick", (VECTOR,), (VECTOR,), pure=False), (X,)).spec


@pytest.fixture
def make():
    """Costs over one store; each call starts a new source, as a new process would."""
    store = CountingStore()

    def costs(table, outcomes=None, objective=None, bounds=None, measure=True, **options):
        profiler = FakeProfiler(store, outcomes or {}, enough=options.pop("enough", None))
        chosen = None if objective is None else as_objective(objective, bounds)
        source = MeasuredCosts(FakeBackEnd(table), store, "estimated", profiler if measure else None, chosen, **options)
        return source, profiler

    costs.store = store
    return costs


class TestLookUps:
    """The store is asked once for each request, and not again."""

    TABLE: ClassVar = {str(RELU.op): (Fake("a"), Fake("b")), str(TANH.op): (Fake("c"),), str(ADD.op): (Fake("d"),)}
    OUTCOMES: ClassVar = {"a": (2.0, 1.0), "b": (1.0, 2.0), "c": (3.0, 3.0), "d": (4.0, 4.0)}

    def test_one_look_up_for_all_specs_of_a_request(self, make):
        costs, profiler = make(self.TABLE, self.OUTCOMES)
        costs.prepare({RELU, TANH})
        assert len(make.store.looked_up) == 1
        assert len(make.store.looked_up[0]) == 3
        assert sorted(profiler.measured) == ["a", "b", "c"]

    def test_known_specs_are_not_asked_for_again(self, make):
        costs, profiler = make(self.TABLE, self.OUTCOMES)
        costs.prepare({RELU})
        costs.prepare({RELU, ADD})
        costs.prepare([RELU, ADD, ADD])
        assert [sorted(key.algorithm for key in keys) for keys in make.store.looked_up] == [["a", "b"], ["d"]]
        assert profiler.asked == ["a", "b", "d"]
        assert all(map(costs.knows, (RELU, ADD)))
        assert not costs.knows(TANH)

    def test_a_second_run_measures_nothing(self, make):
        for expected in (4, 0):
            known = []
            costs, profiler = make(self.TABLE, self.OUTCOMES, on_known=lambda some, to=known: to.append(len(some)))
            costs.prepare({RELU, TANH, ADD})
            assert len(profiler.measured) == expected
            assert known == [4 - expected]
            assert [choice.algorithm.name for choice in costs.options(RELU).choices] == ["a", "b"]

    def test_order_of_algorithms_is_the_back_ends(self, make):
        costs, _ = make({str(RELU.op): (Fake("z"), Fake("a"), Fake("m"))}, dict.fromkeys("zam", (1.0, 1.0)))
        costs.prepare({RELU})
        assert [choice.algorithm.name for choice in costs.options(RELU).choices] == ["z", "a", "m"]

    def test_without_a_profiler_what_is_unknown_stays_so(self, make):
        costs, _ = make(self.TABLE, self.OUTCOMES)
        costs.prepare({RELU})
        costs, _ = make(self.TABLE, measure=False)
        costs.prepare({RELU, TANH})
        assert len(costs.options(RELU)) == 2
        assert len(costs.options(TANH)) == 0

    def test_what_the_profiler_skips_stays_unknown(self, make):
        costs, _ = make(self.TABLE, self.OUTCOMES, enough=1)
        costs.prepare({RELU, TANH})
        assert sum(len(costs.options(spec)) for spec in (RELU, TANH)) == 1


class TestFailures:
    """A candidate that failed has no cost, and is not tried again."""

    TABLE: ClassVar = {str(RELU.op): (Fake("bad"), Fake("good"))}
    OUTCOMES: ClassVar = {"bad": Failure("crash", "signal 11"), "good": (1.0, 1.0)}

    def test_are_kept_and_left_out(self, make):
        for expected in (["bad", "good"], []):
            costs, profiler = make(self.TABLE, self.OUTCOMES, "time")
            costs.prepare({RELU})
            assert profiler.measured == expected
            assert [choice.algorithm.name for choice in costs.options(RELU).choices] == ["good"]

    def test_an_operator_whose_every_algorithm_failed_cannot_be_priced(self, make):
        from joulec.passes.graph import Graph

        costs, _ = make({str(RELU.op): (Fake("bad"),)}, self.OUTCOMES)
        node = Node.make(RELU.op, (X,))
        graph = Graph.build([X], node.outputs, [node])
        with pytest.raises(CostingError, match="relu"):
            OuterSearch((), costs, as_objective("time"), SearchOptions()).run(graph)


class TestUnpriced:
    """What is neither measured nor looked up."""

    @pytest.mark.parametrize("spec", [VIEW, EFFECT], ids=["view", "effect"])
    def test_costs_nothing(self, make, spec):
        costs, profiler = make({str(spec.op): (Fake("a", 1.0),)})
        assert costs.lower_bound(spec) == (0.0, 0.0), "also before it was prepared"
        costs.prepare({spec})
        (choice,) = costs.options(spec).choices
        assert (choice.time_s, choice.energy_j) == (0.0, 0.0)
        assert not make.store.looked_up
        assert not profiler.asked
        free = RooflineCosts(FakeBackEnd({str(spec.op): (Fake("a", 1.0),)}), watts(1.0))
        free.prepare({spec})
        assert free.options(spec).times.tolist() == [0.0]
        assert free.lower_bound(spec) == (0.0, 0.0)


class TestSkipping:
    """A candidate is skipped where its roofline already loses and the objective never rewards that."""

    TABLE: ClassVar = {str(RELU.op): (Fake("quick", 0.5, 1.0), Fake("slow", 2.0, 50.0), Fake("maybe", 0.9, 50.0))}
    OUTCOMES: ClassVar = {"quick": (1.0, 3.0), "slow": (2.5, 60.0), "maybe": (1.2, 55.0)}

    def measured(self, make, objective, bounds=None, model=None, **options):
        costs, profiler = make(self.TABLE, self.OUTCOMES, objective, bounds, energy_model=model, **options)
        costs.prepare({RELU})
        return profiler.measured

    @pytest.mark.parametrize("objective", ["time", "2*time + 1", "time**2", "kernels*time"])
    def test_by_time_alone(self, make, objective):
        assert self.measured(make, objective) == ["quick", "maybe"]

    @pytest.mark.parametrize("objective", ["energy", "0.3*energy + 0.7*time", "energy*time"])
    def test_by_time_and_energy_where_that_is_a_model(self, make, objective):
        assert self.measured(make, objective, model=watts(1.0, 1.0)) == ["quick", "maybe"]

    def test_not_where_only_one_of_both_loses(self, make):
        """At one watt and little per operation, the slow one's roofline has less energy than the quick one took."""
        assert self.measured(make, "energy", model=watts(1.0)) == ["quick", "slow", "maybe"]

    @pytest.mark.parametrize("objective", ["energy", "energy*time"])
    def test_not_where_a_sensor_measures_energy(self, make, objective):
        assert self.measured(make, objective) == ["quick", "slow", "maybe"]

    @pytest.mark.parametrize(
        "objective",
        ["power", "power_w", "energy - time", "-time", "1/time", "0.5*power + 0.5*energy", lambda t, o: t.time_s],
    )
    def test_never_where_the_objective_may_reward_it(self, make, objective):
        assert self.measured(make, objective, model=watts(1.0, 1.0)) == ["quick", "slow", "maybe"]

    @pytest.mark.parametrize("objective", ["time", "energy"])
    def test_never_under_a_bound_on_power(self, make, objective):
        found = self.measured(make, objective, Bounds(max_power_w=2.0), watts(1.0, 1.0))
        assert found == ["quick", "slow", "maybe"]

    @pytest.mark.parametrize("bounds", [Bounds(max_time_s=1.0), Bounds(max_energy_j=1.0)], ids=str)
    def test_other_bounds_forbid_nothing(self, make, bounds):
        assert self.measured(make, "time", bounds, watts(1.0, 1.0)) == ["quick", "maybe"]

    def test_without_an_objective_everything_is_measured(self, make):
        assert self.measured(make, None) == ["quick", "slow", "maybe"]

    def test_a_failure_is_no_rival(self, make):
        costs, profiler = make(self.TABLE, {**self.OUTCOMES, "quick": Failure("run", "no")}, "time")
        costs.prepare({RELU})
        assert profiler.measured == ["quick", "slow", "maybe"]

    def test_rivals_from_the_store_count_before_anything_runs(self, make):
        costs, _ = make({str(RELU.op): self.TABLE[str(RELU.op)][:1]}, self.OUTCOMES, "time")
        costs.prepare({RELU})
        costs, profiler = make(self.TABLE, self.OUTCOMES, "time")
        costs.prepare({RELU})
        assert profiler.asked == ["maybe"]

    def test_what_was_skipped_is_skipped_again_though_never_stored(self, make):
        assert self.measured(make, "time") == ["quick", "maybe"]
        assert self.measured(make, "time") == []

    def test_another_objective_measures_what_the_first_skipped(self, make):
        assert self.measured(make, "time") == ["quick", "maybe"]
        assert self.measured(make, "power", model=watts(1.0, 1.0)) == ["slow"]

    def test_a_rival_of_another_operator_is_none(self, make):
        table = {**self.TABLE, str(TANH.op): (Fake("other", 2.0, 50.0),)}
        costs, profiler = make(table, {**self.OUTCOMES, "other": (3.0, 70.0)}, "time")
        costs.prepare({RELU, TANH})
        assert "other" in profiler.measured


class TestRivalry:
    """Who is certainly preferred to whom, given the most that the one and the least that the other costs."""

    TABLE: ClassVar = {str(RELU.op): (Fake("first", 0.1, 1.0), Fake("second", 0.1, 1.0))}
    BOTH: ClassVar = (Point(1.0, 4.0), Point(1.5, 5.0))
    SLOWER: ClassVar = (Point(1.0, 4.0), Point(1.5, 3.0))

    def profiled(self, make, objective, bounds=None, model=None):
        outcomes = {"first": (1.0, 4.0), "second": (9.0, 9.0)}
        costs, profiler = make(self.TABLE, outcomes, objective, bounds, energy_model=model)
        costs.prepare({RELU})
        return profiler

    def test_costs_of_the_same_operator_are_rivals(self, make):
        assert self.profiled(make, "time").rivals == {"first": [], "second": [1.0]}

    @pytest.mark.parametrize("objective", ["time", "time**2"])
    def test_by_time(self, make, objective):
        judge = self.profiled(make, objective).judge
        assert judge(*self.BOTH)
        assert judge(*self.SLOWER)
        assert not judge(Point(1.0, 4.0), Point(1.0, 9.0))

    @pytest.mark.parametrize("objective", ["energy", "0.3*energy + 0.7*time", "energy*time"])
    @pytest.mark.parametrize("model", [None, watts(1.0, 1.0)], ids=["sensor", "estimate"])
    def test_by_time_and_energy(self, make, objective, model):
        judge = self.profiled(make, objective, model=model).judge
        assert judge(*self.BOTH)
        assert not judge(*self.SLOWER)
        assert not judge(Point(1.0, math.inf), Point(9.0, 9.0)), "joules that are not known yet beat nobody"

    @pytest.mark.parametrize(("objective", "bounds"), [("power", None), ("time", Bounds(max_power_w=1.0))])
    def test_nobody_judges_where_being_worse_may_be_rewarded(self, make, objective, bounds):
        assert self.profiled(make, objective, bounds, watts(1.0, 1.0)).judge is None


class TestLeft:
    """Candidates that an earlier search has left before they were measured to the full."""

    TABLE: ClassVar = {str(RELU.op): (Fake("quick", flops=2.0), Fake("left"))}

    def again(self, make, cost, objective, model=None):
        """What a search measures that finds the candidate as another has left it."""
        costs, _ = make(self.TABLE, {"quick": Cost(1.0, 3.0, "measured", "nvml"), "left": cost}, "time")
        costs.prepare({RELU})
        costs, profiler = make(self.TABLE, {"quick": (1.0, 3.0), "left": (4.0, 2.0)}, objective, energy_model=model)
        costs.prepare({RELU})
        return profiler.measured

    HOPELESS: ClassVar = Cost(4.0, None, "measured", None, math.inf, 1)
    BOUNDED: ClassVar = Cost(4.0, None, "measured", "nvml", math.inf, 1)
    BEHIND: ClassVar = Cost(1.2, None, "measured", None, 0.05, 5)

    @pytest.mark.parametrize("left", [HOPELESS, BOUNDED, BEHIND], ids=["hopeless", "bounded", "behind"])
    def test_are_not_measured_again_under_the_objective_that_left_them(self, make, left):
        assert self.again(make, left, "time") == []

    @pytest.mark.parametrize("left", [HOPELESS, BEHIND], ids=["hopeless", "behind"])
    def test_are_measured_where_energy_counts_that_was_not_looked_at(self, make, left):
        assert self.again(make, left, "energy") == ["left"]

    def test_are_not_where_energy_is_known_to_be_too_much(self, make):
        assert self.again(make, self.BOUNDED, "energy") == []

    @pytest.mark.parametrize("left", [HOPELESS, BOUNDED, BEHIND], ids=["hopeless", "bounded", "behind"])
    def test_are_measured_where_the_objective_may_reward_them(self, make, left):
        assert self.again(make, left, "power") == ["left"]

    def test_an_estimate_is_bounded_by_half_of_the_time_seen(self, make):
        left = Cost(4.0, 8.0, "measured", "estimated", math.inf, 1)
        assert self.again(make, left, "energy", watts(4.0, 1.0)) == []
        assert self.again(make, left, "energy", watts(1.0, 1.0)) == ["left"]


class TestEnergies:
    """Costs without energy."""

    TABLE: ClassVar = {str(RELU.op): (Fake("known"), Fake("unknown"))}
    OUTCOMES: ClassVar = {"known": (2.0, 1.0), "unknown": (1.0, None)}

    @pytest.mark.parametrize("objective", ["energy", "power", "energy*time"])
    def test_are_no_choices_where_energy_counts(self, make, objective):
        costs, _ = make(self.TABLE, self.OUTCOMES, objective)
        costs.prepare({RELU})
        assert [choice.algorithm.name for choice in costs.options(RELU).choices] == ["known"]

    def test_are_choices_elsewhere(self, make):
        costs, _ = make(self.TABLE, self.OUTCOMES, "time")
        costs.prepare({RELU})
        assert costs.options(RELU).cheapest(1.0, 0.0) == 1
        assert costs.lower_bound(RELU)[0] == 1.0


class TestLowerBounds:
    """Below what no algorithm of a spec can fall."""

    TABLE: ClassVar = {str(RELU.op): (Fake("a", 0.5, 4.0), Fake("b", 0.8, 2.0))}

    def test_roofline_before_and_the_minimum_after(self, make):
        costs, profiler = make(self.TABLE, {"a": (3.0, 9.0), "b": (2.0, 11.0)}, energy_model=watts(10.0, 1.0))
        assert costs.lower_bound(RELU) == (0.5, 9.0)
        assert not profiler.asked
        assert not make.store.looked_up
        costs.prepare({RELU})
        assert costs.lower_bound(RELU) == (2.0, 9.0)

    def test_no_energy_is_promised_where_a_sensor_has_to_tell(self, make):
        costs, _ = make(self.TABLE)
        assert costs.lower_bound(RELU) == (0.5, 0.0)

    def test_a_spec_without_algorithms_promises_nothing(self, make):
        costs, _ = make({})
        assert costs.lower_bound(RELU) == (0.0, 0.0)
        costs.prepare({RELU})
        assert costs.lower_bound(RELU) == (0.0, 0.0)


class TestRoofline:
    """Everything priced by a roofline."""

    def test_estimates_say_so(self):
        costs = RooflineCosts(FakeBackEnd({str(RELU.op): (Fake("a", 0.5, 4.0), Fake("b", 0.25, 9.0))}), watts(2.0, 1.0))
        assert not costs.knows(RELU)
        costs.prepare([RELU])
        assert costs.knows(RELU)
        first, second = costs.options(RELU).choices
        assert (first.time_s, first.energy_j) == (0.5, 5.0)
        assert (second.time_s, second.energy_j) == (2.0, 13.0), (
            "what nobody scheduled is taken to be eight times slower"
        )
        assert {(c.cost.time_source, c.cost.energy_source) for c in (first, second)} == {("estimated", "estimated")}
        assert costs.lower_bound(RELU) == (0.5, 5.0)

    def test_what_nothing_computes_has_no_options(self):
        costs = RooflineCosts(FakeBackEnd({}), watts(1.0))
        costs.prepare({RELU})
        assert len(costs.options(RELU)) == 0
        assert costs.lower_bound(RELU) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("hurried", "order"),
    [
        (False, ["relu-1", "relu-2", "tanh-1", "tanh-2", "add-1"]),
        (True, ["relu-1", "tanh-1", "add-1", "relu-2", "tanh-2"]),
    ],
)
def test_the_most_valuable_is_measured_first(make, hurried, order):
    """Rivals one after another; where time is limited, each operator by one algorithm before any by a second."""
    table = {
        str(RELU.op): (Fake("relu-1", 1.0), Fake("relu-2", 9.0)),
        str(TANH.op): (Fake("tanh-1", 2.0), Fake("tanh-2", 2.0)),
        str(ADD.op): (Fake("add-1", 1.5),),
    }
    outcomes = dict.fromkeys(("relu-1", "relu-2", "tanh-1", "tanh-2", "add-1"), (10.0, 1.0))
    costs, profiler = make(table, outcomes, hurried=lambda: hurried)
    costs.counts = {RELU: 3}
    costs.prepare({TANH, RELU, ADD})
    assert profiler.measured == order
