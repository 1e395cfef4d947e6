"""How functions are put into a library."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec
from joulec.passes.relax import build, side_by_side


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


@pytest.mark.parametrize(("threads", "most", "sizes"), [(1, 1000, []), (3, 1000, [2]), (3, 0, [2, 2])])
def test_kernels_compiled_by_several_threads_are_one_library(monkeypatch, threads, most, sizes):
    """Products of six kinds, one of them twice: where a compiled function calls it, its kernel stays there."""
    monkeypatch.setattr(build, "compiling_threads", lambda: threads)
    monkeypatch.setattr(build, "_COMPILED_CALLS", most)
    monkeypatch.setattr(side_by_side, "_LEAST", 2)
    modules = []
    of = side_by_side._object
    monkeypatch.setattr(
        side_by_side, "_object", lambda module, *rest: modules.append(len(module.functions)) or of(module, *rest)
    )
    rng = np.random.default_rng(2)
    widths = [3, 4, 5, 6, 7, 8, 3, 4]
    weights = [rng.standard_normal(pair).astype("float32") for pair in pairwise(widths)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [2, widths[0]])],
        [helper.make_tensor_value_info(f"x{len(weights)}", TensorProto.FLOAT, [2, widths[-1]])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.standard_normal((2, widths[0])).astype("float32")
    with joulec.compile(source, costs="model", budget=0, threads=1, measure=False) as model:
        (found,) = model.run([x])
        assert len(model.profile(2, repeats=2)) == len(weights)
    np.testing.assert_allclose(found, np.linalg.multi_dot([x, *weights]), rtol=1e-3, atol=1e-3)
    assert modules == sizes
