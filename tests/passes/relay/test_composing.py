"""Modules that are more than one graph, and passes, levels and executors of the user's own around the pass."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.relay import testing

from joulec.passes.relay import EnergyAwareOptimize
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.workbench import Setup

MODEL = Setup(costs="model", threads=1)
TARGET = tvm.target.Target("llvm")
RNG = np.random.default_rng(11)
TYPE = relay.TensorType((1, 8))


def optimiser(**given):
    return EnergyAwareOptimize(setup=MODEL, search=SearchOptions(budget=2), **given)


def drawn(*shape):
    return RNG.standard_normal(shape).astype("float32")


def block(x, seed=0):
    """Two operators that a graph models."""
    weights = np.random.default_rng(seed).standard_normal((8, 8)).astype("float32") / 3
    return relay.nn.relu(relay.nn.dense(x, relay.const(weights)))


def typed(module):
    return relay.transform.InferType()(module)


def vm(module, *arguments, level=3):
    with tvm.transform.PassContext(opt_level=level):
        executable = relay.vm.compile(module, TARGET)
    found = tvm.runtime.vm.VirtualMachine(executable, tvm.cpu()).run(*arguments)
    return [part.numpy() for part in found] if isinstance(found, tvm.runtime.container.ADT) else [found.numpy()]


def graph(module, level=3, **inputs):
    with tvm.transform.PassContext(opt_level=level):
        factory = relay.build(module, target=TARGET)
    machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    machine.set_input(**inputs)
    machine.run()
    return [machine.get_output(index).numpy() for index in range(machine.get_num_outputs())]


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def branching():
    """What comes before, within both branches and after."""
    x, more = relay.var("x", TYPE), relay.var("more", relay.TensorType((), "bool"))
    before = block(x, 1)
    chosen = relay.If(more, block(before, 2), relay.tanh(relay.add(before, x)))
    return typed(tvm.IRModule.from_expr(relay.Function([x, more], block(relay.add(chosen, before), 3))))


def looping():
    """A recursive closure, as frontends make loops."""
    x, times = relay.var("x", TYPE), relay.var("times", relay.TensorType((), "int32"))
    i, state = relay.var("i", relay.TensorType((), "int32")), relay.var("state", TYPE)
    loop = relay.var("loop")
    again = relay.Call(loop, [relay.subtract(i, relay.const(1)), block(state, 4)])
    body = relay.If(relay.greater(i, relay.const(0)), again, state)
    function = relay.Function([i, state], body, TYPE)
    called = relay.Let(loop, function, block(relay.Call(loop, [times, block(x, 5)]), 6))
    return typed(tvm.IRModule.from_expr(relay.Function([x, times], called)))


def matching():
    """A list of tensors that is taken apart."""
    prelude = relay.prelude.Prelude(tvm.IRModule())
    _, cons, nil = prelude.mod.get_type("List")
    x = relay.var("x", TYPE)
    made = cons(block(x, 7), nil())
    head, tail = relay.var("head"), relay.var("tail")
    clauses = [
        relay.Clause(relay.PatternConstructor(cons, [relay.PatternVar(head), relay.PatternVar(tail)]), block(head, 8)),
        relay.Clause(relay.PatternConstructor(nil, []), relay.tanh(x)),
    ]
    prelude.mod["main"] = relay.Function([x], block(relay.Match(made, clauses), 9))
    return typed(prelude.mod)


def calling(attributes=()):
    """A call of another function of the module."""
    x, a = relay.var("x", TYPE), relay.var("a", TYPE)
    other = relay.Function([a], block(a, 10), TYPE)
    for key, value in attributes:
        other = other.with_attr(key, value)
    variable = relay.GlobalVar("other")
    module = tvm.IRModule({variable: other})
    module["main"] = relay.Function([x], block(relay.Call(variable, [block(x, 11)]), 12))
    return typed(module)


def closures():
    """A function that is a value, over a variable of where it was made."""
    x, a, made = relay.var("x", TYPE), relay.var("a", TYPE), relay.var("made")
    body = relay.Let(made, relay.Function([a], block(relay.add(a, x), 13)), relay.Call(made, [block(x, 14)]))
    return typed(tvm.IRModule.from_expr(relay.Function([x], body)))


def references():
    """Effects, whose order counts."""
    x, cell, ignored = relay.var("x", TYPE), relay.var("cell"), relay.var("ignored")
    first = relay.var("first")
    body = relay.Let(
        cell,
        relay.RefCreate(block(x, 15)),
        relay.Let(
            first,
            relay.RefRead(cell),
            relay.Let(
                ignored,
                relay.RefWrite(cell, block(first, 16)),
                relay.add(relay.RefRead(cell), block(first, 17)),
            ),
        ),
    )
    return typed(tvm.IRModule.from_expr(relay.Function([x], body)))


def dynamic():
    """A tensor whose rows nobody knows beside one that is fixed."""
    x, rows = relay.var("x", TYPE), relay.var("rows", relay.TensorType((relay.Any(), 8)))
    return typed(tvm.IRModule.from_expr(relay.Function([x, rows], relay.add(relay.tanh(rows), block(x, 18)))))


TRUE, FALSE = np.array(True), np.array(False)
X = drawn(1, 8)
PROGRAMS = {
    "branching": (branching, [(X, TRUE), (X, FALSE)], 4),
    "looping": (looping, [(X, np.array(0, "int32")), (X, np.array(3, "int32"))], 3),
    "matching": (matching, [(X,)], 4),
    "calling": (calling, [(X,)], 2),
    "closures": (closures, [(X,)], 2),
    "dynamic": (dynamic, [(X, drawn(5, 8))], 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_regions_between_what_no_graph_models(name):
    make, calls, regions = PROGRAMS[name]
    module, optimise = make(), optimiser()
    optimised = optimise(module)
    assert len(optimise.results) == regions
    assert len(optimise.kernels) >= regions
    level = 2 if name == "matching" else 3  # TVM's AlterOpLayout does not know of Match
    for call in calls:
        same(vm(optimised, *call, level=level), vm(module, *call, level=level))


def test_effects_keep_their_order():
    """No executor of TVM's compiles references, so what is seen is the order of what is left."""
    optimise = optimiser()
    text = optimise(references())["main"].astext(show_meta_data=False)
    assert len(optimise.results) == 3
    assert text.index("ref(") < text.index("ref_read(") < text.index("ref_write(") < text.rindex("ref_read(")


@pytest.mark.parametrize("level", [1, 2, 3])
def test_branches_at_every_level(level):
    """At level 0 TVM's compiler for the virtual machine fails on plain control flow as well."""
    same(vm(optimiser()(branching()), X, TRUE, level=level), vm(branching(), X, TRUE))


def test_regions_in_branches_are_computed_there():
    """What only one branch needs is not moved out of it."""
    text = optimiser()(branching())["main"].astext()
    taken, other = text.split("if (%more)")[1].split("} else {")
    assert "joulec_matmul" in taken
    assert "joulec" in other.split("}")[0]


def test_calls_of_other_functions_stay_and_may_be_optimised_too():
    module = calling()
    optimise = optimiser()
    optimised = optimise(module)
    assert tvm.ir.structural_equal(optimised["other"], module["other"])
    everything = optimiser(function=None)
    both = everything(module)
    assert len(everything.results) == len(optimise.results) + 1
    assert "joulec" in both["other"].astext(show_meta_data=False)
    for found in (optimised, both):
        same(vm(found, X), vm(module, X))


def test_functions_of_another_compiler_stay():
    module = calling((("Primitive", tvm.tir.IntImm("int32", 1)),))
    optimised = optimiser(function=None)(module)
    assert tvm.ir.structural_equal(optimised["other"], module["other"])
    same(vm(optimised, X), vm(module, X))


def test_composites_not_yet_partitioned_are_left_with_a_warning():
    x, a = relay.var("x", TYPE), relay.var("a", TYPE)
    composite = relay.Function([a], block(a, 1)).with_attr("Composite", "other.dense")
    module = typed(tvm.IRModule.from_expr(relay.Function([x], block(relay.Call(composite, [x]), 2))))
    with pytest.warns(UserWarning, match="PartitionGraph"):
        optimised = optimiser()(module)
    assert tvm.ir.structural_equal(optimised, module)


def test_nothing_to_optimise_leaves_the_module_as_it_is():
    x = relay.var("x", shape=(3,), dtype="int32")
    module = typed(tvm.IRModule.from_expr(relay.Function([x], relay.add(x, relay.const(1)))))
    optimise = optimiser()
    assert tvm.ir.structural_equal(optimise(module), module)
    assert optimise.result is None


def test_a_second_time_changes_nothing():
    once = optimiser()(calling())
    again = optimiser()
    twice = again(once)
    assert again.results == ()
    assert tvm.ir.structural_equal(twice["main"], once["main"])


def test_results_of_any_structure():
    x = relay.var("x", TYPE)
    computed = block(x, 1)
    nested = relay.Tuple([computed, relay.Tuple([x, computed, relay.const(drawn(2))]), relay.tanh(computed)])
    module = typed(tvm.IRModule.from_expr(relay.Function([x], nested)))
    optimised = optimiser()(module)
    assert optimised["main"].ret_type == module["main"].ret_type
    same(graph(optimised, x=X), graph(module, x=X))


def test_lets_alone_are_one_region():
    x, held = relay.var("x", TYPE), relay.var("held")
    module = typed(tvm.IRModule.from_expr(relay.Function([x], relay.Let(held, block(x), relay.add(held, held)))))
    optimise = optimiser()
    same(graph(optimise(module), x=X), graph(module, x=X))
    assert len(optimise.results) == 1


def test_parameters_that_are_tuples():
    pair = relay.var("pair", relay.TupleType([TYPE, TYPE]))
    body = block(relay.add(relay.TupleGetItem(pair, 0), relay.TupleGetItem(pair, 1)))
    module = typed(tvm.IRModule.from_expr(relay.Function([pair], body)))
    optimise = optimiser()
    optimised = optimise(module)
    assert optimise.results
    given = tvm.runtime.container.tuple_object([tvm.nd.array(X), tvm.nd.array(2 * X)])
    same(vm(optimised, given), vm(module, given))


def test_bounds_of_time_say_that_they_need_one_region():
    with pytest.raises(BoundsError, match="several regions"):
        optimiser(bounds=Bounds(max_time_s=1.0))(branching())
    assert optimiser(bounds=Bounds(max_power_w=1e9))(branching())


def test_what_cannot_be_priced_alone_stays(monkeypatch):
    """An operator without cost is kept between regions; the rest is optimised."""
    from joulec.passes.layouts.costs import LayoutRooflineCosts

    whole = LayoutRooflineCosts._price
    monkeypatch.setattr(
        LayoutRooflineCosts, "_price", lambda self, spec: [] if "cumsum" in str(spec) else whole(self, spec)
    )
    x = relay.var("x", TYPE)
    module = typed(tvm.IRModule.from_expr(relay.Function([x], block(relay.cumsum(block(x, 1), axis=1), 2))))
    optimise = optimiser()
    optimised = optimise(module)
    assert len(optimise.results) == 2
    same(graph(optimised, x=X), graph(module, x=X))


def test_a_loop_from_the_onnx_frontend():
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["state", "w"], ["product"]),
            onnx.helper.make_node("Tanh", ["product"], ["next"]),
            onnx.helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [1, 8]),
        ],
        [
            onnx.helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, [1, 8]),
        ],
    )
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Relu", ["x"], ["start"]),
            onnx.helper.make_node("Loop", ["count", "yes", "start"], ["end"], body=body),
            onnx.helper.make_node("Tanh", ["end"], ["y"]),
        ],
        "loop",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8])],
        [
            onnx.numpy_helper.from_array(np.array(4, "int64"), "count"),
            onnx.numpy_helper.from_array(np.array(True), "yes"),
            onnx.numpy_helper.from_array(drawn(8, 8) / 3, "w"),
        ],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, params = relay.frontend.from_onnx(model, shape={"x": (1, 8)}, freeze_params=True)
    optimise = optimiser(params=params)
    optimised = optimise(typed(module))
    same(vm(optimised, X), vm(module, X))


def relays_own(name):
    """A small form of a network that comes with Relay (its LSTM is none that TVM's graph executor can build)."""
    if name == "mlp":
        return *testing.mlp.get_workload(1), (1, 1, 28, 28)
    if name == "mobilenet":
        return *testing.mobilenet.get_workload(image_shape=(32, 32, 3), num_classes=10, layout="NHWC"), (1, 32, 32, 3)
    return *testing.resnet.get_workload(num_layers=18, image_shape=(3, 32, 32), num_classes=10), (1, 3, 32, 32)


@pytest.mark.parametrize("name", ["mlp", "resnet", "mobilenet"])
@pytest.mark.parametrize("bound", [True, False])
def test_relays_own_networks(name, bound):
    module, params, shape = relays_own(name)
    inputs = {"data": drawn(*shape)}
    optimise = optimiser(params=params if bound else None)
    optimised = optimise(module)
    assert optimise.results
    with tvm.transform.PassContext(opt_level=3):
        plain = relay.build(module, target=TARGET, params=params)
        ours = relay.build(optimised, target=TARGET, params=None if bound else params)
    results = []
    for factory in (plain, ours):
        machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
        machine.set_input(**inputs)
        machine.run()
        results.append([machine.get_output(index).numpy() for index in range(machine.get_num_outputs())])
    same(*results)


@tvm.instrument.pass_instrument
class Seen:
    """Counts how often the pass is entered and left."""

    def __init__(self):
        self.before = self.after = 0

    def run_before_pass(self, module, info):
        self.before += info.name == "EnergyAwareOptimize"

    def run_after_pass(self, module, info):
        self.after += info.name == "EnergyAwareOptimize"


def test_among_the_users_passes_with_instruments():
    x = relay.var("x", shape=(1, 3, 12, 12))
    made = relay.nn.conv2d(x, relay.const(drawn(16, 3, 3, 3)), padding=(1, 1), channels=16, kernel_size=(3, 3))
    statistics = [relay.const(np.abs(drawn(16)) + 0.5) for _ in range(4)]
    module = typed(
        tvm.IRModule.from_expr(relay.Function([x], relay.nn.relu(relay.nn.batch_norm(made, *statistics)[0])))
    )
    seen, optimise = Seen(), optimiser()
    steps = [
        relay.transform.SimplifyInference(),
        relay.transform.ConvertLayout({"nn.conv2d": ["NHWC", "default"]}),
        relay.transform.FoldConstant(),
        optimise,
        relay.transform.InferType(),
        relay.transform.FoldConstant(),
    ]
    with tvm.transform.PassContext(opt_level=3, instruments=[seen]):
        optimised = tvm.transform.Sequential(steps)(module)
    assert (seen.before, seen.after) == (1, 1)
    data = drawn(1, 3, 12, 12)
    same(graph(optimised, x=data), graph(module, x=data))


def test_nhwc_modules_are_read():
    x = relay.var("x", shape=(1, 10, 10, 16))
    made = relay.nn.conv2d(
        x,
        relay.const(drawn(3, 3, 16, 32)),
        padding=(1, 1),
        channels=32,
        kernel_size=(3, 3),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )
    made = relay.nn.conv2d(
        relay.nn.relu(made),
        relay.const(drawn(3, 3, 32, 1)),
        groups=32,
        channels=32,
        kernel_size=(3, 3),
        data_layout="NHWC",
        kernel_layout="HWOI",
    )
    pooled = relay.nn.max_pool2d(made, (2, 2), (2, 2), layout="NHWC")
    body = relay.mean(relay.concatenate([pooled, relay.tanh(pooled)], axis=3), axis=[1, 2])
    module = typed(tvm.IRModule.from_expr(relay.Function([x], body)))
    optimise = optimiser()
    optimised = optimise(module)
    assert sum(node.op.name == "conv2d" for node in optimise.result.best.graph.nodes) == 2
    data = drawn(1, 10, 10, 16)
    same(graph(optimised, x=data), graph(module, x=data))


def chain():
    """The same operator several times, so that equal kernels meet."""
    x = relay.var("x", TYPE)
    return typed(tvm.IRModule.from_expr(relay.Function([x], block(relay.exp(block(block(x, 1), 2)), 3))))


def test_the_aot_executor():
    module = optimiser()(chain())
    with tvm.transform.PassContext(opt_level=3):
        library = relay.build(module, target=TARGET, executor=relay.backend.Executor("aot"))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "library.so")
        library.export_library(path)
        machine = tvm.runtime.executor.AotModule(tvm.runtime.load_module(path)["default"](tvm.cpu()))
        machine.set_input("x", X)
        machine.run()
        same([machine.get_output(0).numpy()], graph(chain(), x=X))


@pytest.mark.parametrize("kind", ["graph", "vm", "aot"])
def test_executors_by_name(kind):
    made = relay.create_executor(kind, mod=optimiser()(chain()), device=tvm.cpu(), target=TARGET)
    same([made.evaluate()(X).numpy()], graph(chain(), x=X))
