"""What becomes of one node test under joulec, ONNX Runtime or ONNX's reference implementation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from node_cases import NodeCase

Kind = Literal["native", "external", "right", "refused", "wrong", "crashed", "hung"]


@dataclass(frozen=True)
class Outcome:
    """How one test went.

    Attributes:
        kind: ``native`` and ``external`` are right answers of joulec, ``right`` one of another engine.
        reason: why it was refused, or what is wrong; for right ones of joulec, what computed the operators.
    """

    kind: Kind
    reason: str = ""


def joulec(case: NodeCase) -> Outcome:
    """Compile, save, load and run; costs are estimated and nothing is timed."""
    import joulec

    try:
        compiled = joulec.compile(case.model, costs="model", measure=False)
    except (ValueError, RuntimeError) as error:
        return Outcome("refused", _line(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours, which the table must show
        return Outcome("crashed", f"{type(error).__name__}: {_line(error)}")
    with tempfile.TemporaryDirectory(prefix="joulec-node-") as folder:
        with compiled:
            path = compiled.save(Path(folder) / "model.joulec")
        with joulec.load(path) as model:
            algorithms = {one.algorithm.split("(")[0] for one in model.manifest.assigned()}
            try:
                found = model(*case.inputs)
            except (ValueError, RuntimeError) as error:
                return Outcome("wrong", f"compiled, but the call failed: {_line(error)}")
    problem = difference(case, found if isinstance(found, tuple) else (found,))
    if problem:
        return Outcome("wrong", f"{problem} (by {', '.join(sorted(algorithms))})")
    external = sorted(algorithms & {"onnxruntime", "onnx.reference"})
    return Outcome("external" if external else "native", ", ".join(external or sorted(algorithms)))


def onnxruntime(case: NodeCase) -> Outcome:
    """The model as it stands in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        found = session.run(None, dict(zip(names, case.inputs, strict=False)))
    except Exception as error:  # noqa: BLE001 - it has some ten kinds of errors without a common base
        return Outcome("refused", _line(error))
    problem = difference(case, found)
    return Outcome("wrong", problem) if problem else Outcome("right")


def reference(case: NodeCase) -> Outcome:
    """The model as it stands in onnx.reference."""
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(case.model)
        found = evaluator.run(None, dict(zip(evaluator.input_names, case.inputs, strict=False)))
    except Exception as error:  # noqa: BLE001 - whatever its operators written in numpy raise
        return Outcome("refused", _line(error))
    problem = difference(case, found)
    return Outcome("wrong", problem) if problem else Outcome("right")


ENGINES = {"joulec": joulec, "onnxruntime": onnxruntime, "reference": reference}


def difference(case: NodeCase, found: Sequence[Any]) -> str:
    """What is wrong with the outputs: their number, a shape, a dtype or a value; empty where all is right."""
    if len(found) != len(case.outputs):
        return f"{len(found)} outputs instead of {len(case.outputs)}"
    for index, (got, want) in enumerate(zip(found, case.outputs, strict=True)):
        problem = _difference(case, got, want)
        if problem:
            return f"output {index} {problem}"
    return ""


def _difference(case: NodeCase, got: Any, want: Any) -> str:
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return f"is {type(got).__name__} instead of a list of {len(want)}"
        return next(filter(None, (_difference(case, *pair) for pair in zip(got, want, strict=True))), "")
    if not isinstance(want, (np.ndarray, np.generic)):
        return "is no tensor"
    if isinstance(got, list) or got is None:
        return "is a list or none instead of a tensor"
    got = np.asarray(got)
    if got.shape != want.shape:
        return f"has shape {list(got.shape)} instead of {list(want.shape)}"
    if got.dtype != want.dtype:
        return f"has dtype {got.dtype} instead of {want.dtype}"
    return "" if _close(got, want, case.rtol, case.atol) else "has other values"


def _close(got: Any, want: Any, rtol: float, atol: float) -> bool:
    if want.dtype == object:
        return bool(np.array_equal(got, want))
    wide = np.complex128 if want.dtype.kind == "c" else np.int64 if want.dtype.kind in "iub" else np.float64
    if want.dtype == np.uint64:
        return bool(np.array_equal(got, want))
    with np.errstate(all="ignore"):
        return bool(np.allclose(got.astype(wide), want.astype(wide), rtol=rtol, atol=atol, equal_nan=True))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
