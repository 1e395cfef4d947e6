"""Where buffers of a task lie."""

from __future__ import annotations

import re

import numpy as np
import tvm

from joulec.passes.graph import TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.pipeline import PIPELINE

COUNT = 6


def built(size, pipeline):
    """Tasks that sum a row through a local buffer of so many elements."""

    def body(operands, results):
        def task(row):
            held = loops.local(size)
            loops.vectors(size, 16, lambda i: loops.store(held, i, operands[0][row * size + i]))
            loops.store(results[0], row, loops.fold(held, size, lambda a, b: a + b))

        loops.repeat(COUNT, task, parallel=True)

    function = loops.prim_func([TensorType((COUNT, size))], [TensorType((COUNT,))], body)
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target="llvm", tir_pipeline=pipeline)


def calls(executable):
    return len(
        re.findall(r"@TVMBackendAllocWorkspace|__TVMBackendAllocWorkspace\b", executable.mod.inspect_source("ll"))
    )


def assert_sums(executable, size):
    data = np.random.default_rng(0).standard_normal((COUNT, size)).astype(np.float32)
    result = tvm.runtime.empty((COUNT,), "float32")
    executable["main"](tvm.runtime.tensor(data), result)
    np.testing.assert_allclose(result.numpy(), data.astype(np.float64).sum(1), rtol=1e-5, atol=1e-5)


def test_small_buffers_of_a_task_are_on_its_stack():
    ours, theirs = built(512, PIPELINE), built(512, "default")
    assert calls(ours) < calls(theirs)
    assert "alloca" in ours.mod.inspect_source("ll")
    assert_sums(ours, 512)


def test_large_buffers_come_from_the_workspace():
    large = built(1 << 15, PIPELINE)
    assert calls(large) == calls(built(1 << 15, "default"))
    assert_sums(large, 1 << 15)
