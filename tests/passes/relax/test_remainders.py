"""Movements that once went through remainders in index arithmetic, which LLVM misreads on some processors."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import joulec


def _agrees(nodes, x, constants):
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    with joulec.compile(model, costs="model", measure=False, budget=0) as compiled:
        np.testing.assert_allclose(compiled(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_tiles_whose_inner_axes_repeat_within_a_vector(dtype):
    x = np.random.default_rng(0).integers(0, 200, (7, 8, 2)).astype(dtype)
    _agrees([helper.make_node("Tile", ["x", "r"], ["y"])], x, {"r": np.asarray([3, 2, 2])})


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_pads_that_repeat_within_a_vector(mode):
    x = np.random.default_rng(0).standard_normal((7, 8, 3)).astype("float32")
    pads = np.asarray([6, 7, 2, 6, 7, 2])
    _agrees([helper.make_node("Pad", ["x", "p"], ["y"], mode=mode)], x, {"p": pads})


def test_a_transposed_convolution_in_groups():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 8, 5, 7)), rng.standard_normal((8, 4, 3, 3)).astype("float32")
    node = helper.make_node("ConvTranspose", ["x", "k"], ["y"], group=4, strides=[2, 2], output_padding=[1, 0])
    _agrees([node], x.astype("float32"), {"k": kernel})
