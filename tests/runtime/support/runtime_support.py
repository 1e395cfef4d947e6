"""Tiny compiled models and a fake clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from joulec.profiler.candidate import Work
from joulec.runtime import Budget, Entry, Manifest, TensorInfo


class FakeClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def entry(batch: int, **changes: object) -> Entry:
    fields = {
        "batch": batch,
        "function": f"main_b{batch}",
        "inputs": (TensorInfo("x", (batch, 8)),),
        "outputs": (TensorInfo("y", (batch, 16)),),
        "weights": ("w0",),
        "work": Work(2.0 * batch * 8 * 16, 1024.0 * batch, 0.0, 64.0 * batch),
        "predicted": Budget(1e-3 * batch, "estimated", 2e-3 * batch, "estimated", 2.0),
    }
    return Entry(**{**fields, **changes})


def manifest(*entries: Entry, **changes: object) -> Manifest:
    fields = {
        "joulec_version": "0.1.0",
        "compiler": "tvm-0.27.0",
        "target": "llvm",
        "device": "cpu",
        "threads": 2,
        "objective": "energy",
        "entries": entries or (entry(1), entry(4)),
        "batched": True,
        "created": "2026-01-01T00:00:00Z",
    }
    return Manifest(**{**fields, **changes})


@dataclass(frozen=True)
class Compiled:
    """A library with what belongs to it."""

    manifest: Manifest
    library: Path
    weights: dict[str, np.ndarray]
    externals: dict[str, bytes]

    @property
    def parts(self) -> tuple[object, ...]:
        return self.manifest, self.library, self.weights, self.externals


def plus_one(features: int = 16) -> bytes:
    """An ONNX definition: y = x + 1, any number of rows."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", features])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "plus_one", [x], [y], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def compile_library(path: Path, build: object) -> Path:
    """Compile what `build(block_builder)` puts into a module."""
    from joulec.runtime.executor import import_tvm

    tvm = import_tvm(2)
    builder = tvm.relax.BlockBuilder()
    build(tvm, builder)
    tvm.compile(builder.get(), target="llvm").export_library(str(path))
    return path


def matmul_relu(digest: str):
    """relu(x w) and, through the definition of the digest, that plus one."""

    def build(tvm, builder) -> None:
        from tvm.script import relax as R

        relax = tvm.relax
        for batch in (1, 4):
            x = relax.Var("x", R.Tensor((batch, 8), "float32"))
            w = relax.Var("w", R.Tensor((8, 16), "float32"))
            with builder.function(f"main_b{batch}", [x, w], attrs={"num_input": 1}):
                with builder.dataflow():
                    y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, w)))
                    arguments = relax.Tuple([tvm.ir.StringImm(digest), y])
                    out = R.Tensor((batch, 16), "float32")
                    z = builder.emit(relax.op.call_dps_packed("joulec.onnx", arguments, out))
                    both = builder.emit_output(relax.Tuple([y, z]))
                builder.emit_func_output(both)

    return build
