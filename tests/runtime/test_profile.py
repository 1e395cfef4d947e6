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
    assert [step.assigned and step.assigned.node for step in steps] == ["first", "second", "third", "fourth"]
    assert [step.algorithm for step in steps] == [plan[index].algorithm for index in (0, 2, 3, 4)]


def test_all_steps_of_an_operator_that_tvm_lowered_are_one(clock):
    plan = (
        assigned("a", "conv2d", "winograd"),
        assigned("b", "opaque.LSTM", "tvm"),
        assigned("c", "add", "elementwise"),
    )
    call = [("conv2d_winograd", 1.0), ("product", 0.5), ("sigmoid", 0.25), ("product1", 0.5), ("add_elementwise", 1.0)]
    steps = record(clock, [call]).steps(plan)
    assert [(step.assigned and step.assigned.node, step.time_s) for step in steps] == [("a", 1), ("b", 1.25), ("c", 1)]


def test_neighbours_that_tvm_lowered_have_a_step_each_or_no_name(clock):
    plan = (
        assigned("a", "opaque.Pow", "tvm"),
        assigned("b", "opaque.Slice", "tvm"),
        assigned("c", "add", "elementwise"),
    )
    steps = record(clock, [[("power", 1.0), ("slice", 2.0), ("add_elementwise", 1.0)]]).steps(plan)
    assert [step.assigned and step.assigned.node for step in steps] == ["a", "b", "c"]
    steps = record(clock, [[("power", 1.0), ("cast", 1.0), ("slice", 2.0), ("add_elementwise", 1.0)]]).steps(plan)
    assert [step.assigned and step.assigned.node for step in steps] == [None, None, None, "c"]
    assert [step.algorithm for step in steps] == ["tvm"] * 3 + ["elementwise"]


def test_calls_of_another_engine_find_their_operators_in_order(clock):
    plan = (assigned("a", "opaque.Loop", "onnxruntime"), assigned("b", "opaque.If", "onnx.reference"))
    steps = record(clock, [[("joulec.onnx", 1.0), ("joulec.onnx", 2.0)]]).steps(plan)
    assert [step.assigned and step.assigned.node for step in steps] == ["a", "b"]


def test_conversions_between_layouts_belong_to_no_operator(clock):
    plan = (
        assigned("a", "conv2d", "winograd(NCHW16c->NCHW16c,tile=4)"),
        assigned("b", "opaque.Slice", "tvm"),
        assigned("c", "add", "elementwise"),
    )
    names = [
        "relayout_relayout",
        "conv2d_winograd",
        "relayout_relayout1",
        "slice",
        "relayout_relayout",
        "add_elementwise",
    ]
    steps = record(clock, [[(name, 1.0) for name in names]]).steps(plan)
    assert [step.assigned and step.assigned.node for step in steps] == [None, "a", None, "b", None, "c"]
    assert [step.algorithm for step in steps if step.assigned is None] == ["relayout"] * 3
