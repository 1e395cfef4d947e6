"""Random graphs: joulec gives what ONNX Runtime gives.

``JOULEC_GRAPHS=2000 make test-onnx`` draws more of them, ``JOULEC_GRAPHS_SEED=1`` others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings

sys.path.append(str(Path(__file__).parent))

from graph_strategy import models

import joulec

COUNT = int(os.environ.get("JOULEC_GRAPHS", "100"))
SEED = int(os.environ.get("JOULEC_GRAPHS_SEED", "0"))


@seed(SEED)
@given(models())
@settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_generated_graphs_agree_with_onnxruntime(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(7).standard_normal(shape).astype("float32")
    wanted = session.run(None, {"x": x})
    with joulec.compile(model, costs="model", measure=False, budget=20) as compiled:
        found = compiled(x)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        scale = float(np.abs(theirs).max(initial=1e-3))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale)
