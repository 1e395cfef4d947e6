"""Convolutions that are pooled before they are stored."""

from __future__ import annotations

import pytest

from joulec.passes.graph import Conv2d, MaxPool2d, PooledConv2d, Step
from joulec.passes.kernels.conv_pooled import PooledConv

BIASED = (Step("bias"), Step("activation", "relu"))


@pytest.mark.parametrize(
    ("conv", "kernel", "size"),
    [
        (Conv2d((2, 2)), (64, 3, 3, 3), (1, 3, 45, 47)),
        (Conv2d((2, 2), (3, 3, 3, 3)), (40, 3, 7, 7), (2, 3, 41, 30)),
        (Conv2d(padding=(1, 0, 0, 1), dilation=(2, 1)), (19, 5, 3, 2), (1, 5, 20, 23)),
        (Conv2d(groups=2), (64, 5, 1, 1), (1, 10, 17, 9)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "pool",
    [
        MaxPool2d((3, 3), (2, 2)),
        MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)),
        MaxPool2d((2, 2), (2, 2)),
        MaxPool2d((3, 2), (2, 1), (0, 1, 1, 0), ceil_mode=True),
        MaxPool2d((3, 3), (1, 1), (1, 1, 1, 1)),
    ],
    ids=str,
)
def test_pooled_rows_are_those_of_the_convolution(conv, kernel, size, pool, make, check):
    node = make(PooledConv2d(conv, pool), [size, kernel, kernel[:1]], [1, 2], BIASED)
    assert check(PooledConv(), node)


def test_what_it_leaves_to_others(make, host):
    gaps = make(PooledConv2d(Conv2d(), MaxPool2d((1, 1), (2, 2))), [(1, 3, 20, 20), (32, 3, 3, 3)], [1])
    spread = make(PooledConv2d(Conv2d(), MaxPool2d((2, 2), dilation=(2, 2))), [(1, 3, 20, 20), (32, 3, 3, 3)], [1])
    computed = make(PooledConv2d(Conv2d(), MaxPool2d((2, 2))), [(1, 3, 20, 20), (32, 3, 3, 3)])
    assert not any(PooledConv().schedules(node.spec, host) for node in (gaps, spread, computed))
