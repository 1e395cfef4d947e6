"""Which engine computes an operator that nothing native computes: ONNX Runtime, or ONNX's reference implementation."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

import numpy as np

from joulec.passes.graph import Opaque, Value
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.evaluator import EVALUATOR, EvaluationError, EvaluationTimeout
from joulec.passes.onnx.reference import ort_refusals, ort_session
from joulec.passes.verification import largest_error, random_inputs
from joulec.profiler.dtypes import is_exotic, numpy_dtype
from joulec.profiler.values import TEXT, is_tensor

Engine = Literal["onnxruntime", "onnx.reference"]

_COMPARED = 1 << 16
"""Elements up to which ONNX Runtime is compared with the reference implementation; beyond, that would take too long."""
_TIME_LIMIT_S = 20.0
_TOLERANCE = 1e-3

_BY_REFERENCE = frozenset({"DFT", "MaxUnpool", "STFT"})
"""Operators that the reference computes at least as fast and closer to what ONNX's own tests state, or more of."""

_CALLED = {"onnxruntime": "-weights-held", "onnx.reference": ""}
_PREFIX = {"onnxruntime": "", "onnx.reference": "reference-"}
"""How the packed function is told which engine to use: `joulec.runtime.external` reads it."""


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def engine_for(op: Opaque) -> Engine:
    """ONNX Runtime where it is installed, takes the operator and means by it what ONNX means; else the reference.

    Raises:
        ModelError: neither knows the operator.
    """
    exotic = any(is_exotic(numpy_dtype(type.dtype)) for type in (*op.operand_types, *op.result_types))
    engine: Engine = "onnx.reference"
    if not exotic and op.kind not in _BY_REFERENCE and has_onnxruntime():
        engine = _tried(op)
    if engine == "onnx.reference":
        _check_known(op.definition, op.kind)
    return engine


def engine_version(engine: str) -> str:
    """Name and version of an engine, and how it is called, for cost keys."""
    package = engine.split(".")[0]
    return f"{engine}-{metadata.version(package)}{_CALLED[engine]}"


def external_key(engine: str, definition: bytes) -> str:
    """The name under which compiled code calls a definition."""
    return _PREFIX[engine] + hashlib.sha256(definition).hexdigest()


def engine_for_part(definition: bytes, kind: str, forms: Sequence[str], given: Mapping[str, Any] | None) -> Engine:
    """The engine for a head or tail: ONNX Runtime as in `engine_for`, where it takes these values too.

    On text and optionals it is not compared: the reference drops accents and empty words, and an optional without a
    value has one there.

    Args:
        forms: of its inputs and outputs.
        given: values of its inputs; None where none are known that it takes.

    Raises:
        ModelError: neither knows the operators.
    """
    refused = any(map(_is_exotic_form, forms)) or not _BY_REFERENCE.isdisjoint(kind.split("+"))
    session = ort_session(definition) if has_onnxruntime() and not refused else None
    compared = not any(TEXT in form for form in forms) and "Optional" not in kind.split("+")
    if session is not None and (given is None or _takes(session, definition, given, compared)):
        return "onnxruntime"
    _check_known(definition, kind)
    return "onnx.reference"


def _is_exotic_form(form: str) -> bool:
    return form != TEXT and is_tensor(form) and is_exotic(numpy_dtype(form))


def _takes(session: Any, definition: bytes, given: Mapping[str, Any], compared: bool) -> bool:
    """Whether ONNX Runtime computes the part, and as the reference does where that computes it in time."""
    try:
        found = session.run(None, dict(given))
    except ort_refusals():
        return False
    if not compared or sum(np.size(value) for value in given.values() if isinstance(value, np.ndarray)) > _COMPARED:
        return True
    try:
        wanted = EVALUATOR.run(definition, given, _TIME_LIMIT_S)
    except (EvaluationError, EvaluationTimeout):
        return True
    return largest_error(found, wanted) <= _TOLERANCE


@lru_cache(maxsize=4096)
def _check_known(definition: bytes, kind: str) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(definition)
    try:
        ReferenceEvaluator(model)
    except Exception as error:  # it has no class of its own for what it does not know
        named = sorted({f"{node.domain or 'ai.onnx'}.{node.op_type}" for node in model.graph.node})
        also = "" if has_onnxruntime() else "; joulec[onnxruntime] knows more operators"
        raise ModelError(
            f"nothing here computes {', '.join(named)} (in {kind}): neither TVM nor ONNX's engines know it in this "
            f"version; export the model without it{also}"
        ) from error


@lru_cache(maxsize=4096)
def _tried(op: Opaque) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    refusals = ort_refusals()
    try:
        session = onnxruntime.InferenceSession(op.definition, options, providers=["CPUExecutionProvider"])
    except refusals:
        return "onnx.reference"
    size = sum(type.size for type in (*op.operand_types, *op.result_types))
    names = [value.name for value in session.get_inputs()]
    values = [Value.input(name, type) for name, type in zip(names, op.operand_types, strict=True)]
    if size > _COMPARED or not op.pure:
        return "onnxruntime"
    for given in random_inputs(values, seed=0)[:1]:
        try:
            found = session.run(None, given)
            wanted = EVALUATOR.run(op.definition, given, _TIME_LIMIT_S)
        except (EvaluationError, EvaluationTimeout):
            continue
        except refusals:
            continue
        stated = [(type.shape, type.dtype) for type in op.result_types]
        if [(np.shape(one), str(np.asarray(one).dtype)) for one in wanted] == stated and not _agree(found, wanted):
            return "onnx.reference"
    return "onnxruntime"


def _agree(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    types = [[(np.shape(one), np.asarray(one).dtype) for one in side] for side in (found, wanted)]
    return types[0] == types[1] and largest_error(found, wanted) <= _TOLERANCE
