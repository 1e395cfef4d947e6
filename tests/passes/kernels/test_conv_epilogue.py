"""Activations of the epilogue against numpy in double precision, over the whole range of float32."""

import numpy as np
import pytest

from joulec.passes.graph.operators import ACTIVATIONS as MEANING

tvm = pytest.importorskip("tvm")

from joulec.passes.kernels.epilogue import ACTIVATIONS, activation  # noqa: E402

PARAMS = {"clip": (-1.5, 6.0), "leaky_relu": (0.1,), "hard_sigmoid": (0.2, 0.5)}
LEAST = {"gelu": 2e-7, "silu": 1e-35, "hard_sigmoid": 1e-7, "hard_swish": 3e-7}
"""Sums like 1 + erf(x) cancel where erf is close to -1, in float32 as in ONNX."""


def compute(kind, values):
    """The activation, 16 elements to a vector, on this machine."""
    size = len(values)
    data = tvm.te.placeholder((size,), "float32")
    result = tvm.te.compute((size,), lambda i: activation(kind, PARAMS.get(kind, ()), data(i)), name="result")
    schedule = tvm.s_tir.Schedule(tvm.te.create_prim_func([data, result]))
    _, inner = schedule.split(schedule.get_loops(schedule.get_sblock("result"))[0], [None, 16])
    schedule.vectorize(inner)
    out = tvm.runtime.empty((size,), "float32")
    tvm.compile(schedule.mod, target="llvm")["main"](tvm.runtime.tensor(values), out)
    return out.numpy()


def test_every_activation_of_the_graph_is_known():
    assert set(ACTIVATIONS) == set(MEANING)


@pytest.mark.parametrize("kind", sorted(MEANING))
def test_activation_agrees_with_numpy(kind):
    rng = np.random.default_rng(3)
    values = np.concatenate(
        [
            np.linspace(-150, 150, 1024),
            rng.normal(0, 5, 2048),
            rng.normal(0, 0.1, 1008),
            [np.nan, np.inf, -np.inf],
            [0.0] * 13,
        ]
    ).astype(np.float32)
    if kind == "sqrt":
        values = np.abs(values)
    with np.errstate(over="ignore"):
        expected = MEANING[kind](values.astype(np.float64), *PARAMS.get(kind, ())).astype(np.float32)
    least = LEAST.get(kind, 1e-37)
    np.testing.assert_allclose(compute(kind, values), expected, rtol=1e-6, atol=least)


def test_the_lower_tail_of_a_sigmoid_is_not_zero():
    values = np.linspace(-102, -80, 64, dtype=np.float32)
    expected = 1 / (1 + np.exp(-values.astype(np.float64)))
    np.testing.assert_allclose(compute("sigmoid", values), expected, rtol=1e-6, atol=2e-45)
