"""Forms of values beside tensors of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from joulec.profiler.values import FormError, as_formed, is_form, is_tensor, nesting, random_value, unboxed


def test_forms_are_taken_apart():
    assert nesting("optional(sequence(text))") == ("optional", "sequence(text)")
    assert nesting("float32") == ("", "float32")
    assert is_tensor("text")
    assert not is_tensor("map(int64,float32)")


@pytest.mark.parametrize("form", ["text", "bfloat16", "optional(sequence(text))", "map(int64,float32)"])
def test_forms(form):
    assert is_form(form)


@pytest.mark.parametrize("text", ["", "sequence(", "sequence()", "list(text)", "map(int64)", "float33"])
def test_no_forms(text):
    assert not is_form(text)


def test_the_list_around_an_optional_goes():
    array = np.zeros(2)
    tensor = helper.make_tensor_type_proto(1, [2])
    optional = helper.make_optional_type_proto(tensor)
    assert unboxed([array], optional) is array
    assert unboxed([None], optional) is None
    assert unboxed(array, optional) is array
    several = helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor))
    assert unboxed([[array]], several) == [array]
    assert unboxed([array], several) == [array]
    assert unboxed([array], helper.make_sequence_type_proto(tensor)) == [array]


@pytest.mark.parametrize("given", [["a", "é"], np.array(["a", "é"]), np.array([b"a", "é".encode()], object)])
def test_text_becomes_objects(given):
    found = as_formed(given if isinstance(given, np.ndarray) else np.array(given), "text")
    assert (found.dtype, found.tolist()) == (np.dtype(object), ["a", "é"])


def test_text_keeps_its_shape():
    assert as_formed(np.array("one"), "text").shape == ()
    assert as_formed(np.empty((2, 0), "U1"), "text").shape == (2, 0)


def test_sequences_optionals_and_what_they_hold():
    found = as_formed([np.zeros(2), None], "sequence(optional(float32))")
    assert found[0].dtype == np.float32
    assert found[1] is None


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (np.zeros(2), "text"),
        (np.zeros(2), "sequence(float32)"),
        (None, "float32"),
        (np.array([1, "a"], object), "text"),
    ],
)
def test_what_has_another_form_is_refused(given, form):
    with pytest.raises(FormError):
        as_formed(given, form)


@pytest.mark.parametrize(
    ("form", "shape"),
    [("text", (2, None)), ("sequence(int64)", (4,)), ("optional(sequence(text))", None), ("bool", None)],
)
def test_random_values_have_their_form(form, shape):
    first, second = (random_value(np.random.default_rng(3), form, shape, ("word",)) for _ in range(2))
    assert str(first) == str(second)
    assert str(as_formed(first, form)) == str(first)


@pytest.mark.parametrize("given", [np.array(["q"]), np.array(["q"], object), np.array([b"1"])])
def test_text_is_no_number(given):
    with pytest.raises(FormError, match="text where float32 is wanted"):
        as_formed([given], "sequence(float32)")
