"""Models in parts through the command: text and sequences in .npz files, shares of the time, and the optimised file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper
from part_models import FLOAT, build, detector, nested, normal, text_classifier, value

FAST = ("--costs", "model", "--budget", "0", "--threads", "1")


@pytest.fixture
def compile_(joulec):
    def compiled(source):
        path = joulec.folder / "model.onnx"
        onnx.save(source, path)
        done = joulec("compile", path, "-o", "model.joulec", *FAST)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return compiled


def _run(joulec, **arrays):
    np.savez(joulec.folder / "in.npz", **arrays)
    done = joulec("run", "model.joulec", "--inputs", "in.npz", "--outputs", "out.npz")
    assert done.returncode == 0, done.stderr
    with np.load(joulec.folder / "out.npz", allow_pickle=False) as found:
        return dict(found), done.stderr


def test_text(joulec, compile_):
    said = compile_(text_classifier())
    assert "batch 3: in onnxruntime, " in said
    assert "StringNormalizer+LabelEncoder (head), LabelEncoder (tail)" in said
    found, said = _run(joulec, words=np.array(["Good", "film", "x"]))
    assert found["label"].dtype.kind == "U"
    assert "output label: text[3]" in said
    np.savez(joulec.folder / "in.npz", words=np.array(["a", "b", "c"], object))
    done = joulec("run", "model.joulec", "--inputs", "in.npz")
    assert done.returncode == 2
    assert "numpy.savez(path, name=array.astype(str))" in done.stderr
    report = joulec.json("run", "model.joulec", "--profile", "--repeat", "3", "--print-time")
    steps = report["profile"]["steps"]
    assert [steps[0]["node"], steps[-1]["node"]] == ["head", "tail"]
    assert steps[0]["predicted_s"] > 0
    assert report["time"]["time_s"] > 0
    session = joulec.json("run", "model.joulec", "--power-cap", "100W", "--duration", "1s")["session"]
    assert session["items"] > 0


def test_text_that_random_words_do_not_meet(joulec, compile_):
    nodes = [helper.make_node("Cast", ["digits"], ["numbers"], to=FLOAT), helper.make_node("Relu", ["numbers"], ["y"])]
    said = compile_(build(nodes, [value("digits", [2], onnx.TensorProto.STRING)], [value("y", [2])]))
    assert "in onnxruntime, an unknown part of the time: Cast (head)" in said
    assert "not compared with onnxruntime" in said
    found, _ = _run(joulec, digits=np.array(["1.5", "-2"]))
    assert found["y"].tolist() == [1.5, 0.0]
    done = joulec("run", "model.joulec")
    assert done.returncode == 2
    assert "the model does not take these inputs" in done.stderr


def test_sequences(joulec, compile_):
    nodes = [helper.make_node("SequenceInsert", ["many", "x"], ["more"]), helper.make_node("Relu", ["x"], ["y"])]
    inputs = [nested("many", FLOAT, "sequence"), value("x", [2])]
    compile_(build(nodes, inputs, [nested("more", FLOAT, "sequence"), value("y", [2])]))
    first, x = normal(3), normal(2)
    found, said = _run(joulec, **{"many/0": first, "x": x})
    assert "output more: sequence(float32)[2]" in said
    np.testing.assert_array_equal(found["more/0"], first)
    np.testing.assert_array_equal(found["more/1"], x)
    np.savez(joulec.folder / "in.npz", x=x, many=x)
    done = joulec("run", "model.joulec", "--inputs", "in.npz")
    assert done.returncode == 2
    assert "holds the input 'many'; it holds x, many, the model takes many, x" in done.stderr
    for given, message in (
        ({"many/0": first, "many/2": first}, "hold 'many/2' without 'many/1': number the elements of 'many' from 0 on"),
        ({"many/0": first.astype(np.float64)}, "must be sequence(float32), not a list of 1: float64[3] where float32"),
    ):
        np.savez(joulec.folder / "in.npz", x=x, **given)
        done = joulec("run", "model.joulec", "--inputs", "in.npz")
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())


def test_the_optimised_file_and_a_batch_that_cannot_be(joulec):
    onnx.save(detector(), joulec.folder / "model.onnx")
    done = joulec("optimize", "model.onnx", "-o", "better.onnx", *FAST, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verified"]["inputs"] == 3
    assert report["entries"]["1"]["assignment"][-1]["operator"] == "opaque.NonMaxSuppression+Gather+Shape"
    kinds = [node.op_type for node in onnx.load(joulec.folder / "better.onnx").graph.node]
    assert "NonMaxSuppression" in kinds
    done = joulec("compile", "model.onnx", "-o", "model.joulec", *FAST, "--batch-sizes", "4")
    assert done.returncode == 2
    assert "the batch cannot be set to 4: 'found' has no row for each example" in done.stderr
