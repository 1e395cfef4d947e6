"""Expressions over weights: one normal form for equal contents, computed on demand; the pad operator."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.graph import (
    Concatenated,
    Conv2d,
    OperatorError,
    Pad,
    TensorType,
    composed,
    concatenated,
    dirac,
    literal,
    padded,
    projected,
    reshaped,
    scaled,
    sliced,
    summed,
    transposed,
)

rng = np.random.default_rng(0)


def weight(*shape, dtype="float32"):
    return literal(rng.standard_normal(shape).astype(dtype))


def test_sums_do_not_depend_on_the_order():
    a, b, c = (weight(4, 3, 1, 1) for _ in range(3))
    total = summed((a, summed((b, c))))
    assert total == summed((summed((c, a)), b))
    np.testing.assert_allclose(total.value(), a.value() + b.value() + c.value(), rtol=1e-6)
    assert total.value().dtype == np.float32
    with pytest.raises(ValueError, match="cannot add"):
        summed((a, weight(4, 3, 3, 3)))


def test_sums_are_rounded_once():
    parts = tuple(literal(np.full(1, value, np.float32)) for value in (1e8, 1.0, -1e8))
    assert summed(parts).value()[0] == 1.0


def test_sums_of_concatenations_and_pads_go_to_the_leaves():
    a, b, c, d = (weight(2, 3, 1, 1) for _ in range(4))
    side_by_side = summed((concatenated((a, b), 0), concatenated((c, d), 0)))
    assert side_by_side == concatenated((summed((a, c)), summed((b, d))), 0)
    frame = ((0, 0), (0, 0), (1, 1), (0, 2))
    assert padded(summed((a, b)), frame) == summed((padded(b, frame), padded(a, frame)))


def test_slices_rejoin_and_go_to_the_leaves():
    a, b = weight(4, 3, 2, 2), weight(2, 3, 2, 2)
    assert concatenated((sliced(a, 0, 0, 1), sliced(a, 0, 1, 4)), 0) == a
    assert sliced(sliced(a, 0, 1, 4), 0, 1, 2) == sliced(a, 0, 2, 3)
    both = concatenated((a, b), 0)
    middle = sliced(both, 0, 3, 5)
    assert isinstance(middle, Concatenated)
    np.testing.assert_array_equal(middle.value(), both.value()[3:5])
    np.testing.assert_array_equal(sliced(both, 1, 1, 3).value(), both.value()[:, 1:3])
    assert concatenated((sliced(both, 1, 0, 1), sliced(both, 1, 1, 3)), 1).value().shape == (6, 3, 2, 2)
    frame = ((0, 0), (0, 0), (1, 0), (0, 1))
    assert sliced(padded(a, frame), 0, 1, 3) == padded(sliced(a, 0, 1, 3), frame)
    with pytest.raises(ValueError, match="cannot take 2 to 5"):
        sliced(a, 0, 2, 5)


def test_a_padded_dirac_is_a_dirac():
    wide = padded(dirac(2, (1, 1), (0, 0), "float32"), ((0, 0), (0, 0), (1, 2), (0, 1)))
    assert wide == dirac(2, (4, 2), (1, 0), "float32")
    assert wide.value().sum() == 2


def test_reshapes_and_transposes_cancel():
    kernel = weight(4, 3, 1, 1)
    assert reshaped(reshaped(kernel, (4, 3)), (4, 3, 1, 1)) == kernel
    assert transposed(transposed(reshaped(kernel, (4, 3)))) == reshaped(kernel, (4, 3))
    with pytest.raises(ValueError, match="cannot give"):
        reshaped(kernel, (5,))


def test_products_mean_what_convolutions_do():
    first, second, third = weight(4, 3, 1, 1), weight(5, 4, 3, 2), weight(6, 5, 1, 1)
    product = composed(third, composed(second, first))
    assert product == composed(composed(third, second), first)
    data = rng.standard_normal((1, 3, 6, 6))
    steps = data
    for kernel in (first, second, third):
        (steps,) = Conv2d().evaluate(steps, kernel.value())
    np.testing.assert_allclose(Conv2d().evaluate(data, product.value())[0], steps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_scales_and_shifts_mean_what_convolutions_do(groups):
    kernel, vector = weight(4, 4 // groups, 3, 2), weight(4)
    data = rng.standard_normal((1, 4, 5, 5))
    column = vector.value().reshape(-1, 1, 1)
    op = Conv2d(groups=groups)
    got = op.evaluate(data, scaled(kernel, vector, groups).value())[0]
    np.testing.assert_allclose(got, op.evaluate(data * column, kernel.value())[0], rtol=1e-4, atol=1e-4)
    flat = op.evaluate(np.zeros((1, 4, 3, 2)) + column, kernel.value())[0].reshape(-1)
    np.testing.assert_allclose(projected(kernel, vector, groups).value(), flat, rtol=1e-4, atol=1e-5)


def test_pad():
    op = Pad(((0, 0), (1, 2)), 3.0)
    assert op.infer([TensorType((2, 2))]) == (TensorType((2, 5)),)
    np.testing.assert_array_equal(op.evaluate(np.ones((1, 1)))[0], [[3, 1, 3, 3]])
    with pytest.raises(OperatorError, match="do not fit the axes"):
        op.infer([TensorType((2,))])
    with pytest.raises(OperatorError, match="must not be negative"):
        Pad(((-1, 0),)).infer([TensorType((2,))])
