"""Blocked activations: every kernel that takes them, at every vector width of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    MaxPool2d,
    Node,
    Split,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.kernels.blocks import ends, operand_types, result_types
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_pointwise import PointwiseConv
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.elementwise import Elementwise
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.movement import Copies
from joulec.passes.kernels.pooling import GlobalPool, Pool
from joulec.passes.kernels.relayout import RelayoutKernel
from joulec.passes.layouts.layout import Relayout, relayout_spec

AVX512 = CpuTarget('{"kind": "llvm", "mcpu": "skylake-avx512"}', 16, 32, 2)
AVX2 = CpuTarget('{"kind": "llvm", "mcpu": "haswell"}', 8, 16, 2)
SSE4 = CpuTarget('{"kind": "llvm", "mcpu": "nehalem"}', 4, 16, 1)
FEATURE = {"avx512": (AVX512, "avx512f"), "avx2": (AVX2, "avx2"), "sse4": (SSE4, "sse4.2")}
BIAS, ADD, RELU = Step("bias"), Step("add"), Step("activation", "relu")
SAME = {"padding": (1, 1, 1, 1)}

CASES = {
    "winograd on short rows, residual": (
        WinogradConv(),
        (Conv2d(**SAME), [(2, 32, 14, 14), (48, 32, 3, 3), (48,), (2, 48, 14, 14)], [1, 2], (BIAS, ADD, RELU)),
    ),
    "winograd on 7x7": (WinogradConv(), (Conv2d(**SAME), [(1, 64, 7, 7), (16, 64, 3, 3)], [1], ())),
    "winograd, asymmetric": (
        WinogradConv(),
        (Conv2d(padding=(0, 2, 1, 0)), [(1, 32, 20, 37), (80, 32, 3, 3)], [1], (RELU,)),
    ),
    "winograd 5x5": (
        WinogradConv(),
        (Conv2d(padding=(2, 2, 2, 2)), [(1, 16, 17, 18), (32, 16, 5, 5), (32,)], [1, 2], (BIAS, RELU)),
    ),
    "winograd in groups": (
        WinogradConv(),
        (Conv2d(**SAME, groups=2), [(1, 32, 9, 9), (64, 16, 3, 3), (64,)], [1, 2], (BIAS,)),
    ),
    "winograd, a constant added": (
        WinogradConv(),
        (Conv2d(**SAME), [(1, 16, 9, 10), (16, 16, 3, 3), (1, 16, 9, 10)], [1, 2], (ADD, RELU)),
    ),
    "pointwise, panel not full": (
        PointwiseConv(),
        (Conv2d(), [(2, 64, 14, 14), (80, 64, 1, 1), (80,), (2, 80, 14, 14)], [1, 2], (BIAS, ADD, RELU)),
    ),
    "pointwise, strided": (
        PointwiseConv(),
        (Conv2d(strides=(2, 3)), [(2, 32, 15, 31), (48, 32, 1, 1)], [1], (RELU,)),
    ),
    "pointwise in groups": (PointwiseConv(), (Conv2d(groups=2), [(1, 64, 12, 12), (96, 32, 1, 1)], [1], ())),
    "direct, first layer": (
        DirectConv(),
        (
            Conv2d((2, 2), (3, 3, 3, 3)),
            [(1, 3, 23, 21), (48, 3, 7, 7), (48,), (1, 48, 12, 11)],
            [1, 2],
            (BIAS, ADD, RELU),
        ),
    ),
    "direct, strided and in groups": (
        DirectConv(),
        (Conv2d((2, 1), (1, 0, 1, 1), groups=2), [(2, 20, 14, 15), (96, 10, 3, 3)], [1], (RELU,)),
    ),
    "direct on one long row": (DirectConv(), (Conv2d(), [(2, 20, 9, 9), (80, 20, 1, 1)], [1], ())),
    "maximum of windows": (Pool(), (MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), [(2, 32, 28, 27)], [], ())),
    "mean of windows": (Pool(), (AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1)), [(1, 16, 7, 9)], [], ())),
    "mean of windows, rounded up": (
        Pool(),
        (
            AvgPool2d((2, 3), (2, 2), (0, 1, 0, 1), ceil_mode=True),
            [(1, 16, 13, 12), (16,), (1, 16, 7, 7)],
            [1],
            (BIAS, ADD, RELU),
        ),
    ),
    "mean of planes": (GlobalPool(), (AvgPool2d((7, 5)), [(2, 48, 7, 5), (48,)], [1], (BIAS, RELU))),
    "maximum of planes": (GlobalPool(), (MaxPool2d((1, 3)), [(1, 16, 1, 3)], [], ())),
    "sum": (Elementwise(), (Add(), [(2, 16, 5, 7)] * 3, [2], (RELU,))),
    "difference": (Elementwise(), (Binary("sub"), [(1, 32, 3, 3)] * 2, [], ())),
    "activation": (Elementwise(), (Activation("tanh"), [(1, 16, 30, 31)], [], ())),
    "scale and shift": (Elementwise(), (ChannelAffine(), [(2, 48, 9, 11), (48,), (48,)], [1, 2], (RELU,))),
    "concat": (Copies(), (Concat(1), [(2, channels, 9, 9) for channels in (16, 48, 32)], [], ())),
    "split": (Copies(), (Split(1, (16, 32)), [(2, 48, 30, 31)], [], ())),
}


def width_of(name):
    target, feature = FEATURE[name]
    from tvm.target import Target, codegen

    host = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    if not codegen.llvm_cpu_has_features(feature, host):
        pytest.skip(f"this machine has no {name}")
    return target


def blocked(kernel, node, target):
    """The schedules that have something blocked."""
    return [params for params in kernel.schedules(node.spec, target) if any(ends(params))]


@pytest.mark.parametrize("width", FEATURE)
@pytest.mark.parametrize("label", CASES)
def test_blocked_schedules_compute_what_numpy_does(label, width, make, check):
    kernel, (op, shapes, constants, epilogue) = CASES[label]
    target = width_of(width)
    node = make(op, shapes, constants=constants, epilogue=epilogue)
    assert blocked(kernel, node, target)
    check(kernel, node, target=target)


@pytest.mark.parametrize("label", CASES)
def test_types_are_those_of_the_layouts(label, make):
    kernel, (op, shapes, constants, epilogue) = CASES[label]
    node = make(op, shapes, constants=constants, epilogue=epilogue)
    for params in blocked(kernel, node, AVX512):
        function = kernel.build(node.spec, params, AVX512)
        shapes = [tuple(int(extent) for extent in buffer.shape) for buffer in function.params]
        wanted = [*operand_types(node.spec, params), *result_types(node.spec, params)]
        for index, (found, type) in enumerate(zip(shapes, wanted, strict=True)):
            assert found == type.shape or (index == 1 and isinstance(node.op, Conv2d))


@pytest.mark.parametrize(
    ("kernel", "op", "shapes", "constants"),
    [
        (WinogradConv(), Conv2d(**SAME), [(1, 24, 20, 20), (32, 24, 3, 3)], [1]),
        (WinogradConv(), Conv2d(**SAME), [(1, 32, 20, 20), (40, 32, 3, 3)], [1]),
        (WinogradConv(), Conv2d(**SAME, groups=4), [(1, 32, 20, 20), (32, 8, 3, 3)], [1]),
        (PointwiseConv(), Conv2d(), [(1, 20, 20, 20), (32, 20, 1, 1)], [1]),
        (Elementwise(), Add(), [(2, 16, 5, 7), (16, 1, 1)], []),
        (Elementwise(), Add(), [(2, 16, 5, 7), (1, 16, 1, 7)], []),
        (Copies(), Concat(1), [(1, 16, 9, 9), (1, 8, 9, 9)], []),
        (Copies(), Concat(2), [(1, 16, 9, 9), (1, 16, 9, 9)], []),
        (Pool(), MaxPool2d((2, 2), (2, 2)), [(1, 3, 8, 8)], []),
    ],
)
def test_what_has_no_whole_blocks_stays_row_major(kernel, op, shapes, constants, make):
    node = make(op, shapes, constants=constants)
    assert not blocked(kernel, node, AVX512)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    batch=st.integers(1, 3),
    blocks=st.integers(1, 3),
    height=st.integers(1, 20),
    plane_width=st.integers(1, 40),
    width=st.sampled_from(sorted(FEATURE)),
    blocking=st.booleans(),
)
def test_conversions_move_every_element_to_its_place(batch, blocks, height, plane_width, width, blocking, check):
    target = width_of(width)
    shape = (batch, blocks * target.lanes, height, plane_width)
    source, goal = (0, target.lanes) if blocking else (target.lanes, 0)
    node = Node.make(Relayout(source, goal), (Value.input("x", TensorType(shape)),))
    assert node.spec == relayout_spec(TensorType(shape), source, goal)
    assert check(RelayoutKernel(), node, tolerance=0.0, target=target) == 1


def test_conversions_of_other_blocks_are_declined():
    type = TensorType((1, 32, 4, 4))
    assert not RelayoutKernel().schedules(relayout_spec(type, 0, 8), AVX512)
    assert not RelayoutKernel().schedules(relayout_spec(type, 8, 16), AVX512)


def test_constants_of_a_sum_are_packed_as_they_are_read(make):
    rng = np.random.default_rng(2)
    array = rng.standard_normal((1, 16, 2, 3)).astype(np.float32)
    node = Node.make(Add(), (Value.input("x", TensorType(array.shape)), literal(array)))
    (params,) = blocked(Elementwise(), node, AVX512)
    packed = Elementwise().pack(node.spec, params, AVX512, 1, array)
    np.testing.assert_array_equal(packed, array.transpose(0, 2, 3, 1)[:, None])
