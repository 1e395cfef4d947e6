"""Quantised models whose rounding is moved a little."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from joulec.passes.onnx.nudged import nudged


def test_what_is_rounded_moves_by_a_few_roundings(make, run):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "one"], ["whole"]),
        helper.make_node("Sqrt", ["whole"], ["root"]),
        helper.make_node("QuantizeLinear", ["root", "step"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step"], ["y"]),
    ]
    model = make(nodes, {"x": (3,)}, {"one": np.float32(1), "step": np.float32(2 / 3)})
    x = {"x": np.array([1, 4, 9], np.float32)}  # of the roots, 1 lies in the middle between two levels, and 3 too
    known = run(model, x)[0]
    found = [run(nudged(model, seed), x)[0] for seed in range(8)]
    np.testing.assert_array_equal(found[0][1], known[1])
    for one in found:  # the first rounds up to even, the other down
        assert np.abs(one - known).max() == pytest.approx(2 / 3)
        assert np.count_nonzero(one != known) == 1
    assert len(model.graph.node) == 5, "the model given stays as it is"


def test_scales_that_are_no_float32_are_left_alone(make):
    nodes = [helper.make_node("QuantizeLinear", ["x", "s"], ["y"])]
    model = make(nodes, {"x": (3,), "s": ()})
    assert nudged(model, 0) == model
