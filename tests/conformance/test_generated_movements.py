"""Random movements of data, bit by bit what ONNX Runtime gives; ``JOULEC_GRAPHS_SEED=1`` draws others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings

sys.path.append(str(Path(__file__).parent))

from movement_strategy import movements

import joulec

COUNT = int(os.environ.get("JOULEC_MOVEMENTS", "30"))
SEED = int(os.environ.get("JOULEC_GRAPHS_SEED", "0"))


@seed(SEED)
@given(movements())
@settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_generated_movements_agree_with_onnxruntime(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        assume(False)  # it knows the operator for other types only
    (read,) = session.get_inputs()
    dtype = {"tensor(float)": "float32", "tensor(double)": "float64"}.get(read.type, read.type[7:-1])
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(7)
    x = rng.integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype)
    (wanted,) = session.run(None, {"x": x})
    with joulec.compile(model, costs="model", measure=False, budget=0) as compiled:
        found = compiled(x)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(found, wanted)
