"""Winograd convolution: exact matrices, results against float64 on every vector width, what is declined."""

from fractions import Fraction

import numpy as np
import pytest

from joulec.passes.graph import Conv2d, MaxPool2d, PooledConv2d, Step
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.winograd import transformed_kernel, transforms

tvm = pytest.importorskip("tvm")

WINOGRAD = WinogradConv()
AVX512 = CpuTarget('{"kind": "llvm", "mcpu": "skylake-avx512"}', 16, 32, 2)
AVX2 = CpuTarget('{"kind": "llvm", "mcpu": "haswell"}', 8, 16, 2)
SSE4 = CpuTarget('{"kind": "llvm", "mcpu": "nehalem"}', 4, 16, 1)
NEON = CpuTarget('{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}', 4, 32, 2)
FEATURE = {"avx512": (AVX512, "avx512f"), "avx2": (AVX2, "avx2"), "sse4": (SSE4, "sse4.2")}
BIAS, ADD, RELU = Step("bias"), Step("add"), Step("activation", "relu")


def runs_here(feature):
    from tvm.target import Target, codegen

    host = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    return bool(codegen.llvm_cpu_has_features(feature, host))


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (2, 5), (1, 3), (3, 2)])
def test_the_matrices_give_the_correlation_exactly(outputs, taps):
    rng = np.random.default_rng(outputs * 10 + taps)
    found = transforms(outputs, taps)
    data = [Fraction(int(value)) for value in rng.integers(-9, 10, outputs + taps - 1)]
    kernel = [Fraction(int(value)) for value in rng.integers(-9, 10, taps)]

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(times(found.kernel, kernel), times(found.data, data), strict=True)]
    expected = [sum(data[i + k] * kernel[k] for k in range(taps)) for i in range(outputs)]
    assert times(found.result, products) == expected


def test_tiles_that_float32_does_not_bear_are_refused():
    with pytest.raises(ValueError, match="keep float32 accurate"):
        transforms(6, 3)


def test_the_kernel_is_transformed_in_double_precision_and_rounded_once():
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
    matrix = np.array(transforms(4, 3).kernel, np.float64)
    found = transformed_kernel(4, kernel)
    assert found.dtype == np.float32
    expected = (matrix @ kernel[1, 1].astype(np.float64) @ matrix.T).astype(np.float32)
    np.testing.assert_allclose(found[:, 1, 1].reshape(6, 6), expected, rtol=1e-6, atol=1e-8)


CASES = {
    "channels and columns in tails": ([(1, 20, 18, 19), (18, 20, 3, 3), (18,)], {"padding": (1, 1, 1, 1)}, (BIAS,)),
    "short rows, batch, residual": (
        [(2, 16, 14, 14), (33, 16, 3, 3), (33,), (2, 33, 14, 14)],
        {"padding": (1, 1, 1, 1)},
        (BIAS, ADD, RELU),
    ),
    "asymmetric padding": ([(1, 32, 20, 37), (48, 32, 3, 3)], {"padding": (0, 2, 1, 0)}, (RELU,)),
    "5x5": ([(1, 24, 17, 17), (40, 24, 5, 5), (40,)], {"padding": (2, 2, 2, 2)}, (BIAS, RELU)),
    "groups": ([(1, 24, 9, 9), (20, 12, 3, 3)], {"padding": (1, 1, 1, 1), "groups": 2}, ()),
    "unpadded": ([(3, 8, 7, 7), (16, 8, 3, 3)], {}, ()),
}


def node_of(label, make):
    shapes, attributes, steps = CASES[label]
    constants = [1, *([2] if BIAS in steps else [])]
    return make(Conv2d(**attributes), shapes, constants=constants, epilogue=steps)


@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize("width", FEATURE)
def test_every_schedule_computes_what_numpy_does(label, width, make, check):
    target, feature = FEATURE[width]
    if not runs_here(feature):
        pytest.skip(f"this machine has no {width}")
    assert check(WINOGRAD, node_of(label, make), tolerance=5e-6, target=target) >= 1


@pytest.mark.parametrize("outputs", [2, 4])
def test_the_error_against_float64_stays_small(outputs, make, compiled):
    node = make(Conv2d(padding=(1, 1, 1, 1)), [(1, 128, 16, 16), (64, 128, 3, 3)], constants=[1])
    target = AVX2 if runs_here("avx2") else SSE4
    rng = np.random.default_rng(3)
    data, kernel = rng.standard_normal((1, 128, 16, 16)).astype(np.float32), node.operands[1].value()
    exact = evaluate_node(node, [data.astype(np.float64), kernel.astype(np.float64)])[0]
    schedule = next(one for one in WINOGRAD.schedules(node.spec, target) if dict(one)["tile"] == outputs)
    packed = WINOGRAD.pack(node.spec, schedule, target, 1, kernel)
    out = tvm.runtime.empty(exact.shape, "float32")
    function = compiled(WINOGRAD.build(node.spec, schedule, target), target)
    function(tvm.runtime.tensor(data), tvm.runtime.tensor(packed), out)
    error = np.linalg.norm(out.numpy() - exact) / np.linalg.norm(exact)
    assert error < (1e-6 if outputs == 2 else 5e-6)


def test_neon_multiplies_and_adds_in_vectors(make):
    node = node_of("channels and columns in tails", make)
    for params in WINOGRAD.schedules(node.spec, NEON):
        function = WINOGRAD.build(node.spec, params, NEON).with_attr("global_symbol", "main")
        target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
        assembly = tvm.compile(tvm.IRModule({"main": function}), target=target).mod.inspect_source("asm")
        assert "fmla" in assembly, params


@pytest.mark.parametrize(
    ("shapes", "attributes"),
    [
        ([(1, 32, 20, 20), (32, 32, 3, 3)], {"strides": (2, 2)}),
        ([(1, 32, 20, 20), (32, 32, 3, 3)], {"dilation": (2, 2)}),
        ([(1, 32, 20, 20), (32, 32, 1, 3)], {}),
        ([(1, 32, 20, 20), (32, 32, 7, 7)], {}),
        ([(1, 3, 20, 20), (32, 3, 3, 3)], {}),
        ([(1, 32, 20, 20), (32, 1, 3, 3)], {"groups": 32}),
        ([(1, 32, 4, 4), (32, 32, 3, 3)], {}),
    ],
    ids=["strided", "dilated", "not square", "7x7", "three channels", "depthwise", "tiny plane"],
)
def test_what_gains_nothing_is_declined(shapes, attributes, make):
    assert not WINOGRAD.schedules(make(Conv2d(**attributes), shapes, constants=[1]).spec, AVX512)


def test_work_counts_the_products_that_are_left(make):
    node = make(Conv2d(padding=(1, 1, 1, 1)), [(1, 64, 56, 56), (64, 64, 3, 3)], constants=[1])
    for params in WINOGRAD.schedules(node.spec, AVX512):
        work = WINOGRAD.work(node.spec, params, AVX512)
        fewer = {4: 4.0, 2: 2.25}[dict(params)["tile"]]
        assert node.spec.flops / fewer < work.flops < node.spec.flops
        assert work.dram_bytes > node.spec.bytes


@pytest.mark.parametrize("size", [(1, 17, 28, 26), (2, 40, 27, 35), (1, 16, 14, 14), (1, 16, 13, 12)], ids=str)
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (5, 2)])
def test_squares_of_results_are_pooled_on_the_way_out(size, kernel, padding, make, check):
    op = PooledConv2d(Conv2d(padding=(padding,) * 4), MaxPool2d((2, 2), (2, 2)))
    weights = (32 if size[1] % 16 == 0 else 33, size[1], kernel, kernel)  # whole blocks have blocked layouts too
    steps = (Step("bias"), Step("activation", "relu"))
    assert check(WINOGRAD, make(op, [size, weights, weights[:1]], [1, 2], steps), tolerance=1e-4)


@pytest.mark.parametrize(
    "pool",
    [
        MaxPool2d((3, 3), (2, 2)),
        MaxPool2d((2, 2), (1, 1)),
        MaxPool2d((2, 2), (2, 2), (1, 1, 1, 1)),
        MaxPool2d((2, 2), (2, 2), ceil_mode=True),
    ],
    ids=str,
)
def test_windows_that_tiles_do_not_hold_are_left_to_others(pool, make, host):
    node = make(PooledConv2d(Conv2d(padding=(1, 1, 1, 1)), pool), [(1, 16, 27, 27), (32, 16, 3, 3)], [1])
    assert not WINOGRAD.schedules(node.spec, host)
