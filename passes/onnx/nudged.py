"""A quantised model with what it rounds changed by a few roundings: how steady it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

_ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_NUDGE = 64 * float(np.finfo(np.float32).eps)
"""Change of what is rounded, relative to it: what summing up some hundred products in another order amounts to."""


def nudged(model: Any, seed: int) -> Any:
    """The model with a factor close to 1 in front of each node of its graph that rounds float32 to levels.

    An input that is quantised first hides from all that follows how it was changed; so what lies between operators is.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    generator = np.random.default_rng(seed)
    scales = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    nodes = []
    for index, node in enumerate(found.graph.node):
        plain = node.op_type == "DynamicQuantizeLinear" or (
            node.op_type == "QuantizeLinear" and scales.get(node.input[1]) == onnx.TensorProto.FLOAT
        )
        if node.op_type in _ROUNDING and plain:
            factor, moved = f"joulec/factor{index}", f"joulec/nudged{index}"
            value = np.float32(1 + generator.uniform(-_NUDGE, _NUDGE))
            found.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), factor))
            nodes.append(onnx.helper.make_node("Mul", [node.input[0], factor], [moved]))
            node.input[0] = moved
        nodes.append(node)
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del found.graph.node[:]
    found.graph.node.extend(copied)
    return found
