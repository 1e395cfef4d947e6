"""One engine with one model: ``python engine.py KIND PATH INPUTS THREADS``. Orders on standard input, one JSON a line.

``{"time": seconds}`` is answered by the seconds of each call, ``{"run": file}`` by an .npz of the outputs in the file,
``{"memory": null}`` by the bytes by which resident memory peaked above what the process had once the engine was
imported (None where the system does not tell), ``{"profile": calls}`` (joulec alone) by the steps of a call.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], list[Any]]


def joulec_engine(path: str, inputs: dict[str, Any], threads: int) -> Run:
    """An artifact of joulec."""
    import joulec

    model = joulec.load(path, threads=threads)
    arrays = [inputs[name] for name in model.input_names]
    return _Joulec(model, arrays)


class _Joulec:
    """Calls a model, or profiles it."""

    def __init__(self, model: Any, arrays: list[Any]) -> None:
        self._model, self._arrays = model, arrays

    def __call__(self) -> list[Any]:
        return list(self._model.run(self._arrays))

    def profile(self, calls: int) -> list[dict[str, Any]]:
        """The steps of a call: name, algorithm, seconds, arithmetic and traffic."""
        sizes = self._model.batch_sizes
        batch = sizes[0] if len(sizes) == 1 else self._arrays[0].shape[0]
        steps = self._model.profile(batch, repeats=calls, inputs=self._arrays)
        return [
            {
                "node": step.assigned.node if step.assigned else step.function,
                "algorithm": step.algorithm,
                "time_s": step.time_s,
                "flops": step.assigned and step.assigned.flops,
                "dram_bytes": step.assigned and step.assigned.dram_bytes,
            }
            for step in steps
        ]


def onnxruntime_engine(path: str, inputs: dict[str, Any], threads: int) -> Run:
    """ONNX Runtime with all its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: list(session.run(None, inputs))


def openvino_engine(path: str, inputs: dict[str, Any], threads: int) -> Run:
    """OpenVINO for latency, in float32 as all others."""
    import openvino

    core = openvino.Core()
    core.set_property({"CACHE_DIR": ""})
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(path, "CPU", options)
    request = compiled.create_infer_request()

    def run() -> list[Any]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[output] for output in compiled.outputs]

    return run


def tvm_default_engine(path: str, inputs: dict[str, Any], threads: int) -> Run:
    """TVM's own default pipeline on the unoptimised Relax module."""
    import tvm
    from tvm import relax

    from joulec.passes.graph import Value
    from joulec.passes.relax.emit import emit_reference
    from joulec.passes.relax.workbench import Setup, Workbench
    from joulec.sources import read_sources

    with Workbench.open(Setup(costs="model", meter="estimate", threads=threads)) as bench:
        (source,) = read_sources(path, bench.tidy)
        target = bench.target.target
    graph = source.graph
    builder = relax.BlockBuilder()
    known: dict[Value, Any] = {
        value: relax.Var(f"input{index}", relax.TensorType(value.type.shape, value.type.dtype))
        for index, value in enumerate(graph.inputs)
    }
    with builder.function("main", list(known.values())):
        with builder.dataflow():
            for node in graph.nodes:
                operands = [
                    known[operand] if isinstance(operand, Value) else relax.const(operand.value())
                    for operand in node.operands
                ]
                known.update(zip(node.outputs, emit_reference(builder, node.spec, operands), strict=True))
            result = builder.emit_output(relax.Tuple([known[value] for value in graph.outputs]))
        builder.emit_func_output(result)
    with tvm.target.Target(target):
        machine = relax.VirtualMachine(tvm.compile(builder.get(), tvm.target.Target(target)), tvm.cpu())
    arrays = [tvm.runtime.tensor(inputs[value.name]) for value in graph.inputs]
    return lambda: [part.numpy() for part in machine["main"](*arrays)]


ENGINES = {
    "joulec": joulec_engine,
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "tvm-default": tvm_default_engine,
}
MODULES = {"joulec": "joulec.runtime.executor", "tvm-default": "tvm"}
"""What an engine's import is, where it is not the module of its name."""
WARM_UP = 3
LEAST_CALLS = 3


def main() -> None:
    """Load, say so, and answer orders until there are none."""
    kind, path, inputs, threads = sys.argv[1:]
    with np.load(inputs) as stored:
        arrays = {name: np.array(stored[name], order="C") for name in stored.files}
    imported = _import(kind, int(threads))
    run = ENGINES[kind](path, arrays, int(threads))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any = "done"
        if "run" in order:
            np.savez(order["run"], *run())
        elif "profile" in order:
            answer = run.profile(order["profile"])  # type: ignore[attr-defined]
        elif "memory" in order:
            answer = None if imported is None else (_resident("VmHWM") or 0) - imported
        else:
            answer = _times(run, order["time"])
        print(json.dumps(answer), flush=True)


def _import(kind: str, threads: int) -> int | None:
    """Import an engine; resident bytes after that, from where its peak counts."""
    module = importlib.import_module(MODULES.get(kind, kind))
    if kind == "joulec":
        module.import_tvm(threads)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(field: str) -> int | None:
    """A field of this process's status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _times(run: Run, span_s: float) -> list[float]:
    for _ in range(WARM_UP):
        run()
    seconds: list[float] = []
    while sum(seconds) < span_s or len(seconds) < LEAST_CALLS:
        begun_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun_s)
    return seconds


if __name__ == "__main__":
    main()
