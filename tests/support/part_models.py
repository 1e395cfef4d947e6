"""Models of which a part does not fit into a compiled function, for tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def value(name, shape=None, kind=FLOAT):
    """A tensor; of any shape where none is given."""
    return helper.make_tensor_value_info(name, kind, shape)


def nested(name, kind, *outer):
    """A sequence or optional of tensors, from the inside outwards."""
    type = helper.make_tensor_type_proto(kind, None)
    for one in outer:
        make = helper.make_sequence_type_proto if one == "sequence" else helper.make_optional_type_proto
        type = make(type)
    return helper.make_value_info(name, type)


def build(nodes, inputs, outputs, constants=None, domains=()):
    """A model that ONNX's checker accepts."""
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "parts", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 3) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(made)
    return made


def normal(*shape):
    """A weight."""
    return RNG.standard_normal(shape).astype(np.float32)


def detector():
    """A convolution, boxes and scores of its result, and of those what NonMaxSuppression leaves."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["features"], "conv", strides=[4, 4], pads=[1, 1, 1, 1]),
        node("Relu", ["features"], ["positive"], "relu"),
        node("Split", ["positive", "halves"], ["left", "right"], axis=1),
        node("Reshape", ["left", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["boxes"], perm=[0, 2, 1]),
        node("Reshape", ["right", "flat"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"], "nms"),
        node("Gather", ["selected", "last"], ["indices"], axis=1),
        node("Squeeze", ["boxes", "first"], ["all"]),
        node("Gather", ["all", "indices"], ["found"], "found"),
        node("Shape", ["indices"], ["count"]),
    ]
    constants = {
        "kernel": normal(8, 3, 3, 3), "halves": [4, 4], "flat": [1, 4, 64], "most": [64], "last": 2, "first": [0],
        "overlap": np.float32([0.4]), "least": np.float32([0.5]),
    }  # fmt: skip
    outputs = [value("found", ["n", 4]), value("scores", [1, 4, 64]), value("count", [1], INT64)]
    return build(nodes, [value("image", [1, 3, 32, 32])], outputs, constants)


def looped():
    """A loop over the rows that NonZero finds, which sums them up one after the other."""
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Gather", ["rows", "step"], ["row"]),
            node("Gather", ["product", "row"], ["taken"]),
            node("Add", ["sum", "taken"], ["more"]),
            node("Identity", ["go"], ["going"]),
            node("Identity", ["more"], ["each"]),
        ],
        "body",
        [value("step", [], INT64), value("go", [], BOOL), value("sum", [6])],
        [value("going", [], BOOL), value("more", [6]), value("each", [6])],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["product"], "product"),
        node("ReduceSum", ["product", "axis"], ["sums"], keepdims=0),
        node("Greater", ["sums", "zero"], ["above"]),
        node("NonZero", ["above"], ["places"], "places"),
        node("Squeeze", ["places", "first"], ["rows"]),
        node("Size", ["rows"], ["times"]),
        node("Loop", ["times", "always", "start"], ["total", "steps"], "loop", body=body),
    ]
    constants = {
        "w": normal(5, 6), "axis": [1], "zero": np.float32(0), "first": [0], "always": np.array(True),
        "start": np.zeros(6, np.float32),
    }  # fmt: skip
    return build(nodes, [value("x", [9, 5])], [value("total", [6]), value("steps", ["n", 6])], constants)


def text_classifier():
    """Words to lower case, to indices, to their embeddings, to a matrix product, and the label with the best score."""
    node, words = helper.make_node, ["good", "bad", "film", "book"]
    nodes = [
        node("StringNormalizer", ["words"], ["lower"], "normal", case_change_action="LOWER", locale="C"),
        node(
            "LabelEncoder",
            ["lower"],
            ["ids"],
            "encode",
            domain="ai.onnx.ml",
            keys_strings=words,
            values_int64s=[0, 1, 2, 3],
            default_int64=4,
        ),
        node("Gather", ["table", "ids"], ["embedded"]),
        node("MatMul", ["embedded", "w"], ["logits"], "product"),
        node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        node(
            "LabelEncoder",
            ["best"],
            ["label"],
            "name",
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=["praise", "blame", "neither"],
            default_string="?",
        ),
    ]
    outputs = [value("logits", [3, 3]), value("label", [3], STRING)]
    constants = {"table": normal(5, 16), "w": normal(16, 3)}
    return build(nodes, [value("words", [3], STRING)], outputs, constants, ["ai.onnx.ml"])
