"""A search measures what estimates take to be best, until the best graph rests on measurements alone."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from joulec.costdb.cost import Failure
from joulec.passes.graph import Activation
from joulec.passes.search.by_estimates import SearchByEstimates
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.objective import as_objective
from joulec.passes.search.results import SearchOptions

from .measuring import CountingStore, Fake, FakeBackEnd, FakeProfiler, watts


@pytest.fixture
def searching(toy):
    """Searches a chain whose own operators are known."""

    def make(kinds, bounds, outcomes, rules, objective="time", options=None, store=None):
        table = {kind: (Fake(f"plain({kind})", bound),) for kind, bound in bounds.items()}
        backend = FakeBackEnd({str(Activation(kind)): algorithms for kind, algorithms in table.items()})
        store = store or CountingStore()
        profiler = FakeProfiler(store, {f"plain({kind})": outcome for kind, outcome in outcomes.items()})
        costs = MeasuredCosts(backend, store, "estimated", profiler, as_objective(objective), watts(10.0))
        graph = toy.chain(*kinds)
        costs.counts = Counter(node.spec for node in graph.nodes)
        costs.prepare({node.spec for node in graph.nodes})
        own, profiler.measured = profiler.measured, []
        limits = []
        search = SearchByEstimates(
            rules, costs, as_objective(objective), options or SearchOptions(), lambda graph: graph,
            limit_measuring=limits.append,
        )  # fmt: skip
        result = search.run(graph)
        best = [node.op.kind for node in result.best.graph.nodes]
        return SimpleNamespace(
            result=result, best=best, own=own, measured=profiler.measured, store=store, limits=limits
        )

    return make


def test_what_no_estimate_takes_to_be_best_is_not_measured(searching, toy):
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("relu", "exp"))
    bounds = {"relu": 1.0, "sqrt": 0.5, "exp": 1.2}
    outcomes = {"relu": (10.0, 0.0), "sqrt": (6.0, 0.0), "exp": (1.0, 0.0)}
    found = searching(("relu",), bounds, outcomes, rules)
    assert found.own == ["plain(relu)"]
    assert found.measured == ["plain(sqrt)"]
    assert found.best == ["sqrt"]
    assert found.result.best.totals.time_s == 6.0
    assert found.result.origin.totals.time_s == 10.0


def test_a_promise_that_is_not_kept_leads_to_the_next(searching, toy):
    """sqrt promises 5 and takes 12, exp promises 8 and takes 9."""
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("relu", "exp"))
    bounds = {"relu": 1.0, "sqrt": 0.5, "exp": 0.8}
    outcomes = {"relu": (10.0, 0.0), "sqrt": (12.0, 0.0), "exp": (9.0, 0.0)}
    found = searching(("relu",), bounds, outcomes, rules)
    assert found.measured == ["plain(sqrt)", "plain(exp)"]
    assert found.best == ["exp"]


def test_nothing_that_fails_is_taken(searching, toy):
    rules = (toy.Exchange("relu", "sqrt"),)
    outcomes = {"relu": (10.0, 0.0), "sqrt": Failure("crash", "of a test")}
    found = searching(("relu",), {"relu": 1.0, "sqrt": 0.5}, outcomes, rules)
    assert found.measured == ["plain(sqrt)"]
    assert found.best == ["relu"]


def test_next_to_nothing_is_no_promise(searching, toy):
    """One of many operators that would save a twenty thousandth of the whole."""
    rules = (toy.Exchange("tanh", "sqrt"),)
    bounds = {"relu": 1.0, "tanh": 1.0, "sqrt": 0.999}
    outcomes = {"relu": (10.0, 0.0), "tanh": (10.0, 0.0), "sqrt": (1.0, 0.0)}
    found = searching((*["relu"] * 20, "tanh"), bounds, outcomes, rules)
    assert found.measured == []
    assert found.best[-1] == "tanh"


def test_a_second_search_measures_nothing(searching, toy):
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("relu", "exp"), toy.Exchange("sqrt", "erf"))
    bounds = {"relu": 1.0, "sqrt": 0.9, "exp": 0.95, "erf": 0.3}
    outcomes = {"relu": (10.0, 0.0), "sqrt": (11.0, 0.0), "exp": (9.0, 0.0), "erf": (8.0, 0.0)}
    first = searching(("relu", "relu"), bounds, outcomes, rules)
    assert set(first.best) == {"erf"}
    again = searching(("relu", "relu"), bounds, outcomes, rules, store=first.store)
    assert (again.own, again.measured) == ([], [])
    assert again.result.best.totals == first.result.best.totals


def test_a_known_cost_is_not_estimated_better(searching, toy):
    """Of sqrt it is known that it takes 12: its other algorithm was left as hopeless."""
    rules = (toy.Exchange("relu", "sqrt"),)
    bounds = {"relu": 1.0, "sqrt": 0.5}
    outcomes = {"relu": (10.0, 0.0), "sqrt": (12.0, 0.0)}
    store = searching(("relu",), bounds, outcomes, rules).store
    found = searching(("relu",), bounds, outcomes, rules, store=store)
    assert found.measured == []
    assert found.best == ["relu"]


@pytest.mark.parametrize(
    "objective", ["energy", "0.5*energy + 0.5*time", "power", lambda totals, origin: totals.time_s]
)
def test_any_objective_finds_a_graph_that_was_measured(searching, toy, objective):
    rules = (toy.Exchange("relu", "sqrt"),)
    outcomes = {"relu": (10.0, 100.0), "sqrt": (6.0, 60.0)}
    found = searching(("relu",), {"relu": 1.0, "sqrt": 0.5}, outcomes, rules, objective)
    assert all(choice.cost.time_source == "measured" for choice in found.result.best.choices)


def test_where_time_is_short_a_part_of_it_goes_into_looking_ahead(searching, toy):
    rules = (toy.Exchange("relu", "sqrt"), toy.Exchange("relu", "exp"))
    bounds = {"relu": 1.0, "sqrt": 0.5, "exp": 0.8}
    outcomes = {"relu": (10.0, 0.0), "sqrt": (12.0, 0.0), "exp": (9.0, 0.0)}
    found = searching(("relu",), bounds, outcomes, rules, options=SearchOptions(time_limit_s=100.0))
    assert found.measured == ["plain(sqrt)"]  # one look
    assert found.best == ["relu"]
    assert 90.0 < found.limits[0] < 100.0
