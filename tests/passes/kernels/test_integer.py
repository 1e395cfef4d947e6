"""Integer products: to the last bit what ONNX's reference computes."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from joulec.passes.kernels.dynamic_quantize import DynamicQuantize
from joulec.passes.kernels.integer_conv import IntegerConv
from joulec.passes.kernels.integer_matmul import IntegerMatmul
from joulec.passes.kernels.linear_quantize import LinearQuantize
from joulec.passes.kernels.registry import kernels_for
from joulec.passes.kernels.target import cpu_target, has_feature

sys.path.append(str(Path(__file__).parent / "support"))
from integer_cases import imported, integer_node, numbers, requantised_node

BYTES = ("uint8", "int8")
AVX2 = "llvm -mtriple=x86_64-linux-gnu -mcpu=haswell"
SSE4 = "llvm -mtriple=x86_64-linux-gnu -mcpu=nehalem"
PLAIN = "llvm -mtriple=x86_64-linux-gnu -mcpu=skylake-avx512 -mattr=-avx512bw"
FEATURES = {"host": "", "avx2": "avx2", "sse4": "sse4.2", "plain": "avx512f"}
TARGETS = {"host": "llvm", "avx2": AVX2, "sse4": SSE4, "plain": PLAIN}

ZEROS = [
    ("uint8", "int8", (None, None)),
    ("uint8", "int8", (100, "each")),
    ("uint8", "uint8", (7, 130)),
    ("uint8", "uint8", (None, None)),
    ("int8", "uint8", (-100, "each")),
    ("int8", "int8", (9, -3)),
]
"""Types of data and weights with their zero points."""
WINDOWS = [
    {},
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 2, 1, 0], "strides": [2, 1]},
    {"strides": [2, 3], "dilations": [2, 1], "pads": [1, 0, 2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID", "dilations": [1, 2]},
]


SIGNS = [("uint8", "int8", "uint8"), ("uint8", "uint8", "int8"), ("int8", "int8", "int8"), ("int8", "uint8", "uint8")]


@pytest.fixture(params=TARGETS)
def target(request, host):
    feature = FEATURES[request.param]
    if feature and not has_feature(host, feature):
        pytest.skip(f"this machine has no {feature}")
    return cpu_target(TARGETS[request.param], 2)


@pytest.mark.parametrize(("data", "weights", "zeros"), ZEROS)
def test_convolutions_of_any_signs_and_zero_points(data, weights, zeros, target, check):
    zeros = zeros[0], np.arange(10) * 11 if zeros[1] == "each" else zeros[1]
    node, given = integer_node("ConvInteger", (2, 5, 9, 11), (10, 5, 3, 3), (data, weights), zeros, pads=[1, 1, 1, 1])
    assert check(IntegerConv(), node, 0, target, given)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolutions_of_any_windows(window, check):
    node, given = integer_node("ConvInteger", (1, 6, 13, 17), (9, 6, 3, 2), ("int8", "uint8"), (-5, 130), **window)
    assert check(IntegerConv(), node, 0, given=given)


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(12, 12, 12), (6, 12, 6), (12, 30, 3), (8, 4, 2)])
def test_convolutions_in_groups(channels, outputs, groups, target, check):
    shape = (outputs, channels // groups, 3, 3)
    node, given = integer_node(
        "ConvInteger", (2, channels, 10, 12), shape, ("uint8", "uint8"), (9, 77), group=groups, pads=[1, 1, 1, 1]
    )
    assert check(IntegerConv(), node, 0, target, given)


@pytest.mark.parametrize("positions", [(1, 1), (7, 7), (5, 40)])
def test_convolutions_of_one_place(positions, target, check):
    node, given = integer_node("ConvInteger", (1, 19, *positions), (21, 19, 1, 1), ("uint8", "int8"), (128, None))
    assert check(IntegerConv(), node, 0, target, given)


def test_convolutions_over_rows(check):
    node, given = integer_node("ConvInteger", (2, 4, 50), (6, 4, 5), zeros=(3, None), pads=[2, 2], strides=[2])
    assert check(IntegerConv(), node, 0, given=given)


@pytest.mark.parametrize(("data", "weights"), [*product(BYTES, BYTES)])
def test_long_sums_of_extremes_saturate_nowhere(data, weights, target, check):
    """255 · −128 over 9216 places, with zero points at the other end."""
    zeros = np.iinfo(data).max, np.iinfo(weights).min
    node, given = integer_node("ConvInteger", (1, 1024, 4, 4), (3, 1024, 3, 3), (data, weights), zeros, extremes=True)
    assert check(IntegerConv(), node, 0, target, given)
    node, given = integer_node("MatMulInteger", (3, 9216), (9216, 17), (data, weights), zeros, extremes=True)
    assert check(IntegerMatmul(), node, 0, target, given)


@pytest.mark.parametrize(("data", "weights", "result"), SIGNS)
@pytest.mark.parametrize("per_channel", [False, True], ids=["one", "each"])
def test_requantised_convolutions(data, weights, result, per_channel, check):
    node, given = requantised_node(
        "QLinearConv", (1, 7, 9, 20), (11, 7, 3, 3), (data, weights, result), per_channel, bias=True, pads=[1, 1, 1, 1]
    )
    assert check(IntegerConv(), node, 0, given=given)


def test_requantised_convolutions_on_any_target(target, check):
    node, given = requantised_node("QLinearConv", (1, 7, 9, 20), (11, 7, 3, 3), per_channel=True, bias=True)
    assert check(IntegerConv(), node, 0, target, given)


@pytest.mark.parametrize(("data", "weights", "zeros"), ZEROS)
def test_products_of_any_signs_and_zero_points(data, weights, zeros, target, check):
    zeros = zeros[0], np.arange(50) * 2 if zeros[1] == "each" else zeros[1]
    node, given = integer_node("MatMulInteger", (2, 3, 37), (37, 50), (data, weights), zeros)
    assert check(IntegerMatmul(), node, 0, target, given)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 1, 1), (1, 64, 300), (33, 3, 16), (17, 70, 65), (64, 128, 96)]
)
def test_products_of_any_sizes(rows, depth, columns, target, check):
    node, given = integer_node("MatMulInteger", (rows, depth), (depth, columns), ("int8", "uint8"), (-9, 120))
    assert check(IntegerMatmul(), node, 0, target, given)


@pytest.mark.parametrize("per_channel", [False, True], ids=["one", "each"])
@pytest.mark.parametrize(("data", "weights", "result"), SIGNS)
def test_requantised_products(data, weights, result, per_channel, check):
    node, given = requantised_node("QLinearMatMul", (5, 40), (40, 35), (data, weights, result), per_channel)
    assert check(IntegerMatmul(), node, 0, given=given)


@pytest.mark.parametrize("shape", [(), (1,), (10, 1, 1), (1, 10, 1, 1)], ids=str)
@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
def test_what_is_added_to_sums_and_their_conversion_belong_to_the_convolution(shape, constant, target, check):
    data = {"x": numbers((1, 5, 9, 11), "uint8", 1), "x_zero": np.array(3, np.uint8)}
    held = {"w": numbers((10, 5, 3, 3), "uint8", 2), "w_zero": np.array(99, np.uint8)}
    (held if constant else data)["b"] = np.random.default_rng(4).integers(-9000, 9000, shape).astype(np.int32)
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "x_zero", "w_zero"], ["sums"]),
        helper.make_node("Add", ["b", "sums"], ["more"]),
        helper.make_node("Cast", ["more"], ["y"], to=TensorProto.FLOAT),
    ]
    node, given = imported(nodes, data, held, "float32")
    assert node.op.kind == "ConvInteger+Add+Cast"
    assert check(IntegerConv(), node, 0, target, given)


def test_sums_that_are_read_twice_stay_sums():
    data = {"x": numbers((4, 8), "uint8", 1)}
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["sums"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["cast", "again"], ["y"]),
    ]
    with pytest.raises(ValueError, match="unpack"):  # more than one node
        imported(nodes, data, {"w": numbers((8, 6), "int8", 2)}, "float32")


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 6)], ids=["rows", "places"])
def test_what_is_added_otherwise_is_no_bias(shape, host):
    data = {"x": numbers((4, 8), "uint8", 1), "b": np.ones(shape, np.int32)}
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["sums"]),
        helper.make_node("Add", ["sums", "b"], ["y"]),
    ]
    node, _ = imported(nodes, data, {"w": numbers((8, 6), "int8", 2)}, "int32")
    assert not kernels_for(node.spec, host)


@pytest.mark.parametrize("missing", ["weights", "zero point", "depth"])
def test_kernels_refuse_what_they_do_not_know_ahead(missing, host):
    data, held = {"x": numbers((4, 8), "uint8", 1)}, {"w": numbers((8, 6), "int8", 2), "z": np.array(3, np.int8)}
    if missing == "depth":  # an int32 could overflow on the way
        data["x"], held["w"] = numbers((1, 40000), "uint8", 1), numbers((40000, 2), "int8", 2)
    moved = {"weights": "w", "zero point": "z"}.get(missing)
    if moved:
        data[moved] = held.pop(moved)
    node, _ = imported([helper.make_node("MatMulInteger", ["x", "w", "", "z"], ["y"])], data, held, "int32")
    assert not kernels_for(node.spec, host)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 45, 77), (1, 24, 32, 80)], ids=str)
@pytest.mark.parametrize("kind", ["mixed", "negative", "large"])
def test_bytes_of_a_range_that_the_data_decide(shape, kind, target, check):
    x = 3 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    given = {"mixed": x, "negative": -np.abs(x), "large": np.abs(x) * np.float32(1e30)}[kind]
    graph = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    node, inputs = imported([graph], {"x": given}, {}, "uint8")
    assert check(DynamicQuantize(), node, 0, target, inputs)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("size", [1, 37, 5000])
def test_bytes_with_a_scale_of_their_own(dtype, size, target, check):
    held = {"scale": np.float32(0.0173), "zero": np.array(5, dtype)}
    x = np.random.default_rng(2).standard_normal(size).astype(np.float32) * 3
    x[0] = 0.5 * held["scale"]  # halfway: to even
    quantise = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    node, given = imported([quantise], {"x": x}, held, dtype)
    assert check(LinearQuantize(), node, 0, target, given)
    dequantise = helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"])
    node, given = imported([dequantise], {"x": numbers((size,), dtype, 3)}, held, "float32")
    assert check(LinearQuantize(), node, 0, target, given)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "scale", "zero"], ["y"]),
    ]
    node, given = imported(nodes, {"x": x}, held, "float32")
    assert node.op.kind == "QuantizeLinear+DequantizeLinear"
    assert check(LinearQuantize(), node, 0, target, given)


@pytest.mark.parametrize("scale", [np.ones(3, np.float32), None], ids=["each", "computed"])
def test_scales_of_other_kinds_are_left_to_tvm(scale, host):
    data = {"x": np.ones((2, 3), np.float32)}
    held = {"zero": np.zeros(() if scale is None else 3, np.uint8)}
    (held if scale is not None else data)["scale"] = np.float32(1) if scale is None else scale
    node, _ = imported([helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])], data, held, "uint8")
    assert not kernels_for(node.spec, host)
