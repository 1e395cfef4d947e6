"""Algorithms for CUDA targets: what they compute, checked on the CPU, and where they apply."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Conv2d, MatMul, Node, TensorType, Value, Weight, literal
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.cuda.registry import CUDA_KERNELS
from joulec.passes.kernels.cuda.stages import composed, dlight, on_device, scheduled, stage
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.registry import KERNELS, kernel_named, kernels_for

sys.path.append(str(Path(__file__).parents[1] / "support"))

from cuda_cases import CASES, target, threads_as_loops

A100 = target("sm_80")
ALL = [
    pytest.param(kernel, params, node, id=f"{label}-{kernel.name}{''.join(f'-{v}' for _, v in params)}")
    for label, node in CASES.items()
    for kernel, params in kernels_for(node.spec, A100)
]


def offered(label):
    return [
        kernel.name + "".join(f" {value}" for _, value in params)
        for kernel, params in kernels_for(CASES[label].spec, A100)
    ]


@pytest.fixture(scope="module")
def compiled():
    """Definition and schedule of every case, for this machine; all at once takes a third of the time."""
    functions = {}
    for param in ALL:
        kernel, params, node = param.values
        built = kernel.build(node.spec, params, A100)
        assert on_device(built)
        for name, function in (
            ("definition", kernel.definition(node.spec, params)),
            ("loops", threads_as_loops(built)),
        ):
            symbol = f"{name}_{ALL.index(param)}"
            functions[symbol] = function.with_attr("global_symbol", symbol)
    return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target({"kind": "llvm", "opt-level": 1}))


def run_here(function, arrays, spec):
    results = [tvm.runtime.tensor(np.full(type.shape, np.nan, type.dtype)) for type in spec.results]
    function(*(tvm.runtime.tensor(array) for array in arrays), *results)
    return [result.numpy() for result in results]


@pytest.mark.parametrize("number", range(len(ALL)), ids=[param.id for param in ALL])
def test_definition_and_schedule_compute_what_numpy_does(number, compiled):
    """The schedule with its threads as loops: every index, bound and stage of it, but not a GPU's memory."""
    kernel, params, node = ALL[number].values
    rng = np.random.default_rng(7)
    arrays = [
        operand.value() if isinstance(operand, Weight) else rng.standard_normal(operand.type.shape).astype("float32")
        for operand in node.operands
    ]
    expected = evaluate_node(node, [array.astype(np.float64) for array in arrays])
    packed = [
        kernel.pack(node.spec, params, A100, index, array) if isinstance(operand, Weight) else array
        for index, (operand, array) in enumerate(zip(node.operands, arrays, strict=True))
    ]
    for name in ("definition", "loops"):
        for result, value in zip(run_here(compiled[f"{name}_{number}"], packed, node.spec), expected, strict=True):
            scale = max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(result, value, rtol=0, atol=2e-5 * scale)


def test_every_algorithm_is_tried():
    assert {kernel.name for kernel in CUDA_KERNELS} == {param.values[0].name for param in ALL}


def test_what_is_offered_for_a_convolution():
    assert offered("3x3") == ["winograd 4", "winograd 2", "im2col 0", "im2col 1", "fallback"]
    assert offered("5x5") == ["winograd 2", "im2col 0", "im2col 1", "fallback"]
    assert offered("strided") == ["im2col 0", "im2col 1", "fallback"]
    assert offered("pointwise") == ["im2col 0", "fallback"]
    assert offered("grouped") == ["im2col 0", "im2col 1", "fallback"]
    assert offered("depthwise") == ["fallback"]


def test_what_is_offered_for_products_and_reductions():
    assert offered("dense") == ["matmul", "fallback"]
    assert offered("one row") == offered("one row transposed") == ["gemv", "fallback"]
    assert offered("transpose") == ["transpose", "fallback"]
    for label in ("max pool", "mean pool", "global average", "softmax", "layer norm", "local response norm"):
        assert offered(label) == ["reduction", "fallback"]


def test_targets_are_offered_their_own_algorithms():
    spec = CASES["3x3"].spec
    cpu = CpuTarget('{"kind": "llvm", "mcpu": "haswell"}', 8, 16, 1)
    assert all(kernel in CUDA_KERNELS for kernel, _ in kernels_for(spec, A100))
    assert all(kernel in KERNELS for kernel, _ in kernels_for(spec, cpu))
    assert kernel_named("winograd", A100) is not kernel_named("winograd", cpu)
    with pytest.raises(KeyError, match="gemv"):
        kernel_named("direct_conv", A100)


def test_kernels_that_are_operands_and_other_types_are_left_to_tvm():
    x, w = Value.input("x", TensorType((1, 8, 5, 5))), Value.input("w", TensorType((8, 8, 3, 3)))
    variable = Node.make(Conv2d(), (x, w))
    assert [kernel.name for kernel, _ in kernels_for(variable.spec, A100)] == ["fallback"]
    double = Node.make(
        Conv2d(), (Value.input("x", TensorType((1, 4, 5, 5), "float64")), literal(np.ones((4, 4, 1, 1), np.float64)))
    )
    assert not kernels_for(double.spec, A100)


def test_work_is_no_less_than_what_must_be_read_and_written():
    for node in CASES.values():
        for kernel, params in kernels_for(node.spec, A100):
            work = kernel.work(node.spec, params, A100)
            assert work.dram_bytes >= node.spec.bytes * 0.999
            assert work.flops > 0 or not node.spec.flops


def test_grids_that_a_gpu_does_not_take_are_not_offered():
    data, weight = Value.input("x", TensorType((1, 2, 2))), literal(np.ones((1, 2, 65536 * 64), np.float32))
    wide = Node.make(MatMul(), (data, weight))
    assert [kernel.name for kernel, _ in kernels_for(wide.spec, A100)] == ["fallback"]


def test_a_stage_that_no_rule_schedules_is_refused():
    from tvm import te
    from tvm.s_tir import dlight as rules

    x = te.placeholder((4,), "float32", "x")
    one = stage([x], [te.compute((4,), lambda i: x[i] + 1.0)], [dlight(rules.gpu.Matmul())])
    with pytest.raises(ValueError, match="no rule schedules"):
        scheduled(one, A100.target)
    assert not on_device(composed([one], 1))
