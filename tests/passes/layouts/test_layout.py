"""What a tensor looks like in a layout, and the values of a function under construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import TensorType, Value
from joulec.passes.layouts.layout import (
    PLAIN,
    blocked_shape,
    from_layout,
    layout_name,
    relayout_spec,
    same_memory,
    to_layout,
)
from joulec.passes.layouts.values import LaidOut

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, block=st.sampled_from([PLAIN, 1, 2, 4, 16]))
def test_there_and_back_is_the_same_tensor(shape, block):
    batch, blocks, height, width = shape
    whole = (batch, blocks * max(block, 1), height, width)
    array = np.arange(np.prod(whole), dtype=np.float32).reshape(whole)
    blocked = to_layout(array, block)
    assert blocked.shape == blocked_shape(whole, block)
    np.testing.assert_array_equal(from_layout(blocked, block), array)
    if same_memory(whole, PLAIN, block):
        np.testing.assert_array_equal(np.ravel(blocked), np.ravel(array))


def test_a_channel_stands_in_its_block():
    array = np.arange(2 * 8 * 3 * 5).reshape(2, 8, 3, 5)
    assert to_layout(array, 4)[1, 1, 2, 3, 2] == array[1, 6, 2, 3]
    assert layout_name(4) == "NCHW4c"


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (2, 32, 1, 1)])
def test_tensors_of_one_position_need_no_conversion(shape):
    assert same_memory(shape, PLAIN, 16)
    assert not same_memory((1, 16, 1, 2), PLAIN, 16)


def test_a_conversion_is_an_operator_that_changes_nothing():
    spec = relayout_spec(TensorType((1, 16, 2, 3)), PLAIN, 16)
    array = np.arange(96, dtype=np.float32).reshape(1, 16, 2, 3)
    np.testing.assert_array_equal(spec.op.evaluate(array)[0], array)
    assert spec.flops == 0


def test_a_value_is_converted_once_and_only_where_it_lies_otherwise():
    asked = []

    def convert(type, source, target, data):
        asked.append((type.shape, source, target))
        return f"{data}:{source}->{target}"

    values = LaidOut(lambda data, shape: f"{data} as {shape}", convert)
    wide, point = Value.input("a", TensorType((1, 16, 4, 4))), Value.input("b", TensorType((1, 16, 1, 1)))
    values.keep(wide, 16, "a")
    values.keep(point, 16, "b")
    assert values.read(wide, 16) == "a"
    assert [values.read(wide, PLAIN) for _ in range(3)] == ["a:16->0"] * 3
    assert values.read(point, PLAIN) == "b as (1, 16, 1, 1)"
    assert asked == [((1, 16, 4, 4), 16, 0)]
