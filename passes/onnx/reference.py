"""ONNX's own meaning of a model, computed by an engine that is not ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.onnx.errors import ModelError, one_line
from joulec.passes.onnx.evaluator import EVALUATOR, EvaluationError, EvaluationTimeout
from joulec.passes.onnx.fold import is_random
from joulec.passes.onnx.nudged import nudged
from joulec.passes.onnx.program import form_of
from joulec.passes.verification import Reference, ReferenceRefusal, Runner, VerificationError, largest_error
from joulec.profiler.values import TEXT, as_formed, is_tensor

_Array = npt.NDArray[Any]


_SECOND_LIMIT_S = 60.0
"""How long a second opinion may take."""
_DIVIDES = frozenset({"STFT"})
"""Operators in which ONNX Runtime divides by an input; where that is 0, the whole process ends."""


def onnx_reference(model: Any, time_limit_s: float = 300.0) -> Reference:
    """What computes the original: ONNX Runtime where it is installed and takes the model, else onnx.reference.

    The latter runs in a process of its own, within a time limit. Where ONNX Runtime computes the original, it is also
    the second opinion.

    Raises:
        ModelError: ONNX Runtime finds that shapes in the model contradict each other.
    """
    import onnx

    definition = model.SerializeToString()
    declared = [(form_of(value), _sizes(value)) for value in model.graph.output]

    def checked(found: Sequence[Any]) -> Sequence[Any]:
        formed = []
        for one, (form, sizes) in zip(found, declared, strict=True):
            shape = np.shape(one) if is_tensor(form) else ()
            if sizes is not None and TEXT not in form and (len(shape) != len(sizes) or any(map(_apart, shape, sizes))):
                raise ReferenceRefusal(f"these inputs give shape {list(shape)} in place of {list(sizes)}")
            formed.append(as_formed(one, form) if TEXT in form else one)
        return formed

    def by_onnx(given: Mapping[str, _Array], limit_s: float = time_limit_s) -> Sequence[_Array]:
        return checked(_in_a_process(definition, given, limit_s))

    drawn = any(is_random(node, {}) for node in model.graph.node)

    def steady(run: Runner) -> Runner:
        """What refuses inputs for which two runs differ: random numbers are compared with nothing."""

        def twice(given: Mapping[str, _Array]) -> Sequence[_Array]:
            first, second = run(given), run(given)
            if largest_error(first, second):
                raise ReferenceRefusal("the model draws random numbers")
            return first

        return twice if drawn else run

    session = None if any(node.op_type in _DIVIDES for node in model.graph.node) else ort_session(definition)
    rounds = any(_rounds(node) for node in model.graph.node)
    if session is None:
        return Reference(f"onnx.reference {onnx.__version__}", steady(by_onnx), rounds=rounds)
    import onnxruntime

    names = [value.name for value in session.get_inputs()]
    refusals: tuple[type[Exception], ...] = (*ort_refusals(), RuntimeError)

    def by_onnxruntime(given: Mapping[str, _Array], session: Any = session) -> Sequence[_Array]:
        try:
            found: Sequence[_Array] = session.run(None, {name: given[name] for name in names})
        except refusals as error:
            raise ReferenceRefusal(one_line(error)) from error
        return checked(found)

    @lru_cache
    def by_nudged(seed: int) -> Runner:
        changed = ort_session(nudged(model, seed).SerializeToString())
        return partial(by_onnxruntime, session=session if changed is None else changed)

    second = partial(by_onnx, limit_s=_SECOND_LIMIT_S)
    name = f"onnxruntime {onnxruntime.__version__}"
    return Reference(name, steady(by_onnxruntime), second, rounds, by_nudged if rounds else None)


def _sizes(value: Any) -> tuple[int | None, ...] | None:
    """The shape that is stated for an output; None where none is, or the output is no tensor."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    known = (dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    return tuple(d.dim_value if k else None for d, k in zip(value.type.tensor_type.shape.dim, known, strict=True))


def _apart(size: int, stated: int | None) -> bool:
    return stated is not None and size != stated


def _rounds(node: Any) -> bool:
    """Whether an operator rounds to the levels of a quantised type, ONNX Runtime's own operators included."""
    kind = str(node.op_type)
    return ("Quantize" in kind and kind != "DequantizeLinear") or kind.startswith("QLinear")


def check_shapes(model: Any) -> None:
    """Let ONNX Runtime, where it is installed, tell shapes that contradict each other.

    Raises:
        ModelError: they do.
    """
    ort_session(model.SerializeToString())


def ort_refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where it does not take a model or its inputs; nothing where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidGraph,
        state.InvalidArgument,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )


def ort_session(definition: bytes) -> Any:
    """ONNX Runtime on the model; None where it is not installed or does not know one of the operators or types.

    Raises:
        ModelError: it finds that shapes in the model contradict each other.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(definition, options, providers=["CPUExecutionProvider"])
    except ort_refusals() as error:
        if "Op (If)" in str(error) and (opened := _opened(definition)) != definition:
            return ort_session(opened)  # of two branches one need not fit these shapes
        if "ShapeInferenceError" in str(error) or "TypeInferenceError" in str(error):
            raise ModelError(f"ONNX Runtime refuses the model with these shapes: {one_line(error)}") from error
        return None
    exotic = any(
        "float8" in value.type or "int4" in value.type or "bfloat16" in value.type
        for value in (*session.get_inputs(), *session.get_outputs())
    )
    return None if exotic else session  # it hands such numbers out as plain integers


def _opened(definition: bytes) -> bytes:
    """The model with inputs and outputs of any sizes."""
    import onnx

    model = onnx.load_from_string(definition)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()
    return bytes(model.SerializeToString())


def _in_a_process(model: bytes, given: Mapping[str, _Array], time_limit_s: float) -> Sequence[_Array]:
    try:
        return EVALUATOR.run(model, given, time_limit_s)
    except EvaluationTimeout as error:
        raise VerificationError(
            f"onnx.reference did not compute the original within {time_limit_s:g} s; "
            "install joulec[onnxruntime] for a faster reference"
        ) from error
    except EvaluationError as error:
        raise ReferenceRefusal(f"onnx.reference failed on the original: {error}") from error
