"""Shapes that shape inference cannot tell, found by running the program on random inputs.

Two kinds are asked for: results of operators that ONNX does not define (ONNX Runtime's own, say), and outputs of the
model whatever makes them. Both count where all runs that the program takes agree. Values between whose shape depends on
data are not asked for: they stay inside one region (`joulec.passes.onnx.regions`), which takes any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.defs

from joulec.passes.graph import TensorType, Value
from joulec.passes.onnx.evaluator import EVALUATOR, EvaluationError, EvaluationTimeout
from joulec.passes.onnx.program import Program, bodies, held_numbers, held_words, references
from joulec.passes.onnx.ranges import Range, input_ranges
from joulec.passes.onnx.reference import ort_refusals, ort_session
from joulec.passes.verification import MOST_TEXT, likely_inputs, random_inputs

_Array = npt.NDArray[Any]

_TIME_LIMIT_S = 60.0
_LIKELY = 6
"""How many sets of inputs are tried beside the random ones."""

_UNTOLD = "ai.onnx.ml"
"""Operators of ONNX, of many of which its inference tells nothing."""

_VARYING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"})
"""Operators whose results have as many elements as the data decide: what was seen says nothing about other data."""


def foreign_results(program: Program, types: Mapping[str, TensorType]) -> list[str]:
    """Results without a known type of operators that ONNX does not define, or of which it tells no shape."""
    return [
        name
        for node in program.nodes
        if is_foreign(node) or node.domain == _UNTOLD
        for name in node.output
        if name and name not in types
    ]


def is_foreign(node: onnx.NodeProto) -> bool:
    """Whether ONNX does not define the operator."""
    return node.domain not in ("", "ai.onnx") and not onnx.defs.has(node.op_type, node.domain)


def unknown_outputs(program: Program, types: Mapping[str, TensorType]) -> list[str]:
    """Outputs of the model without a known type, those left out whose shape is certain to vary with data."""
    return [
        value.name
        for value in program.outputs
        if value.name not in types
        and value.type.HasField("tensor_type")
        and not any(map(_varies, _makers(program, types, value.name)))
    ]


def observed(program: Program, names: Sequence[str], types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """The types of values of a program whose inputs have fixed shapes, as far as runs on random inputs agree.

    Args:
        names: the values.
        types: those that are known.

    Returns:
        Nothing of values whose shape differs between two runs, or of any where no run succeeds.
    """
    if not names or not all(_is_drawn(value, types) for value in program.inputs):
        return {}
    watched = program.copy()
    watched.outputs = [onnx.ValueInfoProto(name=name) for name in names]
    watched.prune()
    found: dict[str, TensorType] = {}
    varying: set[str] = set()
    for results in _runs(watched, input_ranges(watched, types)):
        for name, array in zip(names, results, strict=True):
            if isinstance(array, list | dict) or array is None:
                varying.add(name)
                continue
            dtype = np.asarray(array).dtype
            type = TensorType(np.shape(array), "object" if dtype.kind in "OU" else str(dtype))
            if found.setdefault(name, type) != type:
                varying.add(name)
    return {name: type for name, type in found.items() if name not in varying}


def _is_drawn(value: onnx.ValueInfoProto, types: Mapping[str, TensorType]) -> bool:
    """Whether random values of an input can be had: no sequence or optional, and not too much text."""
    type = types.get(value.name)
    return type is not None and (type.dtype != "object" or type.size <= MOST_TEXT)


def _runs(program: Program, ranges: Mapping[str, Range]) -> Iterator[Sequence[_Array]]:
    """The outputs for each set of inputs that the program takes."""
    model = program.model({})
    definition = model.SerializeToString()
    values = [
        Value.input(value.name, TensorType(tuple(d.dim_value for d in tensor.shape.dim), _dtype(tensor.elem_type)))
        for value, tensor in ((value, value.type.tensor_type) for value in program.inputs)
    ]
    words = held_words(model.graph)
    likely = likely_inputs(values, held_numbers(model.graph), 0, ranges, words)
    sets = [*random_inputs(values, 0, ranges, words), *likely[: _LIKELY - 2], *likely[-2:]]
    session = ort_session(definition)
    refusals: tuple[type[Exception], ...] = (EvaluationError, *ort_refusals())
    for given in sets:
        try:
            if session is not None:
                yield session.run(None, given)
            else:
                yield EVALUATOR.run(definition, given, _TIME_LIMIT_S)
        except EvaluationTimeout:
            return
        except refusals:
            continue


def _dtype(element: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)))


def _makers(program: Program, types: Mapping[str, TensorType], output: str) -> Iterator[onnx.NodeProto]:
    """The nodes from which an unknown value follows through unknown values."""
    wanted = {output}
    for node in reversed(program.nodes):
        if wanted.intersection(node.output):
            yield node
            wanted.update(name for name in references(node) if name not in types)


def _varies(node: onnx.NodeProto) -> bool:
    return node.op_type in _VARYING or any(_varies(inner) for body in bodies(node) for inner in body.node)
