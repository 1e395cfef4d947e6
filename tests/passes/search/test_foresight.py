"""What is known of an operator at one batch size saves measurements at another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from joulec.costdb.cost import Cost, Failure, Measurement
from joulec.passes.graph import Activation, Add, NodeSpec, Opaque, OperandSpec, TensorType
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.forecast import EstimatedCosts
from joulec.passes.search.foresight import at_batch
from joulec.passes.search.objective import as_objective

from .measuring import CountingStore, Fake, FakeBackEnd, FakeProfiler, watts


def relu(batch: int) -> NodeSpec:
    type = TensorType((batch, 3))
    return NodeSpec(Activation("relu"), (OperandSpec(type, False),), (), (type,))


@dataclass(frozen=True)
class PerRow(Fake):
    """An algorithm whose roofline grows with the batch."""

    def lower_bound_s(self, spec):
        return self.bound_s * spec.results[0].shape[0]


@pytest.fixture
def measured():
    """What is measured of an operator at batch 8 when some algorithms' times at another batch size are known."""

    def run(known, batch=1, objective="time", energies=None, names=("fast", "near(1)", "near(2)", "far"), failing=()):
        backend = FakeBackEnd({str(Activation("relu")): tuple(PerRow(name, 1.0) for name in names)})
        store = CountingStore()
        for name, time_s in known.items():
            cost = Cost(time_s, (energies or {}).get(name, time_s), "measured", "estimated")
            store.put_many([Measurement(backend.key(relu(batch), Fake(name)), cost)])
        outcomes = {name: Failure("crash", "of a test") if name in failing else (100.0, 100.0) for name in names}
        profiler = FakeProfiler(store, outcomes)
        wanted = None if objective is None else as_objective(objective)
        costs = MeasuredCosts(backend, store, "estimated", profiler, wanted)
        costs.prepare([relu(8)])
        return sorted(profiler.measured)

    return run


def test_a_spec_at_another_batch_size_keeps_what_is_not_of_the_batch():
    held, weights = TensorType((4, 3)), TensorType((4, 5))
    spec = NodeSpec(Add(), (OperandSpec(held, False), OperandSpec(weights, True)), (), (held,))
    other = at_batch(spec, 1)
    assert [operand.type.shape for operand in other.operands] == [(1, 3), (4, 5)]
    assert other.results[0].shape == (1, 3)
    assert at_batch(other, 4) == spec


def test_no_spec_where_sizes_stand_in_a_definition_or_there_is_no_batch():
    scalar = TensorType(())
    assert at_batch(NodeSpec(Activation("relu"), (OperandSpec(scalar, False),), (), (scalar,)), 2) is None
    row = TensorType((1, 3))
    opaque = Opaque("onnx", "Foo", "Foo", b"definition", (row,))
    assert at_batch(NodeSpec(opaque, (OperandSpec(row, False),), (), (row,)), 2) is None


def test_everything_is_measured_where_nothing_is_known(measured):
    assert measured({}) == ["far", "fast", "near(1)", "near(2)"]


def test_kernels_far_behind_and_schedules_a_little_behind_are_left_out(measured):
    known = {"fast": 1.0, "near(1)": 1.2, "near(2)": 1.4, "far": 1.6}
    assert measured(known) == ["fast", "near(1)"]


def test_what_was_left_out_is_measured_where_all_else_fails(measured):
    known = {"fast": 1.0, "near(1)": 1.2, "near(2)": 1.4, "far": 1.6}
    assert measured(known, failing=["fast"]) == ["fast", "near(1)"]
    assert measured(known, failing=["fast", "near(1)"]) == ["far", "fast", "near(1)", "near(2)"]


def test_an_unknown_schedule_is_foreseen_by_the_best_of_its_kernel(measured):
    assert measured({"fast": 1.0, "near(1)": 1.6}) == ["far", "fast"]
    assert measured({"fast": 1.0, "near(1)": 1.4}) == ["far", "fast", "near(1)", "near(2)"]


def test_the_nearest_batch_size_of_which_something_is_known_counts(measured):
    assert measured({"fast": 64.0, "far": 128.0}, batch=64) == ["fast", "near(1)", "near(2)"]


def test_nothing_is_left_out_where_the_objective_judges_by_more(measured):
    known = {"fast": 1.0, "near(1)": 1.2, "near(2)": 1.4, "far": 1.6}
    assert measured(known, objective="power") == ["far", "fast", "near(1)", "near(2)"]
    assert measured(known, objective=None) == ["far", "fast", "near(1)", "near(2)"]


def test_what_takes_less_energy_is_measured_where_energy_counts(measured):
    known = {"fast": 1.0, "near(1)": 1.2, "near(2)": 1.4, "far": 1.6}
    assert measured(known, objective="energy", energies={**known, "far": 0.5}) == ["far", "fast", "near(1)"]


def test_estimates_are_what_is_foreseen():
    backend = FakeBackEnd({str(Activation("relu")): (PerRow("one", 1.0), PerRow("two", 0.5))})
    store = CountingStore()
    store.put_many([Measurement(backend.key(relu(2), Fake("one")), Cost(3.0, 6.0, "measured", "estimated"))])
    costs = MeasuredCosts(backend, store, "estimated", None, energy_model=watts(10.0))
    costs.counts = Counter([relu(8)])
    estimates = EstimatedCosts(costs)
    estimates.calibrate([relu(8)])
    estimates.prepare([relu(8)])
    assert [choice.time_s for choice in estimates.options(relu(8)).choices] == pytest.approx([12.0, 4.0])


def test_estimates_take_what_does_not_grow_with_the_batch_as_it_was_seen_in_the_model():
    names = ("one", "two")
    backend = FakeBackEnd({str(Activation("relu")): tuple(PerRow(name, 1.0) for name in names)})
    store = CountingStore()
    for batch, name, time_s in ((2, "one", 12.0), (2, "two", 10.0), (8, "one", 18.0)):
        cost = Cost(time_s, 2 * time_s, "measured", "estimated")
        store.put_many([Measurement(backend.key(relu(batch), Fake(name)), cost)])
    estimates = EstimatedCosts(MeasuredCosts(backend, store, "estimated", None, energy_model=watts(2.0)))
    estimates.calibrate([relu(8)])
    estimates.prepare([relu(8)])
    assert [choice.time_s for choice in estimates.options(relu(8)).choices] == pytest.approx([18.0, 15.0])
    assert [choice.energy_j for choice in estimates.options(relu(8)).choices] == pytest.approx([36.0, 30.0])
