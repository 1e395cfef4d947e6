"""Steps of a call: what is noted, and which operator each belongs to."""

from joulec.runtime.manifest import Assigned
from joulec.runtime.profile import Recorder


def assigned(node, operator, algorithm):
    return Assigned(node, operator, algorithm, 1e-3, None, 2e6, 1e6)


def record(clock, calls):
    recorder = Recorder(clock)
    for call in calls:
        recorder.begin()
        for symbol, seconds in call:
            recorder(None, symbol, True, None)
            clock.sleep(seconds)
            assert recorder(None, symbol, False, None) == 0
    return recorder


def test_steps_are_medians_and_the_machines_own_are_left_out(clock):
    call = [("vm.builtin.alloc_storage", 5.0), ("conv2d_winograd", 1.0), ("vm.builtin.reshape", 5.0), ("add", 0.5)]
    slow = [(name, seconds * 7) for name, seconds in call]
    steps = record(clock, [call, slow, call]).steps(())
    assert [(step.function, step.time_s) for step in steps] == [("conv2d_winograd", 1.0), ("add", 0.5)]


def test_each_kernel_finds_its_operator_in_order(clock):
    plan = (
        assigned("first", "conv2d", "winograd(tile=4)"),
        assigned("view", "reshape", "view"),
        assigned("second", "conv2d", "winograd(tile=2)"),
        assigned("third", "lrn", "tvm"),
        assigned("fourth", "conv2d", "winograd(tile=4)"),
    )
    call = [("conv2d_winograd", 1.0), ("conv2d_winograd1", 2.0), ("multiply", 0.1), ("conv2d_winograd", 1.0)]
    steps = record(clock, [call]).steps(plan)
    assert [step.assigned and step.assigned.node for step in steps] == ["first", "second", None, "fourth"]
