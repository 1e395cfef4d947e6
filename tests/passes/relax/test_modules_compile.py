"""Relax modules with functions that call each other, kernels already inside, and constants of any kind, compiled."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, te

import joulec

SHAPE = (2, 4)


def _main(dtype, body, builder=None):
    builder = builder or relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(SHAPE, dtype))
    with builder.function("main", [data]):
        with builder.dataflow():
            result = builder.emit_output(body(builder, data))
        builder.emit_func_output(result)
    return builder.get()


def _agrees(module, given, wanted):
    with joulec.compile(module, costs="model", measure=False, budget=0) as compiled:
        np.testing.assert_allclose(compiled(given), wanted, rtol=1e-5, atol=1e-6)


def test_a_kernel_that_is_there_already():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    module = _main("float32", lambda b, v: b.emit_te(lambda t: te.compute(t.shape, lambda i, j: t[i, j] * 2 + 1), v))
    _agrees(module, x, x * 2 + 1)


def test_a_function_that_calls_another():
    builder = relax.BlockBuilder()
    inner = relax.Var("a", relax.TensorType(SHAPE, "float32"))
    with builder.function("helper", [inner], private=True):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(inner)))
    helper = builder.get().get_global_var("helper")
    module = _main("float32", lambda b, v: relax.op.exp(b.emit(relax.Call(helper, [v]))), builder)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    _agrees(module, x, np.exp(np.maximum(x, 0)))


@pytest.mark.parametrize("dtype", ["int64", "float16", "float64", "int8"])
def test_constants_of_any_kind(dtype):
    constant = (np.arange(8).reshape(SHAPE) % 3).astype(dtype)
    module = _main(dtype, lambda b, v: relax.op.add(v, relax.const(constant, dtype)))
    _agrees(module, np.ones(SHAPE, dtype), constant + 1)
