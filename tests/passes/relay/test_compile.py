"""Models through the Relay back end: compiled, saved, loaded, run, and compared with the original."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
import tvm
from tvm import relay

import joulec
from joulec.passes.relay.reference import relay_reference
from joulec.passes.verification import relative_error

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
sys.path.append(str(Path(__file__).parents[2] / "cli" / "support"))

from cli_support import reference, small_model
from light_models import example_input, prepare


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "inception_v1", "resnet50"])
def test_networks_equal_the_unoptimised_relay_module(name, tmp_path):
    model = prepare(name)
    feeds = example_input(model)
    compiled = joulec.compile(model, objective="time", costs="model", budget=2, threads=2)
    assert compiled.manifest.frontend == "relay"
    assert compiled.manifest.compiler.startswith("tvm-0.19")
    path = tmp_path / "model.joulec"
    compiled.save(path)
    with joulec.load(path) as loaded:
        (found,) = loaded.run([feeds[key] for key in loaded.input_names])
    module, params = relay.frontend.from_onnx(model)
    assert not params, "weights are constants"
    (wanted,) = relay_reference(module, list(feeds)).run(feeds)
    assert np.std(wanted) > 1.0
    assert relative_error(found, wanted) < 1e-4
    compiled.close()


def dense_model():
    """Two rows of a small classifier, with an operator that only ONNX knows."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((8, 4)).astype("float32")
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        onnx.helper.make_node("CumSum", ["a", "axis"], ["b"]),
        onnx.helper.make_node("Relu", ["b"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "dense",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(np.array(1, "int64"), "axis")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return model, weights


def test_several_batch_sizes_in_one_artifact(tmp_path):
    model, weights = dense_model()
    compiled = joulec.compile(model, costs="model", batch_sizes=[1, 4], threads=1)
    compiled.save(tmp_path / "model.joulec")
    x = np.random.default_rng(1).standard_normal((7, 4)).astype("float32")
    with joulec.load(tmp_path / "model.joulec") as loaded:
        assert loaded.batch_sizes == (1, 4)
        found = loaded(x)
        again = loaded(x * 2)
    wanted = np.maximum(np.cumsum(x @ weights.T, axis=1), 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again, 2 * wanted, rtol=1e-4, atol=1e-5)
    compiled.close()


def test_several_variants_in_one_artifact(tmp_path):
    """Variants share kernels, whose names the library has once for each function."""
    path = small_model(tmp_path / "small.onnx")
    compiled = joulec.compile(path, costs="model", batch_sizes=[1, 4], variants="frontier:2", budget=2, threads=1)
    compiled.save(tmp_path / "model.joulec")
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype("float32")
    wanted = reference(path, x)
    with joulec.load(tmp_path / "model.joulec") as loaded:
        assert loaded.variants == ("fast", "frugal")
        for name in (None, *loaded.variants):
            np.testing.assert_allclose(loaded.run([x], name)[0], wanted, rtol=1e-3, atol=1e-3)
        with loaded.session(variants=["fast"]) as session:
            np.testing.assert_allclose(session.submit(x).result(), wanted, rtol=1e-3, atol=1e-3)
    compiled.close()


def attention_model(path, heads=2, width=16, rows=6):
    """Attention written out, with a projection of three-dimensional rows behind it."""
    rng = np.random.default_rng(2)
    size = heads * width
    kernels = {name: (rng.standard_normal((size, size)) / 4).astype("float32") for name in ("wq", "wk", "wv", "wo")}
    constants = {
        **kernels,
        "bias": rng.standard_normal(size).astype("float32"),
        "split": np.array([0, rows, heads, width], "int64"),
        "merged": np.array([0, rows, size], "int64"),
        "scale": np.array(width**-0.5, "float32"),
    }
    node = onnx.helper.make_node
    nodes = []
    for name, axes in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"{name}1"]),
            node("Reshape", [f"{name}1", "split"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [name], perm=axes),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["s"]),
        node("Mul", ["s", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "merged"], ["m"]),
        node("MatMul", ["m", "wo"], ["projected"]),
        node("Add", ["projected", "bias"], ["biased"]),
        node("Add", ["biased", "x"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", rows, size]) for name in ("x", "y")]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "attention", ends[:1], ends[1:], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_attention_is_lowered_by_relay(tmp_path):
    path = attention_model(tmp_path / "attention.onnx")
    compiled = joulec.compile(path, costs="model", batch_sizes=[2], budget=5, threads=1)
    x = np.random.default_rng(1).standard_normal((2, 6, 32)).astype("float32")
    np.testing.assert_allclose(compiled(x), reference(path, x), rtol=1e-4, atol=1e-4)
    (entry,) = compiled.manifest.entries
    assert not any(one.algorithm.startswith("onnx") for one in entry.assignment)
    compiled.close()


def test_a_session_runs_it():
    model, weights = dense_model()
    compiled = joulec.compile(model, costs="model", batch_sizes=[1, 4], threads=1)
    x = np.ones((1, 4), "float32")
    with compiled.session() as session:
        found = session.submit(x).result()
    np.testing.assert_allclose(found, np.maximum(np.cumsum(x @ weights.T, axis=1), 0), rtol=1e-4, atol=1e-5)
    compiled.close()


def test_relay_modules_are_models_too():
    x = relay.var("x", shape=(2, 3))
    module = tvm.IRModule.from_expr(relay.Function([x], relay.tanh(relay.cumsum(x, axis=1))))
    compiled = joulec.compile(module, costs="model", threads=1)
    given = np.ones((2, 3), "float32")
    np.testing.assert_allclose(compiled(given), np.tanh(np.cumsum(given, axis=1)), rtol=1e-5)
    compiled.close()


def test_the_relax_back_end_is_refused_with_its_extra():
    with pytest.raises(ImportError, match=r"joulec\[relax\]"):
        joulec.compile(dense_model()[0], costs="model", batch_sizes=[1], frontend="relax")


def test_the_command_line_says_the_same(tmp_path, capsys):
    from joulec.__main__ import main

    path = tmp_path / "model.onnx"
    onnx.save(dense_model()[0], path)
    given = ["compile", str(path), "-o", str(tmp_path / "m.joulec"), "--costs", "model", "--batch-sizes", "2"]
    with pytest.raises(SystemExit) as ended:
        sys.exit(run_command(main, [*given, "--frontend", "relay", "--threads", "1", "--json"]))
    assert ended.value.code in (0, None)
    report = json.loads(capsys.readouterr().out)
    assert report["verified"]["max_relative_error"] < 1e-4
    assert {one["algorithm"] for one in report["entries"]["2"]["assignment"]} & {"dense_pack.x86", "dense_nopack.x86"}


def run_command(main, arguments):
    """The exit code of the command line."""
    before = sys.argv
    sys.argv = ["joulec", *arguments]
    try:
        return main()
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([("Identity", ["x"], {})], lambda x: x),
        ([("Transpose", ["x"], {"perm": [0, 1]})], lambda x: x),
        ([("Reshape", ["x", "shape"], {})], lambda x: x.reshape(1, 2, 3)),
    ],
)
def test_models_that_compute_nothing(nodes, wanted):
    made = [onnx.helper.make_node(kind, inputs, ["y"], **attributes) for kind, inputs, attributes in nodes]
    x = np.arange(6, dtype="float32").reshape(2, 3)
    graph = onnx.helper.make_graph(
        made,
        "nothing",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, wanted(x).shape)],
        [onnx.numpy_helper.from_array(np.array([1, 2, 3]), "shape")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with joulec.compile(model, costs="model", threads=1) as compiled:
        np.testing.assert_array_equal(compiled(x), wanted(x))
        np.testing.assert_array_equal(compiled(2 * x), wanted(2 * x))
