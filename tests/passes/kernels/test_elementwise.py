"""Elementwise kernels."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Activation, Add, Binary, ChannelAffine, Concat, Step
from joulec.passes.graph.operators import ACTIVATIONS
from joulec.passes.kernels.elementwise import Elementwise, merged_axes

RELU = Step("activation", "relu")
PARAMS = {"clip": (0.0, 6.0), "leaky_relu": (0.1,), "hard_sigmoid": (0.2, 0.5)}


@pytest.mark.parametrize("kind", sorted(set(ACTIVATIONS) - {"sqrt"}))
def test_activations(kind, make, check):
    assert check(Elementwise(), make(Activation(kind, PARAMS.get(kind, ())), [(3, 5, 7, 9)]))


def test_square_root(make, host, compiled):
    node = make(Activation("sqrt"), [(37,)])
    data, result = np.linspace(0, 5, 37, dtype=np.float32), tvm.runtime.empty((37,), "float32")
    for params in Elementwise().schedules(node.spec, host):
        compiled(Elementwise().build(node.spec, params, host), host)(tvm.runtime.tensor(data), result)
        np.testing.assert_allclose(result.numpy(), np.sqrt(data), rtol=1e-6)


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5, 7), (5, 1)],
        [(3, 1), (1, 5), (2, 1, 1)],
        [(), (4,)],
        [(), ()],
        [(1, 16, 9, 9)] * 3,
        [(2, 64, 57, 33), (64, 1, 1)],
        [(1, 33000)] * 2,
    ],
)
def test_sums_broadcast(shapes, make, check):
    assert check(Elementwise(), make(Add(), shapes))


@pytest.mark.parametrize("kind", ["sub", "mul"])
def test_binary_with_the_smaller_operand_first(kind, make, check):
    assert check(Elementwise(), make(Binary(kind), [(7, 1), (2, 3, 7, 5)], epilogue=[RELU]))


def test_division(make, check):
    node = make(Binary("div"), [(3, 19), (3, 19)])
    assert check(Elementwise(), node, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(1, 17, 5, 5), (3, 8, 31, 33), (2, 5)])
def test_channel_affine(shape, make, check):
    channels = (shape[1],)
    assert check(Elementwise(), make(ChannelAffine(), [shape, channels, channels], constants=[1, 2], epilogue=[RELU]))


@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (3, 7), (2, 3, 11)])
def test_whole_epilogue(shape, make, check):
    bias = (shape[1] if len(shape) == 4 else shape[-1],)
    node = make(Add(), [shape, shape, bias, shape], constants=[2], epilogue=[Step("bias"), Step("add"), RELU])
    assert check(Elementwise(), node)


def test_large_work_runs_on_all_threads_and_small_work_on_one(make, host):
    def offered(size: int) -> list[int]:
        schedules = Elementwise().schedules(make(Add(), [(size,), (size,)]).spec, host)
        return [dict(params)["parallel"] for params in schedules]

    assert offered(100) == [0]
    assert offered(10**6) == [1]
    assert sorted(offered(30000)) == [0, 1]


def test_axes_that_advance_alike_are_one_loop(make):
    assert merged_axes(make(Add(), [(2, 3, 4, 5)] * 2).spec) == [(120, (1, 1))]
    assert merged_axes(make(Add(), [(2, 3, 4, 5), (3, 1, 1)]).spec) == [(2, (60, 0)), (3, (20, 1)), (20, (1, 0))]


def test_other_operators_and_types_are_refused(make, host):
    assert not Elementwise().schedules(make(Concat(0), [(3,), (4,)]).spec, host)
    assert not Elementwise().schedules(make(Add(), [(3,), (3,)], dtype="int64").spec, host)


def test_random_broadcasts(make, check):
    rng = np.random.default_rng(11)
    for _ in range(12):
        rank = int(rng.integers(1, 5))
        full = [int(extent) for extent in rng.integers(1, 9, rank)]
        shapes = []
        for _ in range(int(rng.integers(2, 5))):
            kept = [extent if rng.random() < 0.7 else 1 for extent in full]
            shapes.append(tuple(kept[int(rng.integers(0, rank)) :]))
        assert check(Elementwise(), make(Add(), shapes))
