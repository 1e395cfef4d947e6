"""Where buffers of a task lie, and what of TVM's lowering kernels of ours go without."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm.ir.instrument import PassTimingInstrument
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import TensorType
from joulec.passes.kernels import loops
from joulec.passes.kernels.epilogue import finished
from joulec.passes.kernels.pipeline import PIPELINE

COUNT = 6
ROOM = 4096


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


def doubling():
    """A function that doubles four numbers through a buffer of its own that has room for many more."""
    with IRBuilder() as builder, T.prim_func(private=True):
        source = T.arg("source", T.buffer((4,), "float32"))
        target = T.arg("target", T.buffer((4,), "float32"))
        between = T.alloc_buffer((ROOM,), "float32")
        with T.serial(0, 4) as index:
            T.buffer_store(between, source[index] + source[index], [index])
        with T.serial(0, 4) as index:
            T.buffer_store(target, between[index], [index])
    return builder.get()


def compiled(functions):
    module = tvm.IRModule({name: one.with_attr("global_symbol", name) for name, one in functions.items()})
    return tvm.compile(module, target=tvm.target.Target('{"kind": "llvm"}'), tir_pipeline=PIPELINE)


def test_functions_of_ours_and_of_others_run_from_one_module():
    executable = compiled({"ours": finished(doubling()), "others": doubling()})
    for name in ("ours", "others"):
        data = tvm.runtime.tensor(np.arange(4, dtype="float32"))
        result = tvm.runtime.empty((4,), "float32")
        executable[name](data, result)
        np.testing.assert_array_equal(result.numpy(), [0, 2, 4, 6])


@pytest.mark.parametrize(("function", "kept"), [(finished(doubling()), True), (doubling(), False)])
def test_only_buffers_of_others_are_shrunk(function, kept):
    assert (f"{ROOM * 4}" in compiled({"one": function}).mod.inspect_source("ll")) == kept


def test_the_context_of_the_caller_holds():
    timing = PassTimingInstrument()
    with tvm.transform.PassContext(instruments=[timing], disabled_pass=["tirx.CommonSubexprElim"]):
        compiled({"ours": finished(doubling()), "others": doubling()})
        passes = timing.render()
    assert "FlattenBuffer" in passes
    assert "CommonSubexprElim" not in passes
