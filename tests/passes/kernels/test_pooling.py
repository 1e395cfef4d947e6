"""Pooling."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.graph import AvgPool2d, MaxPool2d, OperatorError, Step
from joulec.passes.kernels.pooling import GlobalPool, Pool

RELU = Step("activation", "relu")


@pytest.mark.parametrize("shape", [(1, 5, 7, 7), (3, 4, 5, 3), (1, 2, 1, 9), (2, 3, 30, 31)])
@pytest.mark.parametrize("kind", [AvgPool2d, MaxPool2d])
def test_whole_planes(kind, shape, make, check, host):
    node = make(kind(shape[2:]), [shape, (shape[1],)], constants=[1], epilogue=[Step("bias"), RELU])
    assert check(GlobalPool(), node)
    assert not Pool().schedules(node.spec, host)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "size"),
    [
        ((3, 3), (2, 2), (1, 1, 1, 1), (28, 28)),
        ((2, 2), (2, 2), (0, 0, 0, 0), (13, 37)),
        ((3, 3), (1, 1), (1, 1, 1, 1), (7, 7)),
        ((3, 2), (3, 3), (1, 0, 0, 1), (20, 17)),
        ((1, 1), (2, 2), (0, 0, 0, 0), (9, 70)),
        ((5, 5), (1, 1), (2, 2, 2, 2), (5, 5)),
    ],
)
def test_windows(batch, kernel, strides, padding, size, make, check):
    for ceil_mode in (False, True):
        for op in (
            MaxPool2d(kernel, strides, padding, ceil_mode=ceil_mode),
            AvgPool2d(kernel, strides, padding, ceil_mode=ceil_mode),
            AvgPool2d(kernel, strides, padding, ceil_mode=ceil_mode, count_include_pad=True),
        ):
            assert check(Pool(), make(op, [(batch, 3, *size)]))


def test_epilogue(make, check):
    shapes = [(2, 3, 14, 19), (3,), (2, 3, 7, 9)]
    node = make(AvgPool2d((2, 3), (2, 2)), shapes, constants=[1], epilogue=[Step("bias"), Step("add"), RELU])
    assert check(Pool(), node)


def test_random_poolings(make, check):
    rng = np.random.default_rng(3)
    done = 0
    while done < 15:
        kernel = tuple(int(k) for k in rng.integers(1, 5, 2))
        padding = tuple(int(rng.integers(0, kernel[axis % 2])) for axis in range(4))
        strides = tuple(int(k) for k in rng.integers(1, 4, 2))
        dilation = (1, 1) if rng.random() < 0.5 else tuple(int(k) for k in rng.integers(1, 3, 2))
        kind, ceil_mode = (MaxPool2d, AvgPool2d)[int(rng.integers(2))], bool(rng.integers(2))
        size = tuple(int(k) for k in rng.integers(4, 40, 2))
        try:
            node = make(kind(kernel, strides, padding, dilation, ceil_mode), [(1, 2, *size)])
        except OperatorError:
            continue
        if not _every_window_has_data(node):
            continue
        assert check(GlobalPool(), node) or check(Pool(), node)
        done += 1


def _every_window_has_data(node):
    """Dilated windows may fall between padding and data altogether; what they are worth is not defined."""
    op = AvgPool2d(*(getattr(node.op, name) for name in ("kernel", "strides", "padding", "dilation", "ceil_mode")))
    return bool((op.divisors(node.spec.operands[0].type, node.spec.results[0]) > 0).all())


def test_a_window_that_needs_too_much_code_is_left_to_tvm(make, host):
    node = make(MaxPool2d((61, 61), (1, 1), (30, 30, 30, 30)), [(1, 1, 61, 61)])
    assert not Pool().schedules(node.spec, host)
