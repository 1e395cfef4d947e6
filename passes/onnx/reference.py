"""ONNX's own meaning of a model, computed by an engine that is not ours.

Run as a program it evaluates one model with onnx.reference: ``python -m joulec.passes.onnx.reference MODEL IN OUT``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.onnx.errors import ModelError, one_line
from joulec.passes.verification import Reference, VerificationError

_Array = npt.NDArray[Any]


def onnx_reference(model: Any, time_limit_s: float = 300.0) -> Reference:
    """What computes the original: ONNX Runtime where it is installed, else onnx.reference within a time limit.

    The reference's runner raises VerificationError where it fails or takes too long.
    """
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = _open(model, options)
        return Reference(f"onnxruntime {onnxruntime.__version__}", lambda given: session.run(None, dict(given)))
    import onnx

    text = model.SerializeToString()
    return Reference(f"onnx.reference {onnx.__version__}", lambda given: _in_a_process(text, given, time_limit_s))


def _open(model: Any, options: Any) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    refusals = (state.Fail, state.InvalidGraph, state.InvalidArgument, state.InvalidProtobuf, state.RuntimeException)
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise ModelError(f"ONNX Runtime refuses the model with these shapes: {one_line(error)}") from error


def _in_a_process(model: bytes, given: Mapping[str, _Array], time_limit_s: float) -> Sequence[_Array]:
    with tempfile.TemporaryDirectory(prefix="joulec-reference-") as folder:
        files = [Path(folder) / name for name in ("model.onnx", "in.npz", "out.npz")]
        files[0].write_bytes(model)
        arrays: dict[str, Any] = {f"i{index}": array for index, array in enumerate(given.values())}
        np.savez(files[1], **arrays)
        command = [sys.executable, "-m", __name__, *map(str, files)]
        try:
            subprocess.run(command, check=True, timeout=time_limit_s, capture_output=True)
        except subprocess.TimeoutExpired as error:
            raise VerificationError(
                f"onnx.reference did not compute the original within {time_limit_s:g} s; "
                "install joulec[onnxruntime] for a faster reference"
            ) from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().splitlines()
            raise VerificationError(f"onnx.reference failed on the original: {reason[-1] if reason else ''}") from error
        with np.load(files[2]) as found:
            return [found[f"o{index}"] for index in range(len(found.files))]


def _main(model_path: str, inputs_path: str, outputs_path: str) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(model_path)
    names = [value.name for value in model.graph.input]
    with np.load(inputs_path) as stored:
        given = {name: stored[f"i{index}"] for index, name in enumerate(names)}
    outputs = ReferenceEvaluator(model).run(None, given)
    arrays: dict[str, Any] = {f"o{index}": np.asarray(array) for index, array in enumerate(outputs)}
    np.savez(outputs_path, **arrays)


if __name__ == "__main__":
    _main(*sys.argv[1:])
