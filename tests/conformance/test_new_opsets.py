"""Small networks in every opset from 14 to the newest, and models of kinds that are rarer."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import joulec

_RNG = np.random.default_rng(6)
_OPTIONS = {"costs": "model", "measure": False, "budget": 0, "threads": 1}
F32 = TensorProto.FLOAT


def _f(*shape):
    return _RNG.standard_normal(shape).astype("float32")


def _model(nodes, inputs, outputs, constants, opset, **options):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *options.pop("opsets", ())]
    version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(version, 8), **options)


def _convolutional(opset):
    """Convolution, batch normalisation, pooling, resizing, reductions and a product."""
    axes = {"sum_axes": np.array([2, 3])}
    mean = (
        helper.make_node("ReduceMean", ["u", "sum_axes"], ["m"], keepdims=0)
        if opset >= 18
        else helper.make_node("ReduceMean", ["u"], ["m"], keepdims=0, axes=[2, 3])
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "a", "v"], ["n"]),
        helper.make_node("HardSwish", ["n"], ["h"]),
        helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Pad", ["r", "pads"], ["u"], mode="reflect"),
        mean,
        helper.make_node("Gemm", ["m", "k"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    constants = {
        **{"w": _f(8, 3, 3, 3), "g": _f(8), "b": _f(8), "a": _f(8), "v": np.abs(_f(8)) + 1, "k": _f(8, 5)},
        **{"scales": np.float32([1, 1, 2, 2]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        **(axes if opset >= 18 else {}),
    }
    return _model(nodes, [("x", F32, [2, 3, 8, 8])], [("y", F32, [2, 5])], constants, opset)


def _attention(opset):
    """Heads split, scaled products, normalisation, a recurrent layer and the largest of the result."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("Split", ["q", "parts"], ["a", "b"], axis=2),
        helper.make_node("Transpose", ["b"], ["bt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "bt"], ["s"]),
        helper.make_node("Where", ["mask", "s", "low"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "b"], ["o"]),
        helper.make_node("ReduceSum", ["o", "last"], ["total"]),
        helper.make_node("Div", ["o", "total"], ["d"]),
        helper.make_node("Tanh", ["d"], ["e"]),
        helper.make_node("LSTM", ["e", "wl", "rl"], ["", "h"], hidden_size=4),
        helper.make_node("TopK", ["h", "k"], ["y", "z"]),
    ]
    constants = {
        **{
            "wq": _f(2, 6, 8),
            "parts": np.array([4, 4]),
            "mask": np.tril(np.ones((5, 5), bool)),
            "low": np.float32(-1e4),
        },
        **{"last": np.array([2]), "wl": _f(1, 16, 4), "rl": _f(1, 16, 4), "k": np.array([2])},
    }
    outputs = [("y", F32, [1, 5, 2]), ("z", TensorProto.INT64, [1, 5, 2])]
    return _model(nodes, [("x", F32, [2, 5, 6])], outputs, constants, opset)


def _quantised(opset):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"]),
    ]
    weights = _RNG.integers(-99, 99, (4, 3, 3, 3)).astype("int8")
    scales = {"s": np.float32(0.05), "z": np.uint8(120), "ws": np.float32([0.01, 0.02, 0.03, 0.01])}
    return _model(nodes, [("x", F32, [1, 3, 8, 8])], [("y", F32, [1, 4, 6, 6])], {"w": weights, **scales}, opset)


def _wanted(model, given):
    """By ONNX Runtime, or the reference implementation where that lacks the newest of an operator."""
    try:
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)
    except Exception:  # noqa: BLE001 - its errors have no common base
        return ReferenceEvaluator(model).run(None, given)


def _agree(model, given):
    with joulec.compile(model, **_OPTIONS) as compiled:
        found = compiled.run(list(given.values()))
    for ours, theirs in zip(found, _wanted(model, given), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", range(14, defs.onnx_opset_version() + 1))
@pytest.mark.parametrize("make", [_convolutional, _attention, _quantised])
def test_networks_of_every_opset_agree_with_onnxruntime(make, opset):
    model = make(opset)
    (value,) = model.graph.input
    _agree(model, {"x": _f(*(dim.dim_value for dim in value.type.tensor_type.shape.dim))})


def test_functions_within_functions_with_an_optional_operand_left_out():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function(
        "own",
        "Product",
        ["A", "B", "C"],
        ["Y"],
        [helper.make_node("Gemm", ["A", "B", "C"], ["Y"], transB=1)],
        opsets[:1],
    )
    calls = [
        helper.make_node("Product", ["X", "X", ""], ["p"], domain="own"),
        helper.make_node("LeakyRelu", ["p"], ["Y"], alpha=0.2),
    ]
    outer = helper.make_function("own", "Block", ["X"], ["Y"], calls, opsets)
    node = helper.make_node("Block", ["x"], ["y"], domain="own")
    model = _model(
        [node], [("x", F32, [3, 4])], [("y", F32, [3, 3])], {}, 17, functions=[outer, inner], opsets=opsets[1:]
    )
    _agree(model, {"x": _f(3, 4)})


def test_a_grid_whose_alignment_is_left_to_its_default():
    node = helper.make_node("AffineGrid", ["t", "size"], ["y"])
    size = {"size": np.array([1, 2, 4, 5])}
    _agree(_model([node], [("t", F32, [1, 2, 3])], [("y", F32, [1, 4, 5, 2])], size, 20), {"t": _f(1, 2, 3)})


def test_random_numbers_are_drawn_anew_and_compared_with_nothing():
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["r"], low=0.0, high=1.0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    model = _model(nodes, [("x", F32, [4, 50])], [("y", F32, [4, 50])], {}, 17)
    with pytest.warns(UserWarning, match="or draws random numbers itself: the result is NOT compared"):
        compiled = joulec.compile(model, **_OPTIONS)
    with compiled:
        x = _f(4, 50)
        first, second = compiled(x) - x, compiled(x) - x
    assert not np.array_equal(first, second)
    for drawn in (first, second):
        assert -1e-6 <= drawn.min() < 0.2 < 0.8 < drawn.max() <= 1 + 1e-6
