"""Softmax and local response normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from joulec.passes.graph import LocalResponseNorm, Softmax, Step
from joulec.passes.kernels.normalisation import LocalResponseNormKernel, SoftmaxKernel

RELU = Step("activation", "relu")


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (1, (1, 1000)),
        (1, (3, 10)),
        (0, (5,)),
        (1, (5, 1)),
        (2, (4, 50, 33)),
        (1, (3, 21, 13, 17)),
        (0, (3, 200)),
        (1, (2, 7, 50, 9)),
    ],
)
def test_softmax(axis, shape, make, check):
    assert check(SoftmaxKernel(), make(Softmax(axis), [shape]), tolerance=1e-6)


@pytest.mark.parametrize("axis", [1, 3])
def test_softmax_with_an_epilogue(axis, make, check):
    node = make(Softmax(axis), [(2, 5, 3, 19), (5,)], constants=[1], epilogue=[Step("bias"), RELU])
    assert check(SoftmaxKernel(), node, tolerance=1e-6)


def test_softmax_of_large_numbers_does_not_overflow(make, host, compiled):
    node = make(Softmax(1), [(2, 37)])
    for params in SoftmaxKernel().schedules(node.spec, host):
        data = np.full((2, 37), -3e38, np.float32)
        data[:, 5] = 3e38
        result = tvm.runtime.empty((2, 37), "float32")
        compiled(SoftmaxKernel().build(node.spec, params, host), host)(tvm.runtime.tensor(data), result)
        assert np.array_equal(result.numpy(), (data > 0).astype(np.float32))


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0, 0.6])
def test_exponents(beta, make, check):
    assert check(LocalResponseNormKernel(), make(LocalResponseNorm(5, 0.3, beta, 2.0), [(2, 7, 5, 5)]))


@pytest.mark.parametrize(("size", "channels"), [(1, 4), (4, 3), (5, 64), (9, 3), (2, 1)])
def test_windows_at_the_first_and_last_channels(size, channels, make, check):
    assert check(LocalResponseNormKernel(), make(LocalResponseNorm(size, 0.5), [(2, channels, 5, 9)]))


def test_local_response_norm_with_an_epilogue(make, check):
    node = make(LocalResponseNorm(3, 0.5), [(2, 5, 4, 9), (5,)], constants=[1], epilogue=[Step("bias"), RELU])
    assert check(LocalResponseNormKernel(), node)
    node = make(LocalResponseNorm(3, 0.5), [(2, 5, 9), (9,)], constants=[1], epilogue=[Step("bias")])
    assert check(LocalResponseNormKernel(), node)
