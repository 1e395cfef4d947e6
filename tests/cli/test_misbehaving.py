"""Candidates that segfault, loop for ever, allocate without end or write outside their buffers, by the real command."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import FEW
from onnx import TensorProto, helper, numpy_helper

HOOK = Path(__file__).parent / "support" / "misbehaving"
REASONS = {
    4: ("crash", "the worker ended while running (SIGSEGV)"),
    5: ("timeout", "running took longer than 2 s"),
    6: ("memory", "Unable to allocate 1.00 GiB"),
    7: ("run", "OutOfBoundsError: wrote outside result 0: at byte 32 of 28"),
}


@pytest.fixture
def products(joulec):
    """Four products of different widths; each has a packed candidate and TVM's own."""
    rng = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array(rng.standard_normal((16, width)).astype("float32"), f"w{width}") for width in REASONS
    ]
    nodes = [helper.make_node("MatMul", ["x", f"w{width}"], [f"y{width}"]) for width in REASONS]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info(f"y{width}", TensorProto.FLOAT, [1, width]) for width in REASONS],
        weights,
    )
    path = joulec.folder / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_each_takes_down_its_worker_alone_and_is_tried_again_on_demand(joulec, products, monkeypatch):
    flag = joulec.folder / "misbehave"
    flag.touch()
    monkeypatch.setenv("JOULEC_TEST_MISBEHAVE", str(flag))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")])))
    first = joulec.json("profile", products, *FEW)["profiling"]
    packed = first["failed"] // len(REASONS)
    assert first["failed"] == packed * len(REASONS) > 0
    assert first["measured"] >= len(REASONS), "the others were measured all the same"
    failures = {}
    for row in joulec.json("db", "list")["rows"]:
        if row["failure_kind"]:
            width = int(row["shapes"].rpartition("[1,")[2].rstrip("]"))
            failures[width] = (row["failure_kind"], row["failure_reason"])
    assert set(failures) == set(REASONS)
    for width, (kind, reason) in REASONS.items():
        assert failures[width][0] == kind, failures[width]
        assert reason in failures[width][1]
    again = joulec.json("profile", products, *FEW)["profiling"]
    assert (again["measured"], again["failed"]) == (0, 0)
    flag.unlink()
    retried = joulec.json("profile", products, *FEW, "--retry-failed")["profiling"]
    assert (retried["failed"], joulec.json("db", "info")["failures"]) == (0, 0)
    assert retried["measured"] >= first["failed"]
