"""Convolution kernels against numpy, over attributes, channel counts, epilogues and targets."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulec.passes.graph import Conv2d, MatMul, Node, Step, TensorType, Value, Weight, literal
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.blocks import ends
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_gemm import GemmConv, Im2colConv
from joulec.passes.kernels.conv_plane import DepthwiseConv, GroupedConv, PlaneConv
from joulec.passes.kernels.conv_pointwise import PointwiseConv
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.layouts.layout import blocked_shape, from_layout, layout_read, to_layout

tvm = pytest.importorskip("tvm")
tvm_ffi = pytest.importorskip("tvm_ffi")

KERNELS = (DirectConv(), PointwiseConv(), GemmConv(), Im2colConv(), DepthwiseConv(), GroupedConv(), PlaneConv())
BIAS, ADD, RELU = Step("bias"), Step("add"), Step("activation", "relu")
HASWELL = CpuTarget('{"kind": "llvm", "mcpu": "haswell"}', 8, 16, 2)
AVX512 = CpuTarget('{"kind": "llvm", "mcpu": "skylake-avx512"}', 16, 32, 2)
SSE4 = CpuTarget('{"kind": "llvm", "mcpu": "nehalem"}', 4, 16, 1)
NEON = CpuTarget('{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}', 4, 32, 2)
SMALL_CACHES = CpuTarget(HASWELL.target, 8, 16, 1, l1_bytes=2048, l2_bytes=8192)


@pytest.fixture(autouse=True, scope="module")
def shared():
    """However small, convolutions are shared by all threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joulec.passes.kernels.conv_tir.SERIAL_BELOW_FLOPS", 0)
        yield


def conv(shape, kernel, steps=(), **attributes):
    """A node with seeded weights."""
    rng = np.random.default_rng(7)
    op, data = Conv2d(**attributes), Value.input("data", TensorType(shape))
    weights = literal(rng.standard_normal(kernel).astype(np.float32))
    result = op.infer([data.type, weights.type])[0]
    operands = [data, weights]
    for index, step in enumerate(steps):
        if step.kind == "bias":
            operands.append(literal(rng.standard_normal(kernel[0]).astype(np.float32)))
        elif step.kind == "add":
            operands.append(Value.input(f"residual{index}", result))
    return Node.make(op, tuple(operands), tuple(steps))


def compiled(func, target):
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(json.loads(target.target)), tir_pipeline=PIPELINE)


def check(kernel, node, params, target):
    """Compile for this machine, run on a result full of NaN, compare."""
    rng = np.random.default_rng(8)
    arrays = [
        operand.value() if isinstance(operand, Weight) else rng.standard_normal(operand.type.shape).astype(np.float32)
        for operand in node.operands
    ]
    expected = evaluate_node(node, [array.astype(np.float64) for array in arrays])[0]
    reads, writes = ends(params)
    given_arrays = [
        kernel.pack(node.spec, params, target, index, array)
        if isinstance(operand, Weight)
        else np.ascontiguousarray(to_layout(array, layout_read(node.spec, index, reads, writes)))
        for index, (operand, array) in enumerate(zip(node.operands, arrays, strict=True))
    ]
    out = tvm.runtime.tensor(np.full(blocked_shape(expected.shape, writes), np.nan, np.float32))
    compiled(kernel.build(node.spec, params, target), target)["main"](*map(tvm.runtime.tensor, given_arrays), out)
    magnitude = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(from_layout(out.numpy(), writes), expected, rtol=0, atol=2e-6 * magnitude)


def runs_here(target):
    cpu = json.loads(target.target)["mcpu"]
    from tvm.target import Target, codegen

    host = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    needed = {"haswell": "avx2", "skylake-avx512": "avx512f", "nehalem": "sse4.2"}[cpu]
    return bool(codegen.llvm_cpu_has_features(needed, host))


CASES = {
    "3x3": conv((1, 20, 9, 11), (18, 20, 3, 3), (BIAS, RELU), padding=(1, 1, 1, 1)),
    "batch": conv((3, 5, 6, 7), (33, 5, 3, 3), (BIAS, ADD, RELU), padding=(1, 1, 1, 1)),
    "asymmetric": conv((1, 4, 8, 9), (9, 4, 2, 3), (BIAS,), padding=(0, 2, 1, 0), strides=(2, 1)),
    "first layer": conv((1, 3, 23, 21), (20, 3, 7, 7), (BIAS, RELU), padding=(3, 3, 3, 3), strides=(2, 2)),
    "dilated": conv((1, 6, 12, 12), (8, 6, 3, 3), (), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "dilated, strided": conv((1, 2, 14, 13), (5, 2, 3, 2), (ADD,), dilation=(3, 2), strides=(2, 3)),
    "pointwise": conv((1, 19, 7, 7), (37, 19, 1, 1), (BIAS, ADD, RELU)),
    "pointwise in panels": conv((2, 9, 15, 15), (70, 9, 1, 1), (BIAS, ADD, RELU)),
    "pointwise strided in panels": conv((1, 18, 13, 17), (32, 9, 1, 1), (BIAS, RELU), strides=(2, 3), groups=2),
    "pointwise batch": conv((3, 16, 5, 8), (16, 16, 1, 1), (BIAS,)),
    "pointwise strided": conv((1, 8, 9, 9), (12, 8, 1, 1), (BIAS, RELU), strides=(2, 2)),
    "one position": conv((2, 40, 1, 1), (50, 40, 1, 1), (BIAS,)),
    "whole plane": conv((1, 6, 5, 5), (30, 6, 5, 5), (BIAS, RELU)),
    "one output channel": conv((1, 7, 10, 10), (1, 7, 3, 3), (BIAS,), padding=(1, 1, 1, 1)),
    "one input channel": conv((1, 1, 10, 10), (4, 1, 3, 3), (), padding=(1, 1, 1, 1)),
    "long row": conv((1, 3, 2, 70), (16, 3, 1, 3), (RELU,), padding=(0, 1, 0, 1)),
    "depthwise": conv((2, 10, 9, 9), (10, 1, 3, 3), (BIAS, RELU), padding=(1, 1, 1, 1), groups=10),
    "depthwise strided": conv((1, 6, 13, 12), (6, 1, 5, 5), (BIAS,), padding=(2, 2, 2, 2), strides=(2, 2), groups=6),
    "multiplier": conv((1, 4, 8, 8), (12, 1, 3, 3), (BIAS, ADD), padding=(1, 1, 1, 1), groups=4),
    "grouped": conv((1, 12, 8, 10), (18, 4, 3, 3), (BIAS, RELU), padding=(1, 1, 1, 1), groups=3),
    "grouped pointwise": conv((2, 24, 6, 6), (42, 12, 1, 1), (BIAS, ADD, RELU), groups=2),
    "grouped strided": conv((1, 8, 11, 11), (8, 2, 3, 3), (), padding=(1, 1, 0, 0), strides=(2, 2), groups=4),
}
ALL = [
    pytest.param(kernel, node, id=f"{kernel.name}-{label}")
    for label, node in CASES.items()
    for kernel in KERNELS
    if kernel.schedules(node.spec, HASWELL)
]


@pytest.mark.parametrize(("kernel", "node"), ALL)
def test_first_schedule_computes_what_numpy_does(kernel, node):
    target = AVX512 if runs_here(AVX512) else HASWELL
    check(kernel, node, (kernel.schedules(node.spec, target) or kernel.schedules(node.spec, HASWELL))[0], target)


@pytest.mark.parametrize("label", ["3x3", "pointwise", "multiplier", "grouped strided"])
@pytest.mark.parametrize("target", [HASWELL, SMALL_CACHES], ids=["avx2", "small caches"])
def test_every_schedule_on_avx2(label, target):
    if not runs_here(target):
        pytest.skip("this machine has no AVX2")
    node = CASES[label]
    tried = 0
    for kernel in KERNELS:
        for params in kernel.schedules(node.spec, target):
            check(kernel, node, params, target)
            tried += 1
    assert tried >= 1


def test_some_kernel_applies_to_every_case():
    for target in (HASWELL, AVX512, SSE4, NEON):
        for label, node in CASES.items():
            assert any(kernel.schedules(node.spec, target) for kernel in KERNELS), f"{label} {target.target}"


@pytest.mark.parametrize("target", [SSE4, NEON], ids=["sse4", "neon"])
@pytest.mark.parametrize("label", ["first layer", "pointwise", "depthwise strided", "grouped"])
def test_other_targets_compile_to_vector_arithmetic(label, target):
    node = CASES[label]
    for kernel in KERNELS:
        for params in kernel.schedules(node.spec, target)[:1]:
            assembly = compiled(kernel.build(node.spec, params, target), target).mod.inspect_source("asm")
            assert ("mulps" in assembly) if target is SSE4 else ("fmla" in assembly), kernel.name


EPILOGUES = st.sampled_from(
    [
        (),
        (BIAS,),
        (ADD,),
        (BIAS, RELU),
        (BIAS, ADD, RELU),
        (ADD, BIAS, ADD),
        (BIAS, Step("activation", "clip", (0.0, 6.0))),
        (BIAS, Step("activation", "leaky_relu", (0.1,))),
        (Step("activation", "sigmoid"), ADD),
        (BIAS, Step("activation", "tanh")),
        (Step("activation", "erf"),),
    ]
)


@st.composite
def nodes(draw):
    small = st.integers(1, 3)
    kernel = (draw(small), draw(small))
    dilation, strides = (draw(st.integers(1, 2)), draw(st.integers(1, 2))), (draw(small), draw(small))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    height = max(draw(st.integers(1, 20)), span[0] - padding[0] - padding[2])
    width = max(draw(st.integers(1, 40)), span[1] - padding[1] - padding[3])
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    group_in, group_out = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    return conv(
        (draw(st.sampled_from([1, 3])), groups * group_in, height, width),
        (groups * group_out, group_in, *kernel),
        draw(EPILOGUES),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(node=nodes(), choice=st.integers(0, 1000))
def test_random_convolutions(node, choice):
    target = AVX512 if runs_here(AVX512) else HASWELL
    pairs = [(kernel, params) for kernel in KERNELS for params in kernel.schedules(node.spec, target)]
    assert pairs
    for kernel, params in (pairs[choice % len(pairs)], pairs[(choice * 7 + 1) % len(pairs)]):
        check(kernel, node, params, target)


def test_kernels_decline_what_they_cannot_compute():
    matmul = Node.make(MatMul(), (Value.input("a", TensorType((2, 3))), literal(np.ones((3, 4), np.float32))))
    variable = Node.make(
        Conv2d(), (Value.input("x", TensorType((1, 4, 5, 5))), Value.input("w", TensorType((4, 4, 1, 1))))
    )
    double = Node.make(
        Conv2d(), (Value.input("x", TensorType((1, 4, 5, 5), "float64")), literal(np.ones((4, 4, 1, 1), np.float64)))
    )
    for kernel in KERNELS:
        for node in (matmul, variable, double):
            assert not kernel.schedules(node.spec, HASWELL)
    with pytest.raises(ValueError, match="constant kernel"):
        DirectConv().build(variable.spec, (), HASWELL)


@pytest.mark.skipif(not runs_here(HASWELL), reason="needs AVX2")
@pytest.mark.parametrize(("kernel", "node"), ALL)
def test_small_convolutions_stay_on_the_calling_thread(kernel, node, monkeypatch):
    monkeypatch.setattr("joulec.passes.kernels.conv_tir.SERIAL_BELOW_FLOPS", 10**9)
    for params in kernel.schedules(node.spec, HASWELL)[:1]:
        assert "T.parallel" not in kernel.build(node.spec, params, HASWELL).script()
        check(kernel, node, params, HASWELL)


@pytest.mark.parametrize(("kernel", "node"), ALL)
def test_work_is_no_less_than_the_convolution_itself(kernel, node):
    for params in kernel.schedules(node.spec, HASWELL):
        work = kernel.work(node.spec, params, HASWELL)
        assert work.flops >= node.spec.flops
        assert work.dram_bytes == node.spec.bytes
        assert work.register_bytes > 0


def test_functions_are_marked_for_the_pipeline():
    node = CASES["3x3"]
    func = DirectConv().build(node.spec, DirectConv().schedules(node.spec, HASWELL)[0], HASWELL)
    assert int(func.attrs["op_pattern"]) == 8
    assert bool(func.attrs["tirx.is_scheduled"])
    assert "global_symbol" not in func.attrs


def test_the_same_spec_and_target_always_give_the_same_function():
    node = CASES["grouped"]
    for kernel in KERNELS:
        for params in kernel.schedules(node.spec, AVX512):
            first, second = (kernel.build(node.spec, params, AVX512) for _ in range(2))
            assert tvm_ffi.structural_equal(first, second)
