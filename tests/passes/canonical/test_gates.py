"""Products of a value with a gate of itself become one activation, in the epilogue of what makes the value."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulec.passes.canonical import canonicalise
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx

_N = helper.make_node
_RNG = np.random.default_rng(2)
CONSTANTS = {
    "w": _RNG.standard_normal((4, 3, 3, 3)).astype("float32"),
    "three": np.full((1,), 3, np.float32),
    "two": np.full((1,), 2, np.float32),
    "zero": np.float32(0),
    "six": np.float32(6),
    "sixes": np.full((1,), 6, np.float32),
}


def _model(nodes):
    nodes = [_N("Conv", ["x", "w"], ["c"]), *nodes]
    graph = helper.make_graph(
        nodes,
        "gates",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 7, 7])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in CONSTANTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def _ramp(shift="three"):
    return [_N("Add", ["c", shift], ["a"]), _N("Clip", ["a", "zero", "six"], ["r"])]


GATES = {
    "silu": ([_N("Sigmoid", ["c"], ["s"]), _N("Mul", ["c", "s"], ["y"])], "silu"),
    "the gate first": ([_N("Sigmoid", ["c"], ["s"]), _N("Mul", ["s", "c"], ["y"])], "silu"),
    "hard swish": ([*_ramp(), _N("Mul", ["c", "r"], ["m"]), _N("Div", ["m", "sixes"], ["y"])], "hard_swish"),
    "a divided gate": ([*_ramp(), _N("Div", ["r", "sixes"], ["d"]), _N("Mul", ["c", "d"], ["y"])], "hard_swish"),
    "a hard sigmoid": (
        [_N("HardSigmoid", ["c"], ["s"], alpha=1 / 6, beta=0.5), _N("Mul", ["c", "s"], ["y"])],
        "hard_swish",
    ),
    "another shift": ([*_ramp("two"), _N("Mul", ["c", "r"], ["m"]), _N("Div", ["m", "sixes"], ["y"])], None),
    "another slope": ([_N("HardSigmoid", ["c"], ["s"]), _N("Mul", ["c", "s"], ["y"])], None),
    "the gate of another value": (
        [_N("Relu", ["c"], ["o"]), _N("Sigmoid", ["o"], ["s"]), _N("Mul", ["c", "s"], ["y"])],
        None,
    ),
    "a gate that is read elsewhere": (
        [_N("Sigmoid", ["c"], ["s"]), _N("Mul", ["c", "s"], ["m"]), _N("Mul", ["m", "s"], ["y"])],
        None,
    ),
}


@pytest.mark.parametrize("name", GATES)
def test_gates(name):
    nodes, kind = GATES[name]
    graph = import_onnx(_model(nodes)).graph
    canonical = canonicalise(graph, lambda spec, step: True)
    steps = [step.activation for node in canonical.nodes for step in node.epilogue]
    if kind is None:
        assert not {"silu", "hard_swish"}.intersection(steps)
    else:
        assert [node.op.name for node in canonical.nodes] == ["conv2d"]
        assert steps == [kind]
    x = _RNG.standard_normal((1, 3, 9, 9)).astype("float32")
    for ours, wanted in zip(evaluate(canonical, {"x": x}), evaluate(graph, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
