"""Operators that TVM's own ONNX frontend lowers, where that was seen to be right."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec
from joulec.costdb.cost import Cost, Failure
from joulec.costdb.memory import MemoryStore
from joulec.passes.graph import Opaque
from joulec.passes.onnx import import_onnx
from joulec.passes.relax import agreement
from joulec.passes.relax.agreement import ALGORITHM, Agreements
from joulec.passes.servant import Servant

pytest.importorskip("onnxruntime")


def model(*nodes, shapes, results, constants=None):
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results.items()]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def affine_grid():
    return model(
        helper.make_node("AffineGrid", ["t", "size"], ["g"]),
        helper.make_node("Relu", ["g"], ["y"]),
        shapes={"t": (TensorProto.FLOAT, [1, 2, 3])},
        results={"y": [1, 4, 5, 2]},
        constants={"size": [1, 2, 4, 5]},
    )


def antialiased():
    """What the frontend silently computes without its filter."""
    return model(
        helper.make_node("Resize", ["x", "", "", "size"], ["y"], mode="linear", antialias=1),
        shapes={"x": (TensorProto.FLOAT, [1, 2, 8, 8])},
        results={"y": [1, 2, 4, 4]},
        constants={"size": [1, 2, 4, 4]},
    )


def branching():
    def branch(kind):
        out = helper.make_tensor_value_info(f"{kind}_y", TensorProto.FLOAT, [3])
        return helper.make_graph([helper.make_node(kind, ["x"], [f"{kind}_y"])], kind, [], [out])

    return model(
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        shapes={"x": (TensorProto.FLOAT, [3]), "c": (TensorProto.BOOL, [])},
        results={"y": [3]},
    )


def opaque(source: onnx.ModelProto) -> Opaque:
    return next(node.op for node in import_onnx(source).graph.nodes if isinstance(node.op, Opaque))


@pytest.fixture
def store():
    with MemoryStore() as opened:
        yield opened


def agreements(store) -> Agreements:
    return Agreements(store, "device", "tvm", "llvm")


def outcomes(store):
    return [row.outcome for row in store.rows()]


def test_what_agrees_is_lowered_and_not_tried_again(store, monkeypatch):
    op = opaque(affine_grid())
    lowered = agreements(store).lowered(op)
    assert lowered is not None
    assert (lowered.dialect, lowered.operand_types, lowered.result_types) == (
        "relax",
        op.operand_types,
        op.result_types,
    )
    (outcome,) = outcomes(store)
    assert isinstance(outcome, Cost)
    assert outcome.samples >= 4
    monkeypatch.setattr(agreement, "_tried", lambda *_: pytest.fail("tried again"))
    assert agreements(store).lowered(op) == lowered


def test_what_differs_is_not_lowered_and_that_is_remembered_too(store, monkeypatch):
    op = opaque(antialiased())
    assert agreements(store).lowered(op) is None
    (outcome,) = outcomes(store)
    assert isinstance(outcome, Failure)
    assert outcome.kind == "run"
    assert outcome.reason.startswith("TVM's frontend and ONNX differ by 0.")
    monkeypatch.setattr(agreement, "_tried", lambda *_: pytest.fail("tried again"))
    assert agreements(store).lowered(op) is None


def test_a_branch_that_random_inputs_may_not_take_is_not_tried(store):
    assert agreements(store).lowered(opaque(branching())) is None
    assert outcomes(store) == []


def test_a_frontend_that_crashes(store, monkeypatch):
    monkeypatch.setattr(agreement, "_SERVANT", Servant("this"))  # a program that ends without an answer
    assert agreements(store).lowered(opaque(affine_grid())) is None
    assert outcomes(store)[0].kind == "crash"


def test_a_frontend_that_hangs(store, monkeypatch):
    monkeypatch.setattr(agreement, "_SERVANT", Servant("joulec.passes.relax.frontend_worker"))
    monkeypatch.setattr(agreement, "_TIME_LIMIT_S", 0.01)
    assert agreements(store).lowered(opaque(affine_grid())) is None
    assert outcomes(store)[0].kind == "timeout"


def test_a_model_is_compiled_through_the_frontend(tmp_path):
    options = {"costs": str(tmp_path / "costs.db"), "budget": 0, "threads": 1, "measure": False}
    t = np.random.default_rng(0).standard_normal((1, 2, 3)).astype("float32")
    (wanted,) = onnx.reference.ReferenceEvaluator(affine_grid()).run(None, {"t": t})
    with joulec.compile(affine_grid(), **options) as made:
        assert {one.operator: one.algorithm for one in made.entry(1).assignment}["opaque.AffineGrid"] == ALGORITHM
        path = made.save(tmp_path / "grid.joulec")
    with joulec.load(path) as loaded:
        np.testing.assert_allclose(loaded(t), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    with joulec.compile(affine_grid(), exclude_algorithms=(ALGORITHM,), **options) as made:
        assert {one.operator: one.algorithm for one in made.entry(1).assignment}["opaque.AffineGrid"] == "onnxruntime"
