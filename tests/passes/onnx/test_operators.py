"""Each operator, with its attributes and opsets, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from joulec.passes.graph import Opaque
from joulec.passes.onnx import import_onnx

_RNG = np.random.default_rng(3)


def _f(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _i(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


IMAGE = (2, 6, 9, 8)
ROWS = (2, 6, 10)

# operator, input shapes, constants in the order of operands (None: left out), attributes, opset
MODELLED = [
    ("Conv", [IMAGE], [_f(4, 6, 3, 3), _f(4)], {"pads": [1, 0, 2, 1]}, 11),
    ("Conv", [IMAGE], [_f(4, 3, 3, 2)], {"group": 2, "strides": [2, 1], "dilations": [1, 2]}, 13),
    ("Conv", [IMAGE], [_f(6, 1, 3, 3), _f(6)], {"group": 6, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 7),
    ("Conv", [IMAGE], [_f(5, 6, 4, 4)], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, 13),
    ("Conv", [IMAGE], [_f(5, 6, 4, 4)], {"auto_pad": "VALID"}, 13),
    ("Conv", [IMAGE, (5, 6, 3, 3), (5,)], [], {}, 13),
    ("Conv", [ROWS], [_f(4, 6, 3), _f(4)], {"pads": [1, 2]}, 11),
    ("Conv", [ROWS], [_f(4, 3, 2)], {"group": 2, "strides": [2], "dilations": [3]}, 13),
    ("Conv", [ROWS], [_f(5, 6, 4)], {"auto_pad": "SAME_LOWER", "strides": [3]}, 13),
    ("Conv", [ROWS, (5, 6, 3), (5,)], [], {}, 13),
    ("MaxPool", [ROWS], [], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, 12),
    ("AveragePool", [ROWS], [], {"kernel_shape": [3], "pads": [1, 0], "count_include_pad": 1}, 10),
    ("GlobalAveragePool", [ROWS], [], {}, 13),
    ("GlobalMaxPool", [ROWS], [], {}, 13),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}, 8),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 10),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 0, 1, 0], "ceil_mode": 1}, 12),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 2], "dilations": [2, 3]}, 12),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, 12),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 0, 2], "strides": [2, 1]}, 7),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 0, 2], "count_include_pad": 1}, 10),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 19),
    (
        "AveragePool",
        [IMAGE],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
        19,
    ),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, 19),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 11),
    ("GlobalAveragePool", [IMAGE], [], {}, 13),
    ("GlobalMaxPool", [IMAGE], [], {}, 13),
    ("ReduceMean", [IMAGE], [], {"axes": [2, -1], "keepdims": 0}, 13),
    ("ReduceMean", [IMAGE], [_i(-1, -2)], {"keepdims": 1}, 18),
    ("MatMul", [(4, 5)], [_f(5, 3)], {}, 13),
    ("MatMul", [(2, 3, 4, 5), (3, 5, 2)], [], {}, 13),
    ("Gemm", [(4, 5)], [_f(3, 5), _f(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 13),
    ("Gemm", [(5, 4)], [_f(5, 3), _f(1, 3)], {"transA": 1}, 9),
    ("Gemm", [(4, 5)], [_f(5, 3), _f(4, 3)], {"beta": 0.25}, 13),
    ("Gemm", [(4, 5)], [_f(5, 3), _f(4, 1)], {}, 13),
    ("Gemm", [(4, 5)], [_f(5, 3), _f(1)], {}, 13),
    ("Gemm", [(4, 5)], [_f(5, 3)], {"alpha": 3.0}, 13),
    ("Gemm", [(4, 5), (5, 3), (3,)], [], {"alpha": 3.0, "beta": 0.5}, 13),
    ("Relu", [IMAGE], [], {}, 7),
    ("Sigmoid", [IMAGE], [], {}, 13),
    ("Tanh", [(3, 4)], [], {}, 13),
    ("Exp", [(3, 4)], [], {}, 13),
    ("Erf", [(3, 4)], [], {}, 13),
    ("Gelu", [(3, 4)], [], {}, 20),
    ("LeakyRelu", [IMAGE], [], {}, 7),
    ("LeakyRelu", [IMAGE], [], {"alpha": 0.3}, 16),
    ("Clip", [IMAGE], [], {"min": -0.5, "max": 0.75}, 7),
    ("Clip", [IMAGE], [], {"max": 0.75}, 7),
    ("Clip", [IMAGE], [np.float32(-0.5), np.float32(0.5)], {}, 13),
    ("Clip", [IMAGE], [None, np.float32(0.5)], {}, 13),
    ("Clip", [IMAGE], [np.float32(0)], {}, 13),
    ("Add", [IMAGE], [_f(6, 1, 1)], {}, 13),
    ("Add", [IMAGE], [_f(1)], {}, 7),
    ("Add", [IMAGE], [_f(8)], {}, 13),
    ("Add", [(2, 3, 4)], [_f(4)], {}, 13),
    ("Add", [(2, 3, 4)], [_f(3, 1)], {}, 13),
    ("Add", [(3, 1)], [_f(1, 4)], {}, 13),
    ("Add", [IMAGE, IMAGE], [], {}, 13),
    ("Add", [IMAGE, (6, 1, 8)], [], {}, 13),
    ("Sum", [IMAGE, IMAGE, (1, 6, 1, 1)], [], {}, 13),
    ("Sum", [IMAGE], [_f(1, 6, 1, 1)], {}, 8),
    ("Sub", [IMAGE], [_f(1, 6, 1, 1)], {}, 13),
    ("Sub", [IMAGE, IMAGE], [], {}, 13),
    ("Mul", [IMAGE], [_f(6, 1, 1)], {}, 13),
    ("Mul", [IMAGE], [np.asarray(0.3, np.float32)], {}, 13),
    ("Mul", [IMAGE, IMAGE], [], {}, 13),
    ("Div", [IMAGE], [_f(6, 1, 1)], {}, 13),
    ("BatchNormalization", [IMAGE], [_f(6), _f(6), _f(6), np.abs(_f(6)) + 0.1], {"epsilon": 1e-3}, 7),
    ("BatchNormalization", [(5, 6)], [_f(6), _f(6), _f(6), np.abs(_f(6)) + 0.1], {}, 9),
    ("BatchNormalization", [IMAGE], [_f(6), _f(6), _f(6), np.abs(_f(6)) + 0.1], {}, 15),
    ("LayerNormalization", [(2, 3, 4)], [_f(4), _f(4)], {"epsilon": 1e-3}, 17),
    ("LayerNormalization", [(2, 3, 4)], [_f(3, 4)], {"axis": -2}, 17),
    ("LayerNormalization", [IMAGE, IMAGE[1:]], [], {"axis": 1}, 17),
    ("LRN", [IMAGE], [], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}, 13),
    ("LRN", [IMAGE], [], {"size": 5}, 9),
    ("Softmax", [IMAGE], [], {"axis": 1}, 11),
    ("Softmax", [IMAGE], [], {"axis": 1}, 13),
    ("Softmax", [IMAGE], [], {}, 13),
    ("Softmax", [(3, 4)], [], {}, 9),
    ("Softmax", [(3, 4, 1, 1)], [], {}, 9),
    ("Softmax", [IMAGE], [], {"axis": -2}, 11),
    ("Reshape", [IMAGE], [_i(0, -1, 4)], {}, 13),
    ("Flatten", [IMAGE], [], {"axis": 2}, 13),
    ("Flatten", [IMAGE], [], {"axis": 0}, 9),
    ("Flatten", [IMAGE], [], {"axis": -1}, 11),
    ("Squeeze", [(2, 1, 3, 1)], [], {"axes": [1]}, 11),
    ("Squeeze", [(2, 1, 3, 1)], [_i(-1)], {}, 13),
    ("Unsqueeze", [(2, 3)], [], {"axes": [0, 2]}, 11),
    ("Unsqueeze", [(2, 3)], [_i(0, 2)], {}, 13),
    ("Transpose", [IMAGE], [], {"perm": [0, 2, 3, 1]}, 13),
    ("Transpose", [(2, 3, 4)], [], {}, 13),
    ("Concat", [IMAGE, IMAGE], [_f(2, 1, 9, 8)], {"axis": -3}, 13),
    ("Concat", [IMAGE, IMAGE], [], {"axis": 0}, 7),
    ("Dropout", [IMAGE], [], {}, 7),
    ("Dropout", [IMAGE], [np.float32(0.5)], {}, 12),
    ("Identity", [IMAGE], [], {}, 13),
    ("Pad", [IMAGE], [], {"pads": [0, 0, 1, 2, 0, 1, 0, 3], "value": 1.5}, 2),
    ("Pad", [IMAGE], [_i(0, 0, 1, 2, 0, 0, 0, 3)], {}, 13),
    ("Pad", [IMAGE], [_i(1, 0, 0, 2), np.float32(-3.5), _i(-1, 2)], {}, 18),
]

# operators, or forms of them, that stay as they are
OPAQUE = [
    ("Conv", [(2, 4, 5, 3, 4)], [_f(5, 4, 3, 2, 2), _f(5)], {"pads": [1, 0, 1, 1, 0, 1]}, 13),
    ("MaxPool", [(2, 4, 5, 3, 4)], [], {"kernel_shape": [3, 2, 2]}, 12),
    ("LayerNormalization", [(2, 3, 4)], [np.ones(1, np.float32), _f(4)], {}, 17),
    ("Gelu", [(3, 4)], [], {"approximate": "tanh"}, 20),
    ("Softsign", [IMAGE], [], {}, 13),
    ("PRelu", [IMAGE], [_f(6, 1, 1)], {}, 13),
    ("Pad", [IMAGE], [_i(0, 0, 1, 1, 0, 0, 2, 0)], {"mode": "reflect"}, 13),
    ("Slice", [IMAGE], [_i(1), _i(5), _i(2), _i(2)], {}, 13),
    ("Gather", [IMAGE], [_i(3, 0)], {"axis": 1}, 13),
    ("Clip", [IMAGE, (), ()], [], {}, 13),
    ("Resize", [IMAGE], [None, np.asarray([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 13),
    ("InstanceNormalization", [IMAGE], [_f(6), _f(6)], {}, 13),
    ("BatchNormalization", [IMAGE, (6,)], [_f(6), _f(6), np.abs(_f(6)) + 0.1], {}, 15),
    ("MatMul", [(4, 5)], [_f(5)], {}, 13),
    ("Einsum", [(3, 4), (4, 5)], [], {"equation": "ij,jk->ik"}, 13),
]


def _model(make, operator, shapes, constants, attributes, opset):
    inputs = {f"x{i}": shape for i, shape in enumerate(shapes)}
    known = {f"c{i}": np.asarray(array) for i, array in enumerate(constants) if array is not None}
    operands = [*inputs, *(f"c{i}" if array is not None else "" for i, array in enumerate(constants))]
    return make([helper.make_node(operator, operands, ["y"], name="node", **attributes)], inputs, known, opset=opset)


@pytest.mark.parametrize("case", MODELLED, ids=lambda case: f"{case[0]}-{case[4]}-{case[3]}".replace(" ", ""))
def test_modelled_operator_agrees(case, make, agree):
    imported = agree(_model(make, *case))
    assert not any(isinstance(node.op, Opaque) for node in imported.graph.nodes)
    assert imported.output_names == ("y",)


@pytest.mark.parametrize("case", OPAQUE, ids=lambda case: f"{case[0]}-{case[4]}")
def test_other_operator_stays_opaque_and_agrees(case, make, agree):
    (node,) = agree(_model(make, *case)).graph.nodes
    assert isinstance(node.op, Opaque)
    assert node.op.kind == case[0]
    assert node.op.dialect == "onnx"
    assert node.op.pure
    assert not node.op.row_independent


@pytest.mark.parametrize(
    ("opset", "constants", "attributes"), [(11, {}, {"split": [1, 4, 1]}), (13, {"s": _i(1, 4, 1)}, {})]
)
def test_split_sizes_from_attribute_and_operand(opset, constants, attributes, make, agree):
    node = helper.make_node("Split", ["x", *constants], ["a", "b", "c"], axis=-3, **attributes)
    imported = agree(make([node], {"x": IMAGE}, constants, outputs=["a", "c", "b"], opset=opset))
    (split,) = imported.graph.nodes
    assert split.op.sizes == (1, 4, 1)
    assert [value.name for value in split.outputs] == ["a", "b", "c"]


def test_indices_of_a_pooling_stay_opaque_when_they_are_read(make, agree):
    node = helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])
    both = import_onnx(make([node], {"x": IMAGE}, outputs=["y", "indices"], opset=12))
    assert [type(node.op).__name__ for node in both.graph.nodes] == ["Opaque"]
    one = agree(make([node], {"x": IMAGE}, opset=12))
    assert [type(node.op).__name__ for node in one.graph.nodes] == ["MaxPool2d"]


def test_pads_that_crop_stay_opaque(make):
    model = _model(make, "Pad", [IMAGE], [_i(0, 0, 1, -1, 0, 0, 2, 0)], {}, 13)
    (node,) = import_onnx(model).graph.nodes
    assert isinstance(node.op, Opaque)


def test_doubles_stay_opaque(make, agree):
    nodes = [helper.make_node("Cast", ["x"], ["d"], to=11), helper.make_node("Relu", ["d"], ["r"])]
    nodes.append(helper.make_node("Cast", ["r"], ["y"], to=1))
    imported = agree(make(nodes, {"x": (2, 3)}))
    assert [node.op.kind for node in imported.graph.nodes] == ["Cast", "Relu", "Cast"]


def test_equal_nodes_become_one_but_random_ones_do_not(make):
    nodes = [helper.make_node("Softsign", ["x"], [name]) for name in ("a", "b")]
    nodes += [helper.make_node("RandomNormalLike", ["x"], [name], seed=1.0) for name in ("c", "d")]
    nodes.append(helper.make_node("Sum", ["a", "b", "c", "d"], ["y"]))
    graph = import_onnx(make(nodes, {"x": (2, 3)})).graph
    kinds = sorted(node.op.kind for node in graph.nodes if isinstance(node.op, Opaque))
    assert kinds == ["RandomNormalLike", "RandomNormalLike", "Softsign"]
    assert [node.op.pure for node in graph.effects] == [False, False]


def test_a_subgraph_captures_outer_values(make, agree):
    branch = {
        name: helper.make_graph(
            [helper.make_node(operator, ["x", "w"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", 1, [2, 3])],
        )
        for name, operator in (("then", "Add"), ("else", "Mul"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["z"], then_branch=branch["then"], else_branch=branch["else"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    constants = {"zero": np.float32(0).reshape(()), "w": _f(2, 3)}
    for seed in range(3):
        imported = agree(make(nodes, {"x": (2, 3)}, constants), seed=seed)
    assert "If" in [node.op.kind for node in imported.graph.nodes if isinstance(node.op, Opaque)]


def test_a_large_constant_is_an_operand_of_an_opaque_node(make, agree):
    imported = agree(make([helper.make_node("PRelu", ["x", "w"], ["y"])], {"x": (2, 3, 40, 40)}, {"w": _f(3, 40, 40)}))
    (node,) = imported.graph.nodes
    assert len(node.operands) == 2
    assert len(node.op.definition) < 1000


def test_a_transposed_convolution_of_windows_side_by_side_is_a_convolution(make, agree):
    weights = {"w": _f(3, 5, 2, 3), "b": _f(5)}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 3])
    imported = agree(make([node], {"x": (2, 3, 4, 6)}, weights))
    assert [node.op.name for node in imported.graph.nodes] == ["conv2d", "reshape", "transpose", "reshape"]


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((1, 3, 4, 6), (3, 5, 2, 3), {}),
        ((2, 3, 4, 6), (3, 5, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 3, 5, 5), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((1, 3, 5, 4), (3, 2, 3, 5), {"strides": [1, 3], "pads": [2, 0, 1, 4], "output_padding": [0, 2]}),
        ((1, 3, 5, 4), (3, 2, 2, 2), {"strides": [3, 3], "output_padding": [2, 1]}),
        ((1, 3, 5, 4), (3, 2, 7, 7), {"strides": [2, 2], "pads": [6, 6, 6, 6]}),
        ((1, 3, 9), (3, 4, 5), {"strides": [5]}),
        ((2, 3, 9), (3, 4, 4), {"strides": [2], "pads": [1, 2]}),
        ((1, 3, 9), (3, 4, 1), {"strides": [2], "output_padding": [1]}),
    ],
)
def test_transposed_convolutions_are_convolutions_of_phases(make, agree, shape, kernel, attributes):
    weights = {"w": _f(*kernel), "b": _f(kernel[1])}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    imported = agree(make([node], {"x": shape}, weights))
    assert "conv2d" in [node.op.name for node in imported.graph.nodes]


@pytest.mark.parametrize("attributes", [{"group": 3}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}])
def test_other_transposed_convolutions_stay_opaque(make, attributes):
    weights = {"w": _f(3, 2, 3, 3)}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    imported = import_onnx(make([node], {"x": (1, 3, 4, 6)}, weights))
    assert [node.op.name for node in imported.graph.nodes] == ["opaque.ConvTranspose"]
