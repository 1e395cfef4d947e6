"""The nine networks: imported whole, at several batches, and computing what ONNX Runtime computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Opaque
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx

MODELLED = ["squeezenet", "resnet50", "densenet121", "shufflenet", "inception_v1", "inception_v2"]

# small inputs where a network ends in global pooling, and so takes any
SIZES = {"squeezenet": 64, "densenet121": 64, "shufflenet": 224}


@pytest.mark.parametrize("name", MODELLED)
def test_network_is_modelled_at_batches_one_and_eight(name, light):
    path = Path(onnx.backend.test.__file__).parent / "data" / "light" / light.FILES[name]
    graphs = []
    for batch in (None, 8):
        imported = import_onnx(path, batch=batch)
        assert imported.batch == (batch or 1)
        assert len(imported.graph.inputs) == 1, "weights that are also inputs are constants"
        assert imported.graph.inputs[0].type.shape == (imported.batch, 3, 224, 224)
        assert imported.graph.outputs[0].type.shape[:2] == (imported.batch, 1000)
        assert not any(isinstance(node.op, Opaque) for node in imported.graph.nodes)
        graphs.append([str(node.op) for node in imported.graph.nodes if not node.op.is_view])
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("name", ["alexnet"])
def test_network_with_large_products_is_modelled(name, light):
    path = Path(onnx.backend.test.__file__).parent / "data" / "light" / light.FILES[name]
    imported = import_onnx(path, batch=2)
    assert [node.op.name for node in imported.graph.nodes].count("matmul") == 3
    assert not any(isinstance(node.op, Opaque) for node in imported.graph.nodes)


@pytest.mark.parametrize("name", SIZES)
def test_network_agrees_with_onnx_runtime(name, light, run, distance):
    model = light.prepare(name)
    (value,) = model.graph.input
    size = SIZES[name]
    imported = import_onnx(model, {value.name: [1, 3, size, size]}, batch=2 if size == 64 else 1)
    rng = np.random.default_rng(1)
    shape = imported.graph.inputs[0].type.shape
    feeds = {value.name: (light.PIXEL_STD * rng.standard_normal(shape)).astype(np.float32)}
    (wanted,) = run(imported.model, feeds)
    single = import_onnx(model, {value.name: [1, 3, size, size]}).model
    rows = [run(single, {value.name: feeds[value.name][i : i + 1]})[0] for i in range(shape[0])]
    assert distance(wanted, np.concatenate(rows)) <= 1e-5
    (plain,) = evaluate(imported.graph, feeds)
    assert distance(plain, wanted) <= 1e-5
    canonical = canonicalise(imported.graph, lambda spec, step: True)
    assert len(canonical.nodes) < len(imported.graph.nodes)
    (fused,) = evaluate(canonical, feeds)
    assert distance(fused, wanted) <= 1e-5


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_prepared_network_is_not_degenerate(name, light, run):
    model = light.prepare(name)
    assert [value.name for value in model.graph.input] == [next(iter(light.example_input(model)))]
    assert model.graph.node[-1].op_type != "Softmax"
    first, second = (run(model, light.example_input(model, seed))[0] for seed in (0, 1))
    assert np.isfinite(first).all()
    assert len(np.unique(first)) > 500
    assert first.std() > 0.02 * np.abs(first).max()
    assert np.linalg.norm(first - second) > 1e-3 * np.linalg.norm(first), "the input can be seen in the output"
    other = light.prepare(name, seed=1)
    assert other.graph.initializer[0].raw_data != model.graph.initializer[0].raw_data
    assert light.prepare(name).SerializeToString() == model.SerializeToString()


def test_command_writes_model_and_inputs(tmp_path):
    script = Path(__file__).parents[3] / "examples" / "light_models.py"
    out, feeds = tmp_path / "model.onnx", tmp_path / "in.npz"
    command = [sys.executable, str(script), "squeezenet", str(out), "--inputs", str(feeds), "--seed", "4"]
    subprocess.run(command, check=True, capture_output=True)
    imported = import_onnx(out)
    data = np.load(feeds)[imported.input_names[0]]
    assert data.shape == (1, 3, 224, 224)
    assert 60 < data.std() < 68
