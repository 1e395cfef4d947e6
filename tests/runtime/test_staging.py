"""Head and tail around a compiled function, and what the manifest says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from joulec.runtime.external import ExternalError
from joulec.runtime.fields import ManifestError
from joulec.runtime.inputs import InputError
from joulec.runtime.manifest import TensorInfo
from joulec.runtime.parts import Part, Parts, ValueInfo
from joulec.runtime.staging import Staging

HEAD = Part("head", "reference-h", "onnx.reference", "StringSplit", 1, ("words",), ("pieces", "counts"))
TAIL = Part("tail", "reference-t", "onnx.reference", "NonZero", 1, ("doubled",), ("places",))
PARTS = Parts(
    (ValueInfo("words", "text", (None,)),), (ValueInfo("places", "int64", (1, None)),), HEAD, TAIL, ("a b", "")
)
INPUTS, OUTPUTS = (TensorInfo("counts", (2,), "int64"),), (TensorInfo("doubled", (2,), "int64"),)


def _definition(node, inputs, outputs):
    infos = [[helper.make_tensor_value_info(name, kind, None) for name, kind in values] for values in (inputs, outputs)]
    graph = helper.make_graph([node], "part", *infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


@pytest.fixture
def staging():
    split = helper.make_node("StringSplit", ["words"], ["pieces", "counts"], delimiter=" ")
    found = helper.make_node("NonZero", ["doubled"], ["places"])
    definitions = {
        "reference-h": _definition(
            split, [("words", TensorProto.STRING)], [("pieces", TensorProto.STRING), ("counts", TensorProto.INT64)]
        ),
        "reference-t": _definition(found, [("doubled", TensorProto.INT64)], [("places", TensorProto.INT64)]),
    }
    return Staging(PARTS, definitions, threads=1)


def _run(staging, words):
    return staging.run([words], INPUTS, OUTPUTS, lambda arrays: [2 * arrays[0] - 2])


def test_values_go_from_head_to_compiled_function_to_tail(staging):
    (places,) = _run(staging, ["one two", "three"])
    assert (places.tolist(), places.dtype) == ([[0]], np.int64)
    assert _run(staging, ["one two", "three four"])[0].tolist() == [[0, 1]]


def test_a_head_that_gives_another_shape_than_was_compiled_is_told(staging):
    with pytest.raises(InputError, match=r"they give 'counts' as int64\[3\], where int64\[2\] was compiled"):
        _run(staging, ["a", "b", "c"])


def test_what_is_no_text_is_refused(staging):
    with pytest.raises(InputError, match=r"input 'words' must be text\[\?\], not float64\[2\]"):
        _run(staging, np.zeros(2))
    with pytest.raises(InputError, match=r"must be text\[\?\], not text\[1,1\]"):
        _run(staging, np.array([["a"]]))
    with pytest.raises(InputError, match=r"must be text\[\?\], not lists of different lengths"):
        _run(staging, [["a"], ["b", "c"]])


def test_a_part_that_is_missing_is_told():
    with pytest.raises(ExternalError, match="StringSplit is not in the artifact"):
        Staging(PARTS, {}, threads=1)


def test_parts_round_trip_and_are_checked():
    from dataclasses import asdict

    assert Parts.from_json(asdict(PARTS), "parts") == PARTS
    bad = asdict(replace(PARTS, inputs=(replace(PARTS.inputs[0], shape=(-1,)),)))
    with pytest.raises(ManifestError, match=r"parts.inputs\[0\].shape must be null or a list of sizes and nulls"):
        Parts.from_json(bad, "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"place": "tail"}, r"parts.head.place must be 'head', not 'tail'"),
        ({"time_s": -1.0}, r"parts.head.time_s must be >= 0, not -1.0"),
        ({"energy_j": float("nan")}, r"parts.head.energy_j must be >= 0, not nan"),
    ],
)
def test_parts_that_cannot_be_are_refused(changes, message):
    from dataclasses import asdict

    with pytest.raises(ManifestError, match=message):
        Parts.from_json(asdict(replace(PARTS, head=replace(HEAD, **changes))), "parts")


def test_forms_that_there_are_not_are_refused():
    from dataclasses import asdict

    bad = asdict(replace(PARTS, outputs=(replace(PARTS.outputs[0], form="sequence("),)))
    with pytest.raises(ManifestError, match=r"parts.outputs\[0\].form is unknown: 'sequence\('"):
        Parts.from_json(bad, "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": replace(HEAD, inputs=("text",))}, "head reads 'text', which nothing before it gives"),
        ({"head": None}, "the compiled function reads 'counts'"),
        ({"tail": replace(TAIL, inputs=("tripled",))}, "tail reads 'tripled'"),
        ({"tail": None}, "the caller reads 'places'"),
    ],
)
def test_values_that_nothing_gives_are_told(changes, message):
    PARTS.check(["counts"], ["doubled"])
    with pytest.raises(ManifestError, match=message):
        replace(PARTS, **changes).check(["counts"], ["doubled"])


def test_damaged_definitions_are_told(staging):
    with pytest.raises(ExternalError, match="an operator's definition is damaged"):
        Staging(replace(PARTS, tail=None), {"reference-h": b"\xff\x00"}, threads=1)
    nothing = helper.make_model(helper.make_graph([], "part", [], [])).SerializeToString()
    with pytest.raises(ExternalError, match="NonZero is not what was compiled"):
        Staging(replace(PARTS, head=None), {"reference-t": nothing}, threads=1).after({"doubled": np.ones(2, np.int64)})


def test_random_inputs_hold_words_of_the_model():
    drawn = {text for seed in range(20) for text in PARTS.random_inputs(seed)[0].tolist()}
    assert "a b" in drawn
