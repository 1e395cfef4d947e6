"""ONNX's own node tests: what is imported computes what ONNX says; the rest is refused in words."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Opaque
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import ModelError, import_onnx
from joulec.passes.onnx.converters import CONVERTERS

# versions of operators that ONNX's reference implementation, which evaluates opaque nodes here, does not have
UNEVALUATED = {"test_scatter_with_axis", "test_scatter_without_axis", "test_scan_sum"}

STRIDE = 6
"""Of the operators that joulec does not model, one case in so many is tried."""


@pytest.fixture(scope="module")
def cases():
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return [case for case in found if case.name not in UNEVALUATED and _numeric(case)]


def _numeric(case) -> bool:
    arrays = [array for part in case.data_sets[0] for array in part]
    return all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays)


def _outcome(case) -> str:
    """``modelled`` or ``opaque`` where the result is right, else ``refused``, ``random``, ``parts`` or ``wrong``."""
    inputs, outputs = case.data_sets[0]
    shapes = {value.name for value in case.model.graph.input[1:]} & _shape_operands(case.model)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given = dict(zip([value.name for value in case.model.graph.input], inputs, strict=True))
    for name in shapes:
        model.graph.initializer.append(onnx.numpy_helper.from_array(given[name], name))
    try:
        imported = import_onnx(model)
    except ModelError as error:
        return "refused" if "\n" not in str(error) else f"wrong: {case.name} is refused in several lines"
    if imported.graph.effects:
        return "random"
    if imported.whole is not None:
        return "parts"  # the graph is not all of the model; tests/test_around.py runs such models
    feeds = {name: given[name] for name in imported.input_names}
    for graph in (imported.graph, canonicalise(imported.graph, lambda spec, step: True)):
        for got, want in zip(evaluate(graph, feeds), outputs, strict=True):
            wide = np.complex128 if want.dtype.kind == "c" else np.float64
            close = np.allclose(got.astype(wide), want.astype(wide), rtol=1e-3, atol=1e-5, equal_nan=True)
            if got.shape != want.shape or got.dtype != want.dtype or not close:
                return f"wrong: {case.name}"
    return "opaque" if any(isinstance(node.op, Opaque) for node in imported.graph.nodes) else "modelled"


def _shape_operands(model: onnx.ModelProto) -> set[str]:
    """Operands that a model in the wild has as constants: integers such as axes and target shapes."""
    return {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64 and len(value.type.tensor_type.shape.dim) == 1
    }


def test_operators_that_joulec_models(cases):
    chosen = [
        case for case in cases if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in CONVERTERS
    ]
    outcomes = Counter(_outcome(case) for case in chosen)
    assert not [outcome for outcome in outcomes if outcome.startswith("wrong")]
    assert outcomes["modelled"] >= 145
    assert outcomes["refused"] <= 5, "none but those with empty tensors"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_other_operators(cases):
    chosen = [case for case in cases if case.model.graph.node[0].op_type not in CONVERTERS][::STRIDE]
    outcomes = Counter(_outcome(case) for case in chosen)
    assert not [outcome for outcome in outcomes if outcome.startswith("wrong")]
    assert outcomes["opaque"] + outcomes["parts"] >= 0.8 * len(chosen)
