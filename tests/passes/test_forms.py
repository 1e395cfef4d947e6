"""Outputs of any form are compared."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.verification import Reference, VerificationError, largest_error, verify

TEXT = np.array(["a", "b"], object)


@pytest.mark.parametrize(
    "same",
    [
        [TEXT, np.array(["a", "b"])],
        [[np.ones(2), TEXT], [np.ones(2), TEXT]],
        [None, None],
        [[], []],
        [{1: 0.5}, {1: 0.5}],
        [np.array(["x"] * 0, object), np.array([], "U1")],
    ],
)
def test_equal_values_of_any_form(same):
    assert largest_error([same[0]], [same[1]]) == 0


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (TEXT, np.array(["a", "c"], object)),
        (TEXT, np.array(["a"], object)),
        (TEXT, np.ones(2)),
        ([np.ones(2)], [np.ones(2), np.ones(2)]),
        ([np.ones(2)], np.ones(2)),
        (np.ones(2), [np.ones(2)]),
        (None, np.ones(2)),
        (np.ones(2), None),
        ({1: 0.5}, {2: 0.5}),
        ({1: 0.5}, {1: 1.5}),
    ],
)
def test_values_that_differ(found, wanted):
    assert largest_error([found], [wanted]) > 1e-3


def test_a_comparison_with_text_and_lists_of_different_lengths():
    def original(given):
        count = int(given["x"][0])
        return [TEXT, [np.ones(3)] * count]

    inputs = [{"x": np.array([count])} for count in (1, 3, 0)]
    assert verify(Reference("original", original), original, inputs, 1e-4).inputs == 3
    with pytest.raises(VerificationError):
        verify(Reference("original", original), lambda given: [TEXT, []], inputs, 1e-4)
