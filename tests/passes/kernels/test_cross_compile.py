"""Code for other processors: compiled, not run; the instructions show that the vectors are used."""

from __future__ import annotations

import json
import re

import pytest
import tvm

from joulec.passes.graph import (
    Add,
    AvgPool2d,
    Concat,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Softmax,
    Split,
    Step,
    Transpose,
)
from joulec.passes.kernels.registry import kernels_for
from joulec.passes.kernels.target import cpu_target

TARGETS = {
    "llvm -mtriple=x86_64-linux-gnu -mcpu=skylake-avx512 -mattr=-prefer-256-bit": r"vfmadd\w+ps\s.*zmm",
    "llvm -mtriple=x86_64-linux-gnu -mcpu=haswell": r"vfmadd\w+ps\s.*ymm",
    "llvm -mtriple=x86_64-linux-gnu -mcpu=nehalem": r"mulps\s.*xmm",
    "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72": r"fmla\s+v\d+\.4s",
}


def assembly(node, text):
    """Of the likeliest kernel and schedule."""
    target = cpu_target(text, 2)
    kernel, params = kernels_for(node.spec, target)[0]
    function = kernel.build(node.spec, params, target).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(json.loads(target.target)))
    return built.mod.inspect_source("asm")


@pytest.mark.parametrize("text", TARGETS)
def test_products_multiply_and_add_in_vectors(text, make):
    node = make(MatMul(), [(6, 64), (64, 50), (50,)], constants=[1, 2], epilogue=[Step("bias")])
    assert len(re.findall(TARGETS[text], assembly(node, text))) >= 6


@pytest.mark.parametrize("text", TARGETS)
@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Add(), [(2, 3, 9, 9), (3, 1, 1)]),
        (MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), [(1, 2, 30, 30)]),
        (AvgPool2d((9, 9)), [(1, 2, 9, 9)]),
        (Softmax(1), [(2, 100)]),
        (LocalResponseNorm(5), [(1, 8, 5, 5)]),
        (Concat(1), [(2, 3, 9), (2, 5, 9)]),
        (Split(1, (3, 5)), [(2, 8, 9)]),
        (Transpose((1, 0)), [(40, 50)]),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_every_family_compiles(text, op, shapes, make):
    assert "main" in assembly(make(op, shapes), text)
