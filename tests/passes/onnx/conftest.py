"""Small ONNX models, and agreement of imported graphs with ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from joulec.passes.canonical import canonicalise
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import ImportedModel, import_onnx

TOLERANCE = 1e-5


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    scale = np.linalg.norm(wanted.astype(np.float64)) or 1.0
    return float(np.linalg.norm(got.astype(np.float64) - wanted.astype(np.float64)) / scale)


@pytest.fixture(scope="session")
def run() -> Callable[..., list[np.ndarray]]:
    """A model's outputs by ONNX Runtime without its optimisations."""
    return _run


@pytest.fixture(scope="session")
def distance() -> Callable[[np.ndarray, np.ndarray], float]:
    """Norm of the difference relative to the norm of what was wanted."""
    return _distance


@pytest.fixture(scope="session")
def agree() -> Callable[..., ImportedModel]:
    """Import a model; graph and canonical graph must compute what ONNX Runtime computes for the model as given."""

    def check(model: onnx.ModelProto, scale: float = 1.0, seed: int = 0, **options: object) -> ImportedModel:
        imported = import_onnx(model, **options)
        rng = np.random.default_rng(seed)
        feeds = {
            value.name: np.asarray(scale * rng.standard_normal(value.type.shape), value.type.dtype)
            for value in imported.graph.inputs
        }
        wanted = _run(imported.model if options else model, feeds)
        for graph in (imported.graph, canonicalise(imported.graph, lambda spec, step: True)):
            for got, want in zip(evaluate(graph, feeds), wanted, strict=True):
                assert _distance(got, want) <= TOLERANCE
        return imported

    return check


@pytest.fixture(scope="session")
def make() -> Callable[..., onnx.ModelProto]:
    """A model from nodes, input shapes and constants; outputs need no type."""

    def build(
        nodes: Sequence[onnx.NodeProto],
        inputs: dict[str, Sequence[int | str]],
        constants: dict[str, np.ndarray] | None = None,
        outputs: Sequence[str] = ("y",),
        opset: int = 13,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(nodes),
            "test",
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value in inferred.graph.output:
            if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
                value.type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
            value.type.tensor_type.shape.SetInParent()
        del inferred.graph.value_info[:]
        return inferred

    return build


@pytest.fixture(scope="session")
def light() -> ModuleType:
    """The example that prepares the nine networks."""
    path = Path(__file__).parents[3] / "examples" / "light_models.py"
    spec = importlib.util.spec_from_file_location("light_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
