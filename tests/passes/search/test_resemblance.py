"""What is known of an operator saves measurements of one of nearly as many channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from joulec.costdb.cost import Cost, Failure, Measurement
from joulec.passes.graph import Activation, Add, NodeSpec, Opaque, OperandSpec, Step, TensorType
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.objective import as_objective
from joulec.passes.search.resemblance import kind_and_channels
from joulec.profiler.entrant import Point

from .measuring import CountingStore, Fake, FakeBackEnd, FakeProfiler

NAMES = ("fast", "near(1)", "near(2)", "far")
TIMES = {"fast": 1.0, "near(1)": 1.2, "near(2)": 1.4, "far": 1.6}


def relu(channels: int, batch: int = 1, side: int = 4) -> NodeSpec:
    type = TensorType((batch, channels, side, side))
    return NodeSpec(Activation("relu"), (OperandSpec(type, False),), (), (type,))


@dataclass(frozen=True)
class PerChannel(Fake):
    """An algorithm whose roofline grows with the tensor."""

    def lower_bound_s(self, spec):
        return self.bound_s * spec.results[0].size


class Bench:
    """What is measured of operators."""

    def __init__(self, names=NAMES, objective="time"):
        self.backend = FakeBackEnd({str(Activation("relu")): tuple(PerChannel(name, 1e-5) for name in names)})
        self.store = CountingStore()
        self.objective = as_objective(objective)
        self.costs = self.anew()

    def anew(self):
        return MeasuredCosts(self.backend, self.store, "estimated", None, self.objective)

    def knows(self, spec, times, spread=0.01):
        for name, time_s in times.items():
            cost = Cost(time_s, time_s, "measured", "estimated", spread, 10)
            self.store.put_many([Measurement(self.backend.key(spec, Fake(name)), cost)])

    def measures(self, spec, times=None):
        """Which of its algorithms."""
        times = times or TIMES
        profiler = FakeProfiler(self.store, {name: (time_s, time_s) for name, time_s in times.items()})
        self.costs.measure = profiler
        self.costs.prepare([spec])
        return sorted(profiler.measured)


def test_what_lost_for_nearly_as_many_channels_is_not_measured():
    bench = Bench()
    assert bench.measures(relu(16)) == sorted(NAMES)
    assert bench.measures(relu(24)) == ["fast", "near(1)"]


def test_it_holds_for_costs_that_the_database_knew():
    bench = Bench()
    bench.knows(relu(16), TIMES)
    assert bench.measures(relu(16)) == []
    assert bench.measures(relu(24)) == ["fast", "near(1)"]


def test_what_was_left_out_for_a_neighbour_is_foreseen_by_who_measured_it():
    bench = Bench()
    for channels, measured in ((16, NAMES), (24, ("fast", "near(1)")), (32, ("fast", "near(1)")), (48, NAMES)):
        assert bench.measures(relu(channels)) == sorted(measured)
    bench.costs = bench.anew()
    assert bench.measures(relu(16)) == []
    assert bench.measures(relu(32)) == []


def test_what_is_fused_into_the_store_changes_nothing():
    bench = Bench()
    bench.measures(relu(16))
    plain = relu(16)
    fused = replace(plain, epilogue=(Step("activation", "relu"), Step("add")), operands=plain.operands * 2)
    assert bench.measures(fused) == ["fast", "near(1)"]


@pytest.mark.parametrize("other", [relu(64), relu(17, side=5), relu(1)])
def test_operators_that_are_not_alike_tell_nothing(other):
    bench = Bench()
    bench.measures(relu(16))
    assert bench.measures(other) == sorted(NAMES)


def test_schedules_of_other_layouts_are_not_given_up_for_each_other():
    names = ("fast", "fast(NCHW8c->NCHW8c)", "fast(NCHW->NCHW8c,rows=1)", "fast(NCHW->NCHW8c,rows=2)")
    times = dict(zip(names, (1.0, 2.0, 3.0, 3.5), strict=True))
    bench = Bench(names)
    assert bench.measures(relu(16), times) == sorted(names)
    assert bench.measures(relu(24), times) == sorted(names[:3])


def test_one_look_counts_for_half():
    bench = Bench()
    bench.knows(relu(16), TIMES)
    bench.knows(relu(16), {"far": 2.9}, spread=float("inf"))
    assert bench.measures(relu(16)) == []
    assert bench.measures(relu(24)) == ["far", "fast", "near(1)"]


def test_what_was_given_up_is_measured_where_all_else_fails():
    bench = Bench()
    bench.measures(relu(16))
    outcomes = {name: (time_s, time_s) for name, time_s in TIMES.items()}
    crash = Failure("crash", "of a test")
    failing = FakeProfiler(bench.store, {**outcomes, "fast": crash, "near(1)": crash})
    bench.costs.measure = failing
    bench.costs.prepare([relu(24)])
    assert sorted(failing.measured) == sorted(NAMES)


def test_nothing_is_given_up_where_the_objective_judges_by_more():
    bench = Bench(objective="power")
    bench.measures(relu(16))
    assert bench.measures(relu(24)) == sorted(NAMES)


def test_batch_sizes_are_near_each_other():
    bench = Bench()
    bench.measures(relu(16))
    assert bench.measures(relu(24, batch=8)) == ["fast", "near(1)"]


def test_a_kernel_keeps_its_sides():
    x, weight = TensorType((2, 8, 5, 5)), TensorType((8, 8, 3, 3))
    bias = TensorType((8,))
    operands = OperandSpec(x, False), OperandSpec(weight, True), OperandSpec(bias, True)
    kind, channels = kind_and_channels(NodeSpec(Add(), operands, (Step("bias"),), (x,)))
    assert channels == (2, 8, 8)
    assert (True, ("float32", 4, (3, 3))) in kind[1]
    wide = NodeSpec(Add(), (OperandSpec(x, False), OperandSpec(TensorType((1, 8, 5, 5)), False)), (), (x,))
    assert kind_and_channels(wide)[0][1] == (
        (False, ("float32", "batch", (5, 5))),
        (False, ("float32", 1, (5, 5))),
    )
    opaque = Opaque("onnx", "Foo", "Foo", b"definition", (x,))
    assert kind_and_channels(NodeSpec(opaque, (OperandSpec(x, False),), (), (x,))) is None
    row = TensorType((1, 3))
    assert kind_and_channels(NodeSpec(Activation("relu"), (OperandSpec(row, False),), (), (row,))) is None


def test_estimates_are_the_least_that_operators_of_nearly_as_many_channels_tell():
    bench = Bench()
    bench.knows(relu(16), TIMES)
    bench.knows(relu(32), {"fast": 3.0, "near(1)": 1.6})
    estimates = bench.costs.estimated(sparse=False)
    estimates.calibrate([relu(16), relu(32)])
    estimates.prepare([relu(16), relu(24)])
    found = {choice.algorithm.name: choice.time_s for choice in estimates.options(relu(24)).choices}
    assert found == pytest.approx({"fast": 1.5, "near(1)": 1.2, "near(2)": 1.2, "far": 2.4}, rel=1e-4)
    assert estimates.guesses([relu(16), relu(24)])
    assert not estimates.guesses([relu(16)])


@pytest.mark.parametrize(("channels", "expected_s"), [(32, 5.12e-3 + 4e-6), (8, 1.28e-3 + 2e-6)])
def test_what_starting_takes_is_had_once(channels, expected_s):
    """At 2.56 ms of roofline all above it may be the start of threads; a smaller operator may need less of it."""
    bench = Bench(names=("fast",))
    bench.knows(relu(16), {"fast": 2.56e-3 + 4e-6})
    estimates = bench.costs.estimated(sparse=False)
    estimates.calibrate([relu(16)])
    estimates.prepare([relu(channels)])
    assert estimates.options(relu(channels)).times == pytest.approx([expected_s], rel=1e-9)


def test_what_no_such_operator_was_measured_by_is_not_estimated_where_that_was_hopeless():
    bench = Bench()
    bench.knows(relu(16), {"fast": 1.0})
    for sparse, names in ((True, [*NAMES]), (False, ["fast"])):
        estimates = bench.costs.estimated(sparse=sparse)
        estimates.calibrate([relu(16)])
        estimates.prepare([relu(24)])
        assert [choice.algorithm.name for choice in estimates.options(relu(24)).choices] == names


def test_a_stake_is_added_to_what_is_estimated_alone():
    bench = Bench()
    bench.knows(relu(16), TIMES)
    estimates = bench.costs.estimated(sparse=False)
    estimates.calibrate([relu(16)])
    estimates.stake = Point(10.0, 20.0)
    estimates.prepare([relu(16), relu(24)])
    assert estimates.options(relu(16)).times.min() == 1.0
    assert estimates.options(relu(24)).times.min() == pytest.approx(11.5, rel=1e-4)
