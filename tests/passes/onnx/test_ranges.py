"""Inputs of whole numbers that lie where the model expects them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec
from joulec.passes.onnx import import_onnx
from joulec.passes.verification import random_inputs

RNG = np.random.default_rng(1)
I64, U8, F32 = TensorProto.INT64, TensorProto.UINT8, TensorProto.FLOAT


def model(nodes, inputs, output, constants):
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", *output)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TABLE = RNG.standard_normal((100, 8)).astype("float32")
POSITIONS = RNG.standard_normal((20, 8)).astype("float32")


def embedding():
    """Words, their places (of which two are reserved) and segments, added; and a mask that is no index."""
    nodes = [
        helper.make_node("Unsqueeze", ["words", "axis"], ["w"]),
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "w32"], ["a"]),
        helper.make_node("Add", ["places", "two"], ["p"]),
        helper.make_node("Gather", ["positions", "p"], ["b"]),
        helper.make_node("OneHot", ["segments", "depth", "ends"], ["c"]),
        helper.make_node("Cast", ["mask"], ["m"], to=F32),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "c"], ["abc"]),
        helper.make_node("Mul", ["abc", "m"], ["y"]),
    ]
    inputs = [("words", I64, [4]), ("places", I64, [4]), ("segments", I64, [4]), ("mask", I64, [8])]
    constants = {
        "axis": np.array([0]),
        "table": TABLE,
        "positions": POSITIONS,
        "two": np.array(2),
        "depth": np.array(8),
        "ends": np.array([0, 1], "float32"),
    }
    return model(nodes, inputs, (F32, [1, 4, 8]), constants)


def test_indices_lie_in_their_tables():
    imported = import_onnx(embedding())
    assert imported.ranges == {"words": (0, 100), "places": (0, 18), "segments": (0, 8)}
    for given in random_inputs(imported.graph.inputs, 0, imported.ranges):
        for name, (low, high) in imported.ranges.items():
            assert low <= given[name].min() <= given[name].max() < high
        assert set(np.unique(given["mask"])) <= {0, 1}
    words = np.concatenate([one["words"] for one in random_inputs(imported.graph.inputs, 0, imported.ranges)])
    assert words.max() > 1


def test_the_artifact_remembers_them(tmp_path):
    with joulec.compile(embedding(), costs="model", budget=0, threads=1, measure=False) as made:
        path = made.save(tmp_path / "m.joulec")
    with joulec.load(path) as loaded:
        (batch,) = loaded.batch_sizes
        spans = {tensor.name: tensor.span for tensor in loaded.entry(batch).inputs}
        assert spans == {"words": (0, 100), "places": (0, 18), "segments": (0, 8), "mask": None}
        words, places, segments, mask = loaded.random_inputs(batch, 3)
        found = loaded.run([words, places, segments, mask])[0]
    wanted = (TABLE[words] + POSITIONS[places + 2] + np.eye(8, dtype="float32")[segments]) * mask
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("odd", "ranges"), [(False, {"x": (0, 256)}), (True, {})])
def test_bytes_are_all_that_a_byte_can_be_unless_something_may_not_take_them(odd, ranges):
    nodes = [helper.make_node("BitShift", ["x", "x"], ["s"], direction="LEFT")] if odd else []
    nodes += [
        helper.make_node("Transpose", ["s" if odd else "x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["y"], to=F32),
    ]
    assert import_onnx(model(nodes, [("x", U8, [1, 4, 4, 3])], (F32, [1, 3, 4, 4]), {})).ranges == ranges


def test_a_mode_that_the_model_holds_is_what_it_is_run_with():
    """The table has one row for the mode's difference to what the model knows: only that number is taken."""
    nodes = [
        helper.make_node("Sub", ["mode", "known"], ["d"]),
        helper.make_node("Mul", ["d", "many"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("Mul", ["row", "x"], ["y"]),
    ]
    constants = {"known": np.array([8000]), "many": np.array([7]), "table": TABLE[:2]}
    source = model(nodes, [("x", F32, [1, 8]), ("mode", I64, [1])], (F32, [1, 8]), constants)
    with joulec.compile(source, costs="model", budget=0, threads=1, measure=False) as made:
        assert {tensor.name: tensor.span for tensor in made.entry(1).inputs} == {"x": None, "mode": (8000, 8001)}
        made.run(made.random_inputs(1))
    assert onnx.checker.check_model(source) is None
