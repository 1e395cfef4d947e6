"""Relax modules with functions that call each other, kernels already inside, and constants of any kind, compiled."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
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


def _symbolic(name="main"):
    """Two rows of whatever width, a sum with a part of a tuple, a kernel that is there already, a nested result."""
    rows, width = tvm.tirx.Var("n", "int64"), tvm.tirx.Var("width", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, width), "float32"))
    row = relax.TensorType((width,), "float32")
    pair = relax.Var("pair", relax.TupleType([relax.TensorType((rows, width), "float32"), relax.TupleType([row, row])]))
    with builder.function(name, [x, pair]):
        with builder.dataflow():
            inner = builder.emit(relax.TupleGetItem(pair, 1))
            total = builder.emit(relax.op.add(x, relax.TupleGetItem(pair, 0)))
            both = builder.emit(relax.op.add(total, builder.emit(relax.TupleGetItem(inner, 1))))
            doubled = builder.emit_te(lambda t: te.compute(t.shape, lambda i, j: t[i, j] * 2), both)
            long = builder.emit(relax.op.reshape(doubled, relax.ShapeExpr([rows, width])))
            result = builder.emit_output(relax.Tuple([long, relax.Tuple([total, x])]))
        builder.emit_func_output(result)
    return builder.get()


def _given(rows, width):
    generator = np.random.default_rng(rows)
    shapes = {"x": (rows, width), "pair_0": (rows, width), "pair_1_0": (width,), "pair_1_1": (width,)}
    return {name: generator.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["main", "forward"])
def test_symbolic_shapes_and_tuples(name):
    with joulec.compile(_symbolic(name), input_shapes={"x": [3, 5]}, costs="model", measure=False, budget=0) as made:
        given = _given(3, 5)
        found = made(**given)
    total = given["x"] + given["pair_0"]
    for one, wanted in zip(found, ((total + given["pair_1_1"]) * 2, total, given["x"]), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)


def _batched(*names):
    builder = relax.BlockBuilder()
    for name in names:
        rows = tvm.tirx.Var("n", "int64")
        x = relax.Var("x", relax.TensorType((rows, 5), "float32"))
        with builder.function(name, [x]):
            with builder.dataflow():
                result = builder.emit_output(relax.op.exp(x) if name == "second" else relax.op.nn.relu(x))
            builder.emit_func_output(result)
    return builder.get()


def test_a_symbolic_batch_for_several_batch_sizes():
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    with joulec.compile(_batched("main"), batch_sizes=[1, 4], costs="model", measure=False, budget=0) as made:
        assert made.batch_sizes == (1, 4)
        np.testing.assert_array_equal(made(x), np.maximum(x, 0))
        np.testing.assert_array_equal(made(x[:1]), np.maximum(x[:1], 0))


def test_an_entry_is_chosen():
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    options = {"batch_sizes": [4], "costs": "model", "measure": False, "budget": 0}
    with joulec.compile(_batched("first", "second"), entry="second", **options) as made:
        np.testing.assert_allclose(made(x), np.exp(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (_batched("first", "second"), {}, r"no Relax function 'main'; it has first, second: choose one with entry="),
        (_batched("main"), {"entry": "other"}, r"no Relax function 'other'; it has main"),
        (_batched("main"), {}, r"input 'x' has no size for dimension 0 \('n'\).*input_shapes=\{'x': \[1,5\]\}"),
        (_batched("main"), {"input_shapes": {"y": [1]}}, r"no input 'y'; its inputs are x"),
        (_batched("main"), {"input_shapes": {"x": [1]}}, r"has 2 dimensions, not 1"),
        (_batched("main"), {"input_shapes": {"x": [2, 6]}}, r"has size 5 where \[2, 6\] has 6"),
        (_batched("main"), {"input_shapes": {"x": [2, 5]}, "batch_sizes": [3]}, r"batch of 3: .* \(batch 2\)"),
        (
            _symbolic(),
            {"input_shapes": {"x": [3, 5], "pair_0": [2, 5]}},
            r"dimension 'n' cannot be both 3 and 2",
        ),
        (_symbolic(), {"input_shapes": {"pair_1_1": [5]}, "batch_sizes": [2]}, r"do not all lead with it"),
    ],
)
def test_what_cannot_be_bound_is_told(module, options, message):
    with pytest.raises(ValueError, match=message):
        joulec.compile(module, costs="model", measure=False, budget=0, **options)
