"""What is measured first where time is short: what the model itself needs, then what promises most."""

from __future__ import annotations

from collections import Counter

import pytest

from joulec.costdb.cost import Failure, Measurement
from joulec.passes.graph import Activation
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.forecast import EstimatedCosts, Scout, first_measurements, most_valuable
from joulec.passes.search.objective import as_objective
from joulec.passes.search.results import SearchOptions

from .measuring import CountingStore, Fake, FakeBackEnd, FakeProfiler, watts


@pytest.fixture
def plan(toy):
    """Measures each operator of a chain by its first algorithm, and tells in which order the rest is worth it."""

    def make(kinds, table, outcomes, rules=(), objective="time", before=()):
        graph = toy.chain(*kinds)
        store = CountingStore()
        backend = FakeBackEnd({str(Activation(kind)): algorithms for kind, algorithms in table.items()})
        profiler = FakeProfiler(store, outcomes)
        costs = MeasuredCosts(backend, store, "estimated", profiler, energy_model=watts(10.0, 1.0))
        costs.counts = Counter(node.spec for node in graph.nodes)
        store.put_many(Measurement(backend.key(graph.nodes[0].spec, one), Failure("crash", "")) for one in before)
        costs.measure_in_order(first_measurements(costs))

        def search(estimates: EstimatedCosts) -> Scout:
            return Scout(rules, estimates, as_objective(objective), SearchOptions())

        entries = most_valuable(costs, [graph], search)
        return profiler.measured, [entry.algorithm.name for entry in entries]

    return make


def test_the_costliest_operator_comes_first_and_each_once(plan):
    table = {"relu": (Fake("r1", 1.0), Fake("r2", 1.0)), "tanh": (Fake("t1", 2.5),), "exp": (Fake("e1", 2.0),)}
    measured, _ = plan(("relu", "tanh", "relu", "relu", "exp"), table, dict.fromkeys(("r1", "t1", "e1"), (5.0, 1.0)))
    assert measured == ["r1", "t1", "e1"]


def test_share_times_possible_saving_orders_the_other_algorithms(plan):
    """tanh takes most and its second algorithm may save 3 s, relu's 8 s; the third ones count half."""
    table = {
        "relu": (Fake("r1", 1.0), Fake("r2", 2.0), Fake("r3", 2.0)),
        "tanh": (Fake("t1", 1.0), Fake("t2", 17.0), Fake("t3", 17.5)),
        "exp": (Fake("e1", 1.0), Fake("e2", 10.0)),
    }
    _, order = plan(("relu", "tanh", "exp"), table, {"r1": (10.0, 1.0), "t1": (20.0, 1.0), "e1": (1.0, 1.0)})
    assert order == ["r2", "r3", "t2", "t3"]  # 8/2, 8/3, 3/2, 2.5/3; e2 can only lose


def test_rivals_come_in_heats_by_what_a_heat_is_worth_on_average(plan):
    """So that they take turns with each other: four of relu's, then tanh's, then relu's last."""
    table = {
        "relu": (Fake("r1", 1.0), *(Fake(f"r{place}", 2.0) for place in range(2, 7))),
        "tanh": (Fake("t1", 1.0), Fake("t2", 17.0)),
    }
    _, order = plan(("relu", "tanh"), table, {"r1": (10.0, 1.0), "t1": (20.0, 1.0)})
    assert order == ["r2", "r3", "r4", "r5", "t2", "r6"]  # 8/2 … 8/5; 3/2; 8/6


def test_an_operator_counts_as_often_as_it_occurs(plan):
    table = {"relu": (Fake("r1", 1.0), Fake("r2", 1.0)), "tanh": (Fake("t1", 1.0), Fake("t2", 1.0))}
    _, order = plan(("relu", "tanh", "tanh", "tanh"), table, {"r1": (10.0, 1.0), "t1": (5.0, 1.0)})
    assert order == ["t2", "r2"]


def test_substitutions_are_valued_by_estimates_on_the_scale_of_what_was_measured(plan, toy):
    """Everything takes ten times its roofline: sqrt for relu saves 5 s of 10, exp saves nothing."""
    table = {
        "relu": (Fake("plain(1)", 1.0),),
        "sqrt": (Fake("plain(2)", 0.5), Fake("plain(3)", 0.5)),
        "exp": (Fake("plain(4)", 2.0),),
    }
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("relu", "exp"))
    _, order = plan(("relu",), table, {"plain(1)": (10.0, 1.0)}, rules)
    assert order == ["plain(2)", "plain(3)"]


def test_what_pays_only_with_another_unknown_is_worth_its_part(plan, toy):
    """relu→sqrt alone saves 1 s of 10; going on to erf saves 8 s, but needs tanh→exp, unknown too."""
    table = {kind: (Fake(f"plain({kind})", bound),) for kind, bound in (("relu", 10.0), ("tanh", 10.0), ("sqrt", 9.0))}
    table |= {"exp": (Fake("plain(exp)", 7.0),), "erf": (Fake("plain(erf)", 2.0),)}
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("tanh", "exp"), toy.Exchange("sqrt", "erf"))
    outcomes = {"plain(relu)": (10.0, 1.0), "plain(tanh)": (10.0, 1.0)}
    _, order = plan(("relu", "tanh"), table, outcomes, rules)
    assert order == ["plain(erf)", "plain(sqrt)", "plain(exp)"]  # 8/2, 8/2, 11/3


def test_a_known_failure_is_not_asked_for(plan):
    first, second, third = Fake("r1", 1.0), Fake("r2", 1.0), Fake("r3", 1.0)
    _, order = plan(("relu",), {"relu": (first, second, third)}, {"r1": (10.0, 1.0)}, before=(second,))
    assert order == ["r3"]


def test_energy_decides_where_it_is_the_objective(plan):
    table = {"relu": (Fake("r1", 1.0), Fake("r2", 1.0)), "tanh": (Fake("t1", 1.0, 500.0), Fake("t2", 1.0))}
    outcomes = {"r1": (10.0, 100.0), "t1": (5.0, 550.0)}
    assert plan(("relu", "tanh"), table, outcomes, objective="energy")[1] == ["t2", "r2"]
    assert plan(("relu", "tanh"), table, outcomes, objective="time")[1] == ["r2", "t2"]


def test_all_that_is_known_is_asked_for_no_more(plan):
    assert plan(("relu",), {"relu": (Fake("r1", 1.0),)}, {"r1": (10.0, 1.0)}) == (["r1"], [])
