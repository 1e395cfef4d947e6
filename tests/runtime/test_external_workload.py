"""What the measuring harness builds of an operator that runs outside the compiled library."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from joulec.runtime import external
from joulec.runtime.external import Externals, build


def payload(nodes, operands, results, initializers=(), seed=3):
    """As the compiler makes it: (name, shape, dtype) of operands and results, ONNX nodes between them."""

    def info(name, shape, dtype):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    def type_of(name, shape, dtype):
        return SimpleNamespace(shape=shape, dtype=dtype)

    graph = helper.make_graph(nodes, "g", [info(*o) for o in operands], [info(*r) for r in results], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = SimpleNamespace(
        op=SimpleNamespace(name="opaque.Test", definition=model.SerializeToString()),
        operands=[SimpleNamespace(type=type_of(*operand)) for operand in operands],
        results=[type_of(*result) for result in results],
    )
    return SimpleNamespace(spec=spec, target=SimpleNamespace(threads=1), seed=seed)


def einsum():
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation="bij,bjk->bik")
    return payload([node], [("a", (2, 3, 4), "float32"), ("b", (2, 4, 5), "float32")], [("y", (2, 3, 5), "float32")])


@pytest.fixture(params=["onnxruntime", "reference"])
def runtime(request, monkeypatch):
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setitem(sys.modules, "onnxruntime.capi", None)


@pytest.fixture
def seen(monkeypatch):
    """The arrays of each call, with the results as the call left them."""
    calls = []
    compute = Externals.__call__

    def spy(self, digest, arrays):
        compute(self, digest, arrays)
        calls.append([array.copy() for array in arrays])

    monkeypatch.setattr(Externals, "__call__", spy)
    return calls


def test_it_computes_the_operator_on_changing_random_operands(runtime, seen):
    workload = build(einsum())
    seen.clear()
    workload.run(7)
    assert len(seen) == 7
    for a, b, y in seen:
        np.testing.assert_allclose(y, a @ b, rtol=1e-5, atol=1e-5)
        assert (a != 0).all()
        assert (b != 0).all()
    assert not np.array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][0], seen[3][0])
    assert 0 < workload.overhead_s() < 1e-3


def test_the_seed_decides_the_data(runtime, seen):
    for _ in range(2):
        build(einsum())
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


def test_large_operands_are_not_copied(monkeypatch, seen):
    monkeypatch.setattr(external, "_COPIED_BYTES", 100)
    workload = build(einsum())
    seen.clear()
    workload.run(2)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize(("rows", "index"), [(5, 1), (1, 0)])
def test_integers_are_valid_indices(runtime, seen, rows, index):
    node = helper.make_node("Gather", ["table", "index"], ["y"], axis=0)
    operands = [("table", (rows, 4), "float32"), ("index", (3,), "int64")]
    build(payload([node], operands, [("y", (3, 4), "float32")])).run(1)
    assert (seen[-1][1] == index).all()


def test_booleans_are_true(runtime, seen):
    node = helper.make_node("Where", ["c", "a", "b"], ["y"])
    operands = [("c", (4,), "bool"), ("a", (4,), "float32"), ("b", (4,), "float32")]
    build(payload([node], operands, [("y", (4,), "float32")])).run(1)
    condition, a, _, y = seen[-1]
    assert condition.all()
    np.testing.assert_array_equal(y, a)


def test_an_operator_that_cannot_run_fails_while_it_is_built(runtime):
    reshape = helper.make_node("Reshape", ["a", "s"], ["y"])
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [7])
    with pytest.raises(Exception, match="7"):
        build(payload([reshape], [("a", (6,), "float32")], [("y", (7,), "float32")], [shape]))


class TestWeights:
    """Inputs that are the same at each call."""

    @pytest.fixture
    def product(self):
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
        made = payload([node], [("a", (2, 3), "float32"), ("b", (3, 4), "float32")], [("y", (2, 4), "float32")])
        return made.spec.op.definition

    def test_each_set_has_a_session_that_holds_it(self, runtime, product):
        externals = Externals()
        externals.acquire({"p": product}, 1)
        rng = np.random.default_rng(0)
        first, second = (rng.standard_normal((3, 4)).astype("float32") for _ in range(2))
        externals.hold([first, second])
        for weights in (first, second, first):
            a, y = rng.standard_normal((2, 3)).astype("float32"), np.empty((2, 4), "float32")
            externals("p", [a, weights, y])
            np.testing.assert_allclose(y, a @ weights, rtol=1e-5, atol=1e-5)
        assert len(externals._sessions["p"]) == 2

    def test_what_is_let_go_may_change(self, runtime, product):
        externals = Externals()
        externals.acquire({"p": product}, 1)
        externals.acquire({"p": product}, 1)
        a, weights, y = np.ones((2, 3), "float32"), np.ones((3, 4), "float32"), np.empty((2, 4), "float32")
        externals.hold([weights])
        externals("p", [a, weights, y])
        externals.release(["p"], [weights])
        weights[:] = 2
        externals("p", [a, weights, y])
        assert (y == 6).all()

    def test_a_measured_operator_keeps_its_own(self, runtime, seen, product):
        made = payload([], [("a", (2, 3), "float32"), ("b", (3, 4), "float32")], [("y", (2, 4), "float32")])
        made.spec.op.definition = product
        made.spec.operands[1].constant = True
        workload = build(made)
        seen.clear()
        workload.run(3)
        assert not np.array_equal(seen[0][0], seen[1][0])
        for a, b, y in seen:
            np.testing.assert_array_equal(b, seen[0][1])
            np.testing.assert_allclose(y, a @ b, rtol=1e-5, atol=1e-5)


def test_changing_memory_is_read_anew(runtime):
    node = helper.make_node("Neg", ["a"], ["y"])
    made = payload([node], [("a", (4,), "float32")], [("y", (4,), "float32")])
    externals = Externals()
    externals.acquire({"n": made.spec.op.definition}, 1)
    arrays = [np.full(4, number, "float32") for number in range(4)]
    for given in (arrays[0], arrays[1], arrays[0]):
        for result in arrays[2:]:
            given += 1
            externals("n", [given, result])
            np.testing.assert_array_equal(result, -given)
