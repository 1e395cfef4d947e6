"""Operators as old opsets define them: attributes that became operands, other axes, other defaults."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import joulec

_RNG = np.random.default_rng(4)
IMAGE = (2, 4, 6, 6)


def _f(*shape):
    return _RNG.standard_normal(shape).astype("float32")


CASES = {
    "Upsample by attributes": (7, "Upsample", IMAGE, {}, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    "Upsample by operand": (9, "Upsample", IMAGE, {"s": np.float32([1, 1, 2, 2])}, {"mode": "linear"}),
    "Resize without coordinates": (10, "Resize", IMAGE, {"s": np.float32([1, 1, 2, 2])}, {"mode": "nearest"}),
    "Slice by attributes": (7, "Slice", IMAGE, {}, {"starts": [1, -4], "ends": [3, 1000], "axes": [1, 2]}),
    "Softmax over all that follows": (7, "Softmax", IMAGE, {}, {"axis": 1}),
    "LogSoftmax by default": (11, "LogSoftmax", IMAGE, {}, {}),
    "Hardmax over all that follows": (7, "Hardmax", IMAGE, {}, {"axis": 2}),
    "Clip by attributes": (7, "Clip", IMAGE, {}, {"min": -0.5, "max": 0.75}),
    "Clip with one bound": (10, "Clip", IMAGE, {}, {"min": 0.0}),
    "BatchNormalization": (
        7,
        "BatchNormalization",
        IMAGE,
        {"s": _f(4), "b": _f(4), "m": _f(4), "v": np.abs(_f(4)) + 1},
        {},
    ),
    "Dropout": (7, "Dropout", IMAGE, {}, {"ratio": 0.3}),
    "Pad by attributes": (7, "Pad", IMAGE, {}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "value": 1.5}),
    "Pad by reflection": (10, "Pad", IMAGE, {}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": "reflect"}),
    "TopK by attribute": (9, "TopK", IMAGE, {}, {"k": 3, "axis": 2}),
    "TopK by operand": (10, "TopK", IMAGE, {"k": np.asarray([2])}, {}),
    "sums by attribute": (11, "ReduceSum", IMAGE, {}, {"axes": [1, 3], "keepdims": 0}),
    "means by attribute": (13, "ReduceMean", IMAGE, {}, {"axes": [-1]}),
    "Squeeze by attribute": (11, "Squeeze", (1, 3, 1, 5), {}, {"axes": [0, 2]}),
    "Unsqueeze by attribute": (11, "Unsqueeze", (3, 5), {}, {"axes": [0, 3]}),
    "Split by attribute": (11, "Split", IMAGE, {}, {"split": [1, 3], "axis": 1}),
    "ArgMax": (7, "ArgMax", IMAGE, {}, {"axis": 1, "keepdims": 0}),
    "Flatten": (7, "Flatten", IMAGE, {}, {"axis": 2}),
    "Gemm": (7, "Gemm", (3, 4), {"b": _f(5, 4), "c": _f(5)}, {"transB": 1, "alpha": 0.5}),
    "MaxPool": (8, "MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "AveragePool": (7, "AveragePool", IMAGE, {}, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    "PRelu": (7, "PRelu", IMAGE, {"slope": _f(4, 1, 1)}, {}),
    "Expand": (8, "Expand", (3, 1), {"s": np.asarray([2, 3, 4])}, {}),
    "Tile": (7, "Tile", (2, 3), {"r": np.asarray([2, 2])}, {}),
    "Scatter": (9, "Scatter", (3, 4), {"i": np.asarray([[0, 2]]), "u": _f(1, 2)}, {"axis": 0}),
    "DepthToSpace": (7, "DepthToSpace", IMAGE, {}, {"blocksize": 2}),
    "LRN": (7, "LRN", IMAGE, {}, {"size": 3}),
    "InstanceNormalization": (7, "InstanceNormalization", IMAGE, {"s": _f(4), "b": _f(4)}, {}),
    "Sum": (8, "Sum", IMAGE, {"a": _f(4, 1, 1), "b": _f(6)}, {}),
    "LSTM": (7, "LSTM", (3, 2, 4), {"w": _f(1, 20, 4), "r": _f(1, 20, 5)}, {"hidden_size": 5}),
    "Cast": (7, "Cast", IMAGE, {}, {"to": 7}),
    "ConvTranspose": (7, "ConvTranspose", IMAGE, {"w": _f(4, 3, 2, 2)}, {"strides": [2, 2]}),
}


@pytest.mark.parametrize("name", CASES)
def test_old_definitions_agree_with_onnxruntime(name):
    opset, kind, shape, constants, attributes = CASES[name]
    outputs = {"TopK": ["y", "z"], "Split": ["y", "z"]}.get(kind, ["y"])
    node = helper.make_node(kind, ["x", *constants], outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "old",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_empty_tensor_value_info(output) for output in outputs],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    x = _f(*shape)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    with joulec.compile(model, costs="model", measure=False, budget=0) as compiled:
        found = compiled.run([x])
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
