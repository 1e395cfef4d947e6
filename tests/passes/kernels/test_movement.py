"""Concat, split, transpose."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Concat, Reshape, Split, Step, Transpose
from joulec.passes.kernels.movement import Copies, Permute, permuted_axes
from joulec.passes.kernels.registry import kernels_for


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(7, 7), (57, 71)])
def test_concat_of_channels(batch, size, make, check):
    assert check(Copies(), make(Concat(1), [(batch, channels, *size) for channels in (17, 4, 1)]))


@pytest.mark.parametrize(
    ("axis", "shapes"),
    [(0, [(3,), (4,)]), (2, [(3, 17, 7), (3, 17, 1)]), (1, [(2, 1)] * 5), (0, [(5, 3)]), (1, [(2, 40000), (2, 3)])],
)
def test_concat_along_other_axes(axis, shapes, make, check):
    assert check(Copies(), make(Concat(axis), shapes))


@pytest.mark.parametrize("size", [(7, 7), (57, 71)])
def test_a_concat_leaves_alone_what_is_in_place(size, make, compiled, host):
    node = make(Concat(1, (True, False, True, False)), [(1, channels, *size) for channels in (3, 2, 4, 1)])
    for params in Copies().schedules(node.spec, host):
        given = [np.full(operand.type.shape, number, np.float32) for number, operand in enumerate(node.operands, 1)]
        result = tvm.runtime.tensor(np.full(node.outputs[0].type.shape, 9.0, np.float32))
        compiled(Copies().build(node.spec, params, host), host)(*map(tvm.runtime.tensor, given), result)
        assert result.numpy()[0, :, -1, -1].tolist() == [9, 9, 9, 2, 2, 9, 9, 9, 9, 4]
        assert Copies().work(node.spec, params, host).dram_bytes == 2 * 3 * size[0] * size[1] * 4


@pytest.mark.parametrize("shape", [(2, 17, 7, 7), (1, 17, 77, 71), (3, 17)])
def test_split(shape, make, check):
    assert check(Copies(), make(Split(1, (3, 5, 9)), [shape]))


@pytest.mark.parametrize("dtype", ["int64", "float64", "int32"])
def test_other_types_are_moved_too(dtype, make, check):
    assert check(Copies(), make(Concat(0), [(3, 9), (4, 9)], dtype=dtype))
    assert check(Permute(), make(Transpose((1, 0)), [(19, 23)], dtype=dtype))


@pytest.mark.parametrize(
    ("permutation", "shape"),
    [
        ((0, 2, 1, 3, 4), (1, 8, 30, 7, 7)),
        ((0, 2, 1, 3, 4), (1, 4, 60, 28, 28)),
        ((0, 2, 3, 1), (2, 33, 9, 10)),
        ((0, 3, 1, 2), (1, 40, 35, 3)),
        ((1, 0), (64, 128)),
        ((1, 0), (67, 131)),
        ((0, 1), (1, 1)),
        ((0, 1, 2), (3, 4, 5)),
        ((2, 0, 1), (1, 300, 300)),
    ],
)
def test_transpose(permutation, shape, make, check):
    assert check(Permute(), make(Transpose(permutation), [shape]))


def test_permutations_of_four_axes(make, check):
    for permutation in list(permutations(range(4)))[1::4]:
        assert check(Permute(), make(Transpose(permutation), [(3, 17, 5, 18)]))


def test_axes_that_stay_together_are_merged():
    assert permuted_axes((1, 8, 30, 28, 28), (0, 2, 1, 3, 4)) == [(30, 784), (8, 23520), (784, 1)]
    assert permuted_axes((2, 3, 4), (0, 1, 2)) == [(24, 1)]


def test_a_view_has_no_kernel_and_an_epilogue_is_refused(make, host):
    assert kernels_for(make(Reshape((6,)), [(2, 3)]).spec, host) == []
    relu = [Step("activation", "relu")]
    assert kernels_for(make(Concat(0), [(2, 3), (1, 3)], epilogue=relu).spec, host) == []
    assert kernels_for(make(Transpose((1, 0)), [(2, 3)], epilogue=relu).spec, host) == []


def test_random_concats(make, check):
    rng = np.random.default_rng(17)
    for _ in range(8):
        shape = [int(extent) for extent in rng.integers(1, 12, int(rng.integers(1, 5)))]
        axis = int(rng.integers(len(shape)))
        sizes = [int(size) for size in rng.integers(1, 20, int(rng.integers(1, 6)))]
        parts = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        assert check(Copies(), make(Concat(axis), parts))
        assert check(Copies(), make(Split(axis, tuple(sizes)), [(*shape[:axis], sum(sizes), *shape[axis + 1 :])]))
