"""The search as a TVM pass."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from joulec.costdb.open import open_store
from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relax import EnergyAwareOptimize
from joulec.passes.relax.workbench import Setup
from joulec.passes.search.objective import ObjectiveError
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.verification import VerificationError

op = relax.op
MODEL = Setup(costs="model", threads=1)


@pytest.fixture(scope="module")
def branches(tools):
    """Two convolutions of one input that a rule can merge, a concat, and a mean that no graph models."""

    def body(builder, x):
        emit, weight = builder.emit, tools.weight

        def branch(kernel, padding, seed):
            made = op.nn.conv2d(x, weight(8, 8, kernel, kernel, seed=seed), padding=padding)
            return emit(op.nn.relu(emit(op.add(emit(made), weight(1, 8, 1, 1, seed=seed)))))

        joined = emit(op.concat([branch(1, 0, 1), branch(1, 0, 2), branch(3, 1, 3)], axis=1))
        return op.exp(emit(op.mean(joined, axis=[2, 3])))

    return tools.module(body, (1, 8, 6, 6), names=["data"])


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(5).standard_normal((1, 8, 6, 6)).astype("float32")


def test_rewrites_within_the_users_own_pipeline(tools, branches, data):
    optimise = EnergyAwareOptimize(objective="energy", setup=MODEL)
    pipeline = tvm.transform.Sequential(
        [relax.transform.Normalize(), optimise, relax.transform.DeadCodeElimination(), relax.transform.Normalize()]
    )
    with tvm.transform.PassContext(opt_level=3):
        optimised = pipeline(branches)
    assert optimise.result is not None
    assert dict(optimise.result.substitutions)
    assert optimise.result.best.totals.energy_j < optimise.result.origin.totals.energy_j
    assert "call_tir" in optimised["main"].script()
    np.testing.assert_allclose(
        tools.run_module(optimised, data)[0], tools.run_module(branches, data)[0], rtol=1e-4, atol=1e-5
    )


def test_runs_under_tvms_pipelines(branches, data, tools):
    optimised = EnergyAwareOptimize(setup=MODEL)(branches)
    wanted = tools.run_module(branches, data)[0]
    target = tvm.target.Target("llvm")
    with target:
        piped = relax.get_default_pipeline(target)(optimised)
    for executable in (
        tvm.compile(optimised, target),
        relax.build(optimised, target, relax_pipeline=relax.get_default_pipeline(target)),
        relax.build(piped, target, relax_pipeline=None),
        relax.build(optimised, target, exec_mode="compiled"),
    ):
        machine = relax.VirtualMachine(executable, tvm.cpu())
        np.testing.assert_allclose(machine["main"](tvm.runtime.tensor(data)).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_without_any_search_the_graph_stays(branches, tools, data):
    optimise = EnergyAwareOptimize(setup=MODEL, search=SearchOptions(budget=0, inner="none"))
    optimised = optimise(branches)
    assert optimise.result.substitutions == ()
    assert optimise.result.best.totals == optimise.result.origin.totals
    np.testing.assert_allclose(
        tools.run_module(optimised, data)[0], tools.run_module(branches, data)[0], rtol=1e-4, atol=1e-5
    )


def test_measures_once_and_finds_its_costs_again(tmp_path, tools, data):
    mod = tools.module(lambda builder, x: op.nn.softmax(x, axis=1), (4, 16))
    setup = Setup(costs=str(tmp_path / "costs.db"), threads=1)
    optimise = EnergyAwareOptimize(objective="time", setup=setup)
    first = optimise(mod)
    with open_store(setup.costs) as store:
        rows = {row.key.id: row for row in store.rows()}
    assert rows
    chosen = optimise.result.best.choices
    assert {choice.cost.time_source for choice in chosen} == {"measured"}
    again = EnergyAwareOptimize(objective="time", setup=setup)
    second = again(mod)
    with open_store(setup.costs) as store:
        assert {row.key.id: row for row in store.rows()} == rows, "nothing was measured again"
    assert [c.algorithm.name for c in again.result.best.choices] == [c.algorithm.name for c in chosen]
    x = np.random.default_rng(0).standard_normal((4, 16)).astype("float32")
    for optimised in (first, second):
        np.testing.assert_allclose(tools.run_module(optimised, x)[0], tools.run_module(mod, x)[0], rtol=1e-5)


@I.ir_module
class Family:
    """Several functions; one calls another."""

    @R.function
    def main(x: R.Tensor((2, 3), "float32"), w: R.Tensor((3, 3), "float32")) -> R.Tensor((2, 3), "float32"):
        R.func_attr({"num_input": 1, "mine": "kept"})
        with R.dataflow():
            a = R.nn.relu(R.matmul(x, w))
            R.output(a)
        return a

    @R.function
    def other(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
        cls = Family
        with R.dataflow():
            a = cls.main(x, R.const(np.eye(3, dtype="float32")))
            b = R.exp(a)
            R.output(b)
        return b

    @R.function
    def apart(x: R.Tensor((2, 3), "float32")) -> R.Tuple(R.Tensor((2, 3), "float32")):
        with R.dataflow():
            a = (R.negative(x),)
            R.output(a)
        return a


class TestOtherFunctions:
    """What else the module holds."""

    def test_stays_and_still_calls_the_optimised_one(self, tools):
        optimised = EnergyAwareOptimize(setup=MODEL)(Family)
        names = {variable.name_hint for variable in optimised.get_global_vars()}
        assert {"main", "other", "apart"} <= names
        assert relax.analysis.check_well_formed(optimised)
        x = np.array([[-1, 0, 1], [2, -2, 3]], "float32")
        for function, arrays in (("main", (x, np.eye(3, dtype="float32"))), ("other", (x,)), ("apart", (x,))):
            np.testing.assert_allclose(
                tools.run_module(optimised, *arrays, function=function)[0],
                tools.run_module(Family, *arrays, function=function)[0],
                rtol=1e-5,
            )

    def test_keeps_attributes_and_parameters(self):
        before = Family["main"]
        optimised = EnergyAwareOptimize(setup=MODEL)(Family)["main"]
        assert int(optimised.attrs["num_input"]) == 1
        assert optimised.attrs["mine"] == "kept"
        assert [parameter.name for parameter in optimised.params] == ["x", "w"]
        tvm.ir.assert_structural_equal(optimised.ret_ty, before.ret_ty)

    def test_any_function_can_be_the_one(self, tools):
        optimised = EnergyAwareOptimize(setup=MODEL, function="apart")(Family)
        tvm.ir.assert_structural_equal(optimised["main"], Family["main"])
        assert isinstance(optimised["apart"].ret_ty, relax.TupleType)
        x = np.ones((2, 3), "float32")
        np.testing.assert_equal(tools.run_module(optimised, x, function="apart")[0], -x)

    def test_the_users_module_is_untouched(self, branches):
        before = branches.script()
        EnergyAwareOptimize(setup=MODEL)(branches)
        assert branches.script() == before


def test_effects_stay(tools):
    calls = []

    @tvm.register_global_func("test.joulec.seen", override=True)
    def seen(x):
        calls.append(1)
        return x

    def body(builder, x):
        for _ in range(2):
            builder.emit(relax.Call(relax.ExternFunc("test.joulec.seen"), [x], ty_args=[x.ty]))
        return op.nn.relu(x)

    mod = tools.module(body, (3,), pure=False)
    optimised = EnergyAwareOptimize(setup=MODEL, verify=False)(mod)
    assert not calls, "optimising must not run the user's effects"
    tools.run_module(optimised, np.ones(3, "float32"))
    assert len(calls) == 2


class TestErrors:
    """What cannot be done."""

    def test_bounds_that_nothing_keeps(self, branches):
        with pytest.raises(BoundsError, match="nearest takes"):
            EnergyAwareOptimize(bounds=Bounds(max_time_s=1e-12), setup=MODEL)(branches)

    def test_objectives_are_read_at_once(self):
        with pytest.raises(ObjectiveError):
            EnergyAwareOptimize(objective="latency")

    def test_a_function_that_is_not_there(self, branches):
        with pytest.raises(ImportModuleError, match="no Relax function 'forward'"):
            EnergyAwareOptimize(setup=MODEL, function="forward")(branches)

    def test_a_wrong_result_is_refused(self, branches, monkeypatch):
        """A kernel that packs its weights wrongly."""
        from joulec.passes.kernels.registry import KERNELS

        for kernel in {type(kernel) for kernel in KERNELS}:
            real = kernel.pack
            monkeypatch.setattr(kernel, "pack", lambda *given, real=real: real(*given) * np.float32(1.01))
        optimise = EnergyAwareOptimize(setup=MODEL)
        with pytest.raises(VerificationError, match="differs from the original"):
            optimise(branches)
        unchecked = EnergyAwareOptimize(setup=MODEL, verify=False)
        unchecked(branches)


def test_python_functions_are_objectives(branches):
    optimise = EnergyAwareOptimize(lambda totals, origin: totals.kernels / origin.kernels, setup=MODEL)
    optimise(branches)
    assert optimise.result.best.totals.kernels < optimise.result.origin.totals.kernels
