"""Weight expressions: values, normal form, identity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import Concatenated, Literal, Padded, concatenated, literal, padded, summed


def arange(*shape: int, start: int = 0) -> Literal:
    return literal((np.arange(np.prod(shape), dtype="f") + start).reshape(shape))


def test_equal_contents_are_equal_weights():
    assert arange(2, 3) == arange(2, 3)
    assert arange(2, 3) != arange(3, 2)
    assert arange(2, 3) != arange(2, 3, start=1)
    assert literal(np.zeros(2, "f")) != literal(np.zeros(4, "f2").view("f4")[:1].repeat(2).astype("f8"))
    assert literal(np.float32(2.0)).type.shape == ()


def test_a_number_computed_from_numbers_has_no_axis():
    total = summed((literal(np.float32(2.0)), literal(np.float32(0.5))))
    assert total.value().shape == total.type.shape == ()
    assert total.value() == 2.5


def test_a_transposed_array_keeps_its_meaning():
    array = np.arange(6, dtype="f").reshape(2, 3)
    weight = literal(array.T)
    np.testing.assert_equal(weight.value(), array.T)
    assert weight == literal(np.ascontiguousarray(array.T))


def test_merge_orders_meet():
    a, b, c = (arange(2, 3, start=start) for start in (0, 10, 20))
    left = concatenated((concatenated((a, b), 0), c), 0)
    right = concatenated((a, concatenated((b, c), 0)), 0)
    assert left == right == concatenated((a, b, c), 0)
    assert concatenated((a, b), 0) != concatenated((b, a), 0)
    assert concatenated((a, b), 0) != concatenated((a, b), 1)
    assert concatenated((a,), 1) is a


def test_concatenations_along_other_axes_stay_nested():
    a, b = arange(2, 3), arange(2, 3, start=5)
    inner = concatenated((a, b), 1)
    outer = concatenated((inner, inner), 0)
    assert isinstance(outer, Concatenated)
    assert outer.parts == (inner, inner)
    np.testing.assert_equal(outer.value(), np.concatenate([inner.value()] * 2))


def test_pads_add_up_and_go_to_the_parts():
    a, b = arange(1, 1, 1, 1), arange(1, 1, 1, 1, start=4)
    ring = ((0, 0), (0, 0), (1, 1), (1, 1))
    twice = padded(padded(a, ring), ring)
    assert twice == padded(a, ((0, 0), (0, 0), (2, 2), (2, 2)))
    assert padded(concatenated((a, b), 0), ring) == concatenated((padded(a, ring), padded(b, ring)), 0)
    assert padded(a, ((0, 0),) * 4) is a


def test_pads_along_the_joint_do_not_go_to_the_parts():
    a, b = arange(2), arange(2, start=5)
    grown = padded(concatenated((a, b), 0), ((1, 0),))
    assert isinstance(grown, Padded)
    np.testing.assert_equal(grown.value(), [0, 0, 1, 5, 6])


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot concatenate"):
        concatenated((arange(2, 3), arange(2, 4)), 0)
    with pytest.raises(ValueError, match="cannot concatenate"):
        concatenated((arange(2), literal(np.zeros(2, "f8"))), 0)


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_value_and_type_equal_numpy(data):
    """Any nesting of concatenations and pads computes what numpy computes, and knows its type beforehand."""
    counter = iter(range(0, 10_000, 100))

    def draw(depth: int, shape: tuple[int, int]):
        kind = data.draw(st.sampled_from(["leaf", "concat", "pad"] if depth else ["leaf"]))
        if kind == "concat":
            axis = data.draw(st.integers(0, 1))
            shapes = [
                tuple(data.draw(st.integers(1, 3)) if i == axis else size for i, size in enumerate(shape))
                for _ in range(data.draw(st.integers(1, 3)))
            ]
            pairs = [draw(depth - 1, part) for part in shapes]
            # pads below may have grown the parts; cut what does not fit
            sizes = {tuple(s for i, s in enumerate(w.type.shape) if i != axis) for w, _ in pairs}
            if len(sizes) > 1:
                return pairs[0]
            return concatenated(tuple(w for w, _ in pairs), axis), np.concatenate([v for _, v in pairs], axis)
        if kind == "pad":
            pads = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(2))
            weight, value = draw(depth - 1, shape)
            return padded(weight, pads), np.pad(value, pads)
        leaf = arange(*shape, start=next(counter))
        return leaf, leaf.array

    weight, value = draw(3, (2, 2))
    np.testing.assert_equal(weight.value(), value)
    assert weight.type.shape == value.shape
    assert weight.type.dtype == str(value.dtype)


def test_the_reciprocal_of_a_number_has_no_axis():
    from joulec.passes.graph.arithmetic import reciprocal

    turned = reciprocal(literal(np.float32(4.0)))
    assert turned.value().shape == turned.type.shape == ()
    assert turned.value() == 0.25
