"""The command as a user types it, and small models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIMIT_S = 240
ROWS = (1, 2, 4, 8)
FEW = (
    *("--budget", "0"),
    *(
        word
        for name in ("direct_conv", "gemm_conv", "im2col_conv", "plane_conv", "winograd")
        for word in ("--exclude-algorithm", name)
    ),
)
"""Leaves few candidates of `small_model` to be measured: two each of the pooling and the product, one of the others."""


BARE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
from joulec.__main__ import main

sys.argv = ["joulec", *sys.argv[1:]]
main()
"""
"""The command where neither onnx nor onnxruntime can be imported."""


@dataclass(frozen=True)
class Command:
    """Runs ``python -m joulec`` in a folder of its own."""

    folder: Path
    costs: Path

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "JOULEC_TRACEBACK")}
        return {**kept, "JOULEC_COSTS": str(self.costs), "PYTHONIOENCODING": "utf-8"}

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.python(["-m", "joulec", *map(str, arguments)])

    def json(self, *arguments: object) -> Any:
        """The one object on standard output of a run that must succeed."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def python(self, arguments: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            encoding="utf-8",
            timeout=LIMIT_S,
            check=False,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "joulec", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            preexec_fn=_interruptible,
        )


def _interruptible() -> None:
    """A shell's background job, in which tests may run, ignores interrupts, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def forked(cases: Sequence[tuple[Command, Sequence[object]]]) -> list[subprocess.CompletedProcess[str]]:
    """Run command lines one after another in processes that need not load the compiler anew (see `forked.py`)."""
    described = [
        {"words": list(map(str, words)), "folder": str(command.folder), "environment": command.environment()}
        for command, words in cases
    ]
    server = cases[0][0].python([str(Path(__file__).with_name("forked.py"))], json.dumps(described))
    assert server.returncode == 0, server.stderr
    outcomes = zip(described, json.loads(server.stdout), strict=True)
    return [subprocess.CompletedProcess(case["words"], one["code"], one["out"], one["err"]) for case, one in outcomes]


@dataclass(frozen=True)
class Compiled:
    """An artifact with the run that made it."""

    model: Path
    artifact: Path
    done: subprocess.CompletedProcess[str]
    joulec: Command

    @property
    def report(self) -> Mapping[str, Any]:
        return json.loads(self.done.stdout)


def small_model(path: Path, classes: int = 10) -> Path:
    """Two convolutions with ReLU, a pooling and a product; He-normal weights."""
    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype("float32"), name)

    weights = [weight("w0", 16, 3, 3, 3), weight("b0", 16), weight("w1", 16, 16, 3, 3), weight("b1", 16)]
    weights += [weight("w2", classes, 256), weight("b2", classes)]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="second"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1, name="classes"),
    ]
    return _save(path, nodes, weights, [1, 3, 8, 8], [1, classes])


def product_model(path: Path) -> Path:
    """One product: two candidates."""
    weight = np.random.default_rng(3).standard_normal((4, 16)).astype("float32")
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    return _save(path, nodes, [numpy_helper.from_array(weight, "w")], [1, 16], [1, 4])


def _save(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], taken: list[int], given: list[int]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def reference(model: Path, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime, row by row: the model's own batch is one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
