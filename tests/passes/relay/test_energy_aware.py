"""The search as a pass on Relay modules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import relay
from tvm.contrib import graph_executor

from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relay import EnergyAwareOptimize
from joulec.passes.relay.algorithm import CONV_BLOCKED, RelayAlgorithm, kernel_name
from joulec.passes.search.objective import ObjectiveError
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.workbench import Setup

MODEL = Setup(costs="model", threads=1)
TARGET = tvm.target.Target("llvm")


def weight(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype("float32")


def branches(make=relay.const):
    """Convolutions of one input that a rule can merge, a concat, and a mean that no graph models."""
    x = relay.var("data", shape=(1, 16, 6, 6))

    def branch(kernel, padding, seed):
        made = relay.nn.conv2d(
            x,
            make(weight(16, 16, kernel, kernel, seed=seed)),
            padding=(padding, padding),
            channels=16,
            kernel_size=(kernel, kernel),
        )
        return relay.nn.relu(relay.nn.bias_add(made, make(weight(16, seed=seed))))

    joined = relay.concatenate([branch(1, 0, 1), branch(1, 0, 2), branch(3, 1, 3)], axis=1)
    body = relay.exp(relay.mean(joined, axis=[2, 3]))
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(body), body)))


DATA = np.random.default_rng(5).standard_normal((1, 16, 6, 6)).astype("float32")


def built(module, level=3, params=None):
    with tvm.transform.PassContext(opt_level=level):
        return relay.build(module, target=TARGET, params=params)


def run(module, level=3, params=None, **inputs):
    machine = graph_executor.GraphModule(built(module, level, params)["default"](tvm.cpu()))
    machine.set_input(**(inputs or {"data": DATA}))
    machine.run()
    return machine.get_output(0).numpy()


def names_of(factory):
    nodes = json.loads(factory.get_graph_json())["nodes"]
    return [node["attrs"]["func_name"] for node in nodes if node["op"] == "tvm_op"]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_relay_build_compiles_exactly_the_assignment(level):
    optimise = EnergyAwareOptimize("time", setup=MODEL)
    module = optimise(branches())
    plan = optimise.result.best
    chosen = [
        kernel_name(node.spec, choice.algorithm)
        for node, choice in zip(plan.graph.nodes, plan.choices, strict=True)
        if isinstance(choice.algorithm, RelayAlgorithm) and not node.spec.op.name.startswith("opaque")
    ]
    assert chosen
    found = [name for name in names_of(built(module, level)) if name.startswith("joulec_")]
    assert [name for name in found if "relayout" not in name] == chosen
    assert sorted(found) == sorted(optimise.kernels)
    np.testing.assert_allclose(run(module, level), run(branches()), rtol=1e-4)


def test_a_pinned_configuration_is_what_is_lowered():
    """Two configurations of one operator give two kernels, and each is the one of its tiles."""
    from joulec.passes.graph import Conv2d, NodeSpec, OperandSpec, TensorType
    from joulec.passes.kernels.target import cpu_target
    from joulec.passes.relay.algorithm import algorithms_of
    from joulec.passes.relay.lower import compiled
    from joulec.profiler.roofline import Roofline

    types = TensorType((1, 16, 12, 12)), TensorType((32, 16, 3, 3)), TensorType((1, 32, 12, 12))
    spec = NodeSpec(
        Conv2d(padding=(1, 1, 1, 1)), (OperandSpec(types[0], False), OperandSpec(types[1], True)), (), types[2:]
    )
    ways = [
        way
        for way in algorithms_of(spec, cpu_target("llvm", 1), Roofline(1e12, 1e12))
        if way.implementation == CONV_BLOCKED
    ]
    assert len({dict(way.config)["tile_ow"] for way in ways}) == len(ways) > 1
    data, kernel = weight(1, 16, 12, 12), weight(32, 16, 3, 3)
    wanted = Conv2d(padding=(1, 1, 1, 1)).evaluate(data, kernel)[0]
    for way in ways:
        shapes = [way.operand_shape(spec, 0), way.result_shape(spec, 0)]
        block = way.reads
        packed = data.reshape(1, 16 // block, block, 12, 12).transpose(0, 1, 3, 4, 2)
        result = tvm.nd.empty(shapes[1])
        compiled(spec, way)(tvm.nd.array(np.ascontiguousarray(packed)), tvm.nd.array(way.pack(spec, 1, kernel)), result)
        found = result.numpy().transpose(0, 1, 4, 2, 3).reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_within_the_users_own_pipeline():
    optimise = EnergyAwareOptimize(setup=MODEL)
    steps = [
        relay.transform.SimplifyInference(),
        relay.transform.FoldConstant(),
        optimise,
        relay.transform.InferType(),
        relay.transform.FoldConstant(),
        relay.transform.AlterOpLayout(),
        relay.transform.EliminateCommonSubexpr(),
        relay.transform.FuseOps(),
    ]
    with tvm.transform.PassContext(opt_level=3), TARGET:
        optimised = tvm.transform.Sequential(steps)(branches())
    assert dict(optimise.result.substitutions)
    assert sorted(name for name in names_of(built(optimised)) if name.startswith("joulec_")) == sorted(optimise.kernels)
    np.testing.assert_allclose(run(optimised), run(branches()), rtol=1e-4)


def test_what_it_does_not_know_stays():
    text = EnergyAwareOptimize(setup=MODEL)(branches())["main"].astext()
    assert "mean(" in text


def test_parameters_that_are_not_bound_stay_operands():
    values = {}

    def parameter(value):
        name = f"w{len(values)}"
        values[name] = value
        return relay.var(name, shape=value.shape)

    module = branches(parameter)
    optimised = EnergyAwareOptimize(setup=MODEL)(module)
    assert [p.name_hint for p in optimised["main"].params] == [p.name_hint for p in module["main"].params]
    wanted = run(branches())
    np.testing.assert_allclose(run(optimised, params=values), wanted, rtol=1e-4)
    bound = EnergyAwareOptimize(setup=MODEL, params=values)(module)
    assert [p.name_hint for p in bound["main"].params] == ["data"]
    np.testing.assert_allclose(run(bound), wanted, rtol=1e-4)


def test_survives_saving():
    optimised = EnergyAwareOptimize(setup=MODEL)(branches())
    again = tvm.ir.load_json(tvm.ir.save_json(optimised))
    np.testing.assert_allclose(run(again), run(branches()), rtol=1e-4)


def test_the_virtual_machine_takes_it_too():
    optimised = EnergyAwareOptimize(setup=MODEL)(branches())
    with tvm.transform.PassContext(opt_level=3):
        executable = relay.vm.compile(optimised, TARGET)
    found = tvm.runtime.vm.VirtualMachine(executable, tvm.cpu()).run(DATA).numpy()
    np.testing.assert_allclose(found, run(branches()), rtol=1e-4)


def test_bounds_that_nothing_keeps():
    with pytest.raises(BoundsError, match="nearest takes"):
        EnergyAwareOptimize(bounds=Bounds(max_time_s=1e-12), setup=MODEL)(branches())


def test_objectives_are_read_at_once():
    with pytest.raises(ObjectiveError):
        EnergyAwareOptimize(objective="latency")


def test_a_function_that_is_not_there():
    with pytest.raises((ImportModuleError, ValueError), match="no Relay function 'forward'"):
        EnergyAwareOptimize(setup=MODEL, function="forward").transform_module(branches(), None)


def test_measures_once_and_finds_its_costs_again(tmp_path):
    from joulec.costdb.open import open_store

    x = relay.var("data", shape=(4, 16))
    module = tvm.IRModule.from_expr(relay.Function([x], relay.nn.softmax(x, axis=1)))
    setup = Setup(costs=str(tmp_path / "costs.db"), threads=1)
    search = SearchOptions(budget=0)
    EnergyAwareOptimize("time", setup=setup, search=search)(module)
    with open_store(setup.costs) as store:
        rows = {row.key.id: row for row in store.rows()}
    assert rows
    assert all(row.key.compiler.startswith("tvm-0.19") for row in rows.values())
    again = EnergyAwareOptimize("time", setup=setup, search=search)
    again(module)
    with open_store(setup.costs) as store:
        assert {row.key.id: row for row in store.rows()} == rows, "nothing was measured again"
    assert {choice.cost.time_source for choice in again.result.best.choices} == {"measured"}
