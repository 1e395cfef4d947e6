"""Every kernel for vectors of every width: compiled for each, looked at, and run where this machine has them."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from onnx import helper

from joulec.passes.graph import (
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    PooledConv2d,
    Softmax,
    Step,
    Transpose,
)
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.kernels.registry import KERNELS, kernel_named
from joulec.passes.kernels.target import cpu_target
from joulec.passes.layouts.layout import Relayout

sys.path.append(str(Path(__file__).parent / "support"))
from integer_cases import imported, integer_node

EM_X86_64, EM_AARCH64 = 62, 183
AVX512 = "llvm -mtriple=x86_64-linux-gnu -mcpu=skylake-avx512 -mattr=-prefer-256-bit"
AVX2 = "llvm -mtriple=x86_64-linux-gnu -mcpu=haswell"
SSE4 = "llvm -mtriple=x86_64-linux-gnu -mcpu=nehalem"
NEON = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72"

# machine, register of a whole vector, what no code for the target may hold, a multiply-add (or multiplication) of one
LOOKS = {
    AVX512: (EM_X86_64, r"%zmm\d", r"\b[vzq]\d+\.4s", r"vfmadd\w+ps\s.*%zmm"),
    AVX2: (EM_X86_64, r"%ymm\d", r"%zmm\d", r"vfmadd\w+ps\s.*%ymm"),
    SSE4: (EM_X86_64, r"%xmm\d", r"%[yz]mm\d", r"mulps\s.*%xmm"),
    NEON: (EM_AARCH64, r"\bv\d+\.4s|\bq\d+", r"%[xyz]mm\d", r"fmla\s+v\d+\.4s"),
}
NAMES = {AVX512: "avx512", AVX2: "avx2", SSE4: "sse4", NEON: "neon"}
FEATURES = {AVX512: "avx512f", AVX2: "avx2", SSE4: "sse4.2"}

TARGETS = pytest.mark.parametrize("text", LOOKS, ids=NAMES.get)

_CONSTANT, _FUSED = [1, 2], [Step("bias"), Step("activation", "relu")]
_CONV = ([(1, 32, 9, 9), (48, 32, 3, 3), (48,)], _CONSTANT, _FUSED)
TEMPLATES = {
    "winograd": (Conv2d((1, 1), (1, 1, 1, 1)), *_CONV),
    "pointwise_conv": (Conv2d(), [(1, 32, 9, 9), (48, 32, 1, 1), (48,)], _CONSTANT, _FUSED),
    "direct_conv": (Conv2d((1, 1), (1, 1, 1, 1)), *_CONV),
    "gemm_conv": (Conv2d(), [(1, 32, 9, 9), (48, 32, 1, 1), (48,)], _CONSTANT, _FUSED),
    "depthwise_conv": (Conv2d((1, 1), (1, 1, 1, 1), groups=32), [(1, 32, 9, 30), (32, 1, 3, 3)], [1], []),
    "grouped_conv": (Conv2d((1, 1), (1, 1, 1, 1), groups=8), [(1, 32, 9, 30), (32, 4, 3, 3)], [1], []),
    "plane_conv": (Conv2d((1, 1), (1, 1, 1, 1)), [(1, 2, 9, 40), (3, 2, 3, 3)], [1], []),
    "im2col_conv": (Conv2d((2, 2), (1, 1, 1, 1)), *_CONV),
    "pooled_conv": (PooledConv2d(Conv2d((1, 1), (1, 1, 1, 1)), MaxPool2d((3, 3), (2, 2))), *_CONV),
    "packed_matmul": (MatMul(), [(6, 64), (64, 50), (50,)], _CONSTANT, _FUSED),
    "matmul": (MatMul(), [(2, 17, 64), (2, 64, 50)], [], []),
    "global_pool": (AvgPool2d((9, 9)), [(2, 32, 9, 9)], [], []),
    "pool": (MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), [(1, 16, 40, 40)], [], []),
    "elementwise": (Add(), [(2, 3, 9, 9), (3, 1, 1)], [], [Step("activation", "tanh")]),
    "copies": (Concat(1), [(2, 16, 8, 8), (2, 32, 8, 8)], [], []),
    "permute": (Transpose((1, 0)), [(40, 50)], [], []),
    "softmax": (Softmax(1), [(2, 100)], [], []),
    "relayout": (None, [(2, 32, 9, 9)], [], []),
    "local_response_norm": (LocalResponseNorm(5), [(1, 24, 6, 6)], [], []),
}
INTEGER = {
    "integer_conv": ("ConvInteger", (1, 32, 9, 9), (48, 32, 3, 3)),
    "integer_matmul": ("MatMulInteger", (6, 64), (64, 50)),
}
BYTES = {
    AVX512: r"vp(dp\w+|maddwd)\s.*%zmm",
    AVX2: r"vpmaddwd\s.*%ymm",
    SSE4: r"pmaddwd\s.*%xmm",
    NEON: r"smlal2?\s+v\d+\.4s",
}
"""A multiply-add of integers."""
PRODUCTS = ("winograd", "packed_matmul", "matmul", *(name for name in TEMPLATES if "conv" in name))
QUANTISED = {
    "dynamic_quantize": helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"]),
    "linear_quantize": helper.make_node("QuantizeLinear", ["x", "step"], ["y"]),
}
NAMED = [*TEMPLATES, *INTEGER, *QUANTISED]


@pytest.fixture
def given(name, text, make):
    """A node, and those of its inputs that are no floats."""
    if name in INTEGER:
        return integer_node(*INTEGER[name], zeros=(3, None))
    if name in QUANTISED:
        data, held = {"x": np.linspace(-1, 3, 2000, dtype=np.float32)}, {"step": np.float32(0.02)}
        return imported([QUANTISED[name]], data, held, "uint8")
    op, shapes, constants, epilogue = TEMPLATES[name]
    op = op or Relayout(0, cpu_target(text, 2).lanes)
    return make(op, shapes, constants=constants, epilogue=epilogue), {}


@pytest.fixture
def node(given):
    return given[0]


def test_every_kernel_is_tried():
    assert set(NAMED) == {kernel.name for kernel in KERNELS}


@TARGETS
@pytest.mark.parametrize("name", NAMED)
def test_it_compiles_to_the_targets_vectors(text, name, node, tmp_path):
    target, kernel = cpu_target(text, 2), kernel_named(name, cpu_target(text, 2))
    schedules = kernel.schedules(node.spec, target)
    assert schedules
    machine, whole, never, multiply = LOOKS[text]
    for params in {schedules[0], schedules[-1]}:
        function = kernel.build(node.spec, params, target).with_attr("global_symbol", "main")
        parsed = tvm.target.Target(json.loads(target.target))
        built = tvm.compile(tvm.IRModule({"main": function}), target=parsed, tir_pipeline=PIPELINE)
        assembly = built.mod.inspect_source("asm")
        assert re.search(whole, assembly) or "memcpy" in assembly, params  # LLVM knows a copy when it sees one
        assert not re.search(never, assembly), params
        assert name not in PRODUCTS or len(re.findall(multiply, assembly)) >= 4, params
        assert name not in INTEGER or len(re.findall(BYTES[text], assembly)) >= 4, params
    built.mod.write_to_file(str(tmp_path / "kernel.o"))
    written = (tmp_path / "kernel.o").read_bytes()
    assert written[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", written, 18) == (machine,)


@pytest.mark.parametrize("text", FEATURES, ids=NAMES.get)
@pytest.mark.parametrize("name", NAMED)
def test_it_computes_what_numpy_does(text, name, given, check):
    from tvm.target import Target, codegen

    host = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    if not codegen.llvm_cpu_has_features(FEATURES[text], host):
        pytest.skip(f"this machine has no {NAMES[text]}")
    node, inputs = given
    assert check(kernel_named(name, cpu_target(text, 2)), node, target=cpu_target(text, 2), given=inputs)
