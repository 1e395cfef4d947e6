"""A small convolutional network as an ONNX model, for the examples beside it: quick to compile, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_model(seed: int = 0) -> onnx.ModelProto:
    """Two parallel convolutions of one tensor (which a rule can merge), joined, pooled and classified.

    Takes ``x`` of shape [1, 3, 16, 16], gives ``y`` of shape [1, 10]; the leading dimension is the batch.
    """
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype("float32"), name)

    weights = [weight("w0", 16, 3, 3, 3), weight("w1", 16, 16, 1, 1), weight("w2", 16, 16, 3, 3), weight("w3", 10, 32)]
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="stem", **same),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="narrow", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["r0", "w2"], ["c2"], name="wide", **same),
        helper.make_node("Concat", ["c1", "c2"], ["joined"], axis=1),
        helper.make_node("Relu", ["joined"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["y"], name="classes", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
