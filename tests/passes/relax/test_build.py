"""How functions are put into a library."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec
from joulec.passes.relax import build


@pytest.mark.parametrize("most", [0, 1000])
def test_long_functions_run_as_bytecode_with_the_same_results(monkeypatch, most):
    monkeypatch.setattr(build, "_COMPILED_CALLS", most)
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal((8, 8)).astype("float32") for _ in range(3)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(3)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("x3", TensorProto.FLOAT, [2, 8])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.standard_normal((2, 8)).astype("float32")
    with joulec.compile(source, costs="model", budget=0, threads=1, measure=False) as model:
        (found,) = model.run([x])
        assert len(model.profile(2, repeats=2)) == 3
    np.testing.assert_allclose(found, x @ weights[0] @ weights[1] @ weights[2], rtol=1e-4, atol=1e-4)
