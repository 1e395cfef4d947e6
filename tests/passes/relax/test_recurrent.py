"""Recurrent layers of sizes at which their products run by vectors, and of others, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize(("hidden", "depth"), [(3, 24), (16, 24), (40, 61), (22, 6), (14, 3)])
@pytest.mark.parametrize("kind", GATES)
def test_recurrent_layers_agree_with_onnxruntime(kind, hidden, depth):
    rng = np.random.default_rng(hidden)
    gates, batch, steps = GATES[kind], 2, 4
    weights = {
        "w": rng.standard_normal((2, gates * hidden, depth)) / 5,
        "r": rng.standard_normal((2, gates * hidden, hidden)) / 5,
        "b": rng.standard_normal((2, 2 * gates * hidden)) / 5,
    }
    node = helper.make_node(kind, ["x", *weights], ["y", "last"], hidden_size=hidden, direction="bidirectional")
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, batch, depth])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "last")],
        [numpy_helper.from_array(array.astype("float32"), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.standard_normal((steps, batch, depth)).astype("float32")
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    with joulec.compile(model, costs="model", measure=False, budget=0) as compiled:
        for ours, theirs in zip(compiled.run([x]), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
