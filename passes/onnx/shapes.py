"""Fix the shapes of a program's inputs, and its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold
from joulec.passes.onnx.program import Program, dimensions, title

Shapes = dict[str, tuple[int | str, ...]]

_BAKED = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Which operand of an operator states the shape of its result."""

_ACROSS = {"Softmax": 1, "LogSoftmax": 1, "Hardmax": 1}
"""Operators that work along an axis, with the default of that axis before opset 13."""

_SEQUENCES = frozenset({"RNN", "LSTM", "GRU"})


def fix(
    program: Program, asked: Mapping[str, Sequence[int]] | None, batch: int | None
) -> tuple[Program, dict[str, TensorType], int | None]:
    """Fix all shapes and fold what follows from them.

    Args:
        asked: shapes of inputs by name; they also settle dimensions of the same name in other inputs.
        batch: the leading dimension that all inputs and outputs shall have; None leaves them.

    Returns:
        The folded program, the types of its values, and its batch (None where none can be recognised).

    Raises:
        ModelError: a dimension stays unknown, an input is not there, or the model cannot be rebatched.
    """
    if batch is not None and batch < 1:
        raise ModelError(f"{program.name}: a batch of {batch} cannot be; give a whole number from 1")
    shapes = _asked(program, asked or {})
    leads = [shape[0] for shape in shapes.values() if shape]
    if batch is None or (leads and all(lead == batch for lead in leads)):
        return _folded(program, shapes)
    if not leads:
        raise ModelError(f"{program.name}: no input has a leading dimension, so no batch can be set; omit the batch")
    if all(isinstance(lead, int) for lead in leads):
        return _rebatched(program, shapes, batch)
    symbols = {lead for lead in leads if not isinstance(lead, int)}
    try:
        result = _folded(program, _led(shapes, batch, symbols))
    except ModelError as error:
        try:
            return _rebatched(program, _led(shapes, 1, symbols), batch)
        except ModelError:
            raise error from None
    if result[2] == batch or batch == 1:
        return result
    return _rebatched(program, _led(shapes, 1, symbols), batch)


def _asked(program: Program, asked: Mapping[str, Sequence[int]]) -> Shapes:
    """Each input's shape as far as it is known."""
    inputs = {value.name: value for value in program.inputs}
    for name in asked:
        if name not in inputs:
            raise ModelError(f"{program.name}: no input '{name}'; its inputs are {', '.join(inputs)}")
    settled: dict[str, int] = {}
    shapes: Shapes = {}
    for name, value in inputs.items():
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{program.name}: input '{name}' is no tensor; joulec takes tensors only")
        shapes[name] = dimensions(value)
        if name not in asked:
            if not value.type.tensor_type.HasField("shape"):
                raise ModelError(f"{program.name}: input '{name}' has no shape; give one with --input-shapes")
            continue
        wanted = tuple(int(size) for size in asked[name])
        if min(wanted, default=1) < 0:
            raise ModelError(f"{program.name}: shape {list(wanted)} for input '{name}': sizes are whole numbers from 0")
        if value.type.tensor_type.HasField("shape"):
            if len(wanted) != len(shapes[name]):
                raise ModelError(
                    f"{program.name}: input '{name}' has {len(shapes[name])} dimensions, "
                    f"not {len(wanted)} as in {list(wanted)}"
                )
            for size, known in zip(wanted, shapes[name], strict=True):
                if isinstance(known, str) and known and settled.setdefault(known, size) != size:
                    raise ModelError(f"{program.name}: dimension '{known}' cannot be both {settled[known]} and {size}")
        shapes[name] = wanted
    return {name: tuple(settled.get(str(d), d) for d in shape) for name, shape in shapes.items()}


def _led(shapes: Shapes, lead: int, symbols: set[str]) -> Shapes:
    """Shapes with every unknown leading dimension (and every other one of its name) set."""
    named = {symbol for symbol in symbols if symbol}
    return {
        name: tuple(
            lead if size in named or (axis == 0 and not isinstance(size, int)) else size
            for axis, size in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


def _folded(program: Program, shapes: Shapes) -> tuple[Program, dict[str, TensorType], int | None]:
    program = program.copy()
    if _overridden(program, shapes):
        program.declared = {}
    fixed = []
    for value in program.inputs:
        shape = shapes[value.name]
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                example = ",".join(str(d) if isinstance(d, int) else "1" for d in shape)
                called = f" ('{size}')" if size else ""
                raise ModelError(
                    f"{program.name}: input '{value.name}' has no size for dimension {axis}{called}; "
                    f"give its shape, e.g. --input-shapes '{value.name}:[{example}]'"
                )
        fixed.append(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    program.inputs = fixed
    types = fold(program)
    leads = {
        types[value.name].shape[0]
        for value in (*program.inputs, *program.outputs)
        if value.name in types and types[value.name].shape
    }
    return program, types, leads.pop() if len(leads) == 1 else None


def _overridden(program: Program, shapes: Shapes) -> bool:
    """Whether a size differs from what the file states for it: then what it states for other values is void too."""
    return any(
        isinstance(known, int) and known != size
        for value in program.inputs
        for known, size in zip(dimensions(value), shapes[value.name], strict=False)
    )


def _rebatched(program: Program, shapes: Shapes, batch: int) -> tuple[Program, dict[str, TensorType], int | None]:
    """The program for another batch; constants that state a shape with the old one are mended."""
    _, before, old = _folded(program, shapes)
    if old is None:
        leads = {
            value.name: before[value.name].shape[0]
            for value in (*program.inputs, *program.outputs)
            if value.name in before and before[value.name].shape
        }
        found = ", ".join(f"{name}: {lead}" for name, lead in leads.items())
        raise ModelError(
            f"{program.name}: inputs and outputs have no common leading dimension ({found}), so it cannot be set to "
            f"{batch}; export the model for that batch"
        )
    mended = program.copy()
    mended.nodes = [_mended(node, mended, before, old, batch) for node in program.nodes]
    result = _folded(mended, {name: (batch, *shape[1:]) if shape else () for name, shape in shapes.items()})
    _check_rows(result[0], before, result[1], old, batch)
    return result


def _mended(
    node: onnx.NodeProto, program: Program, before: Mapping[str, TensorType], old: int, batch: int
) -> onnx.NodeProto:
    place = _BAKED.get(node.op_type)
    if place is None or len(node.input) <= place or node.input[place] not in program.constants:
        return node
    source, result = before.get(node.input[0]), before.get(node.output[0])
    if node.input[0] in program.constants or source is None or result is None:
        return node
    if source.shape[:1] != (old,) or result.shape[:1] != (old,):
        return node
    target = f"{node.output[0]}/shape"
    program.constants[target] = np.asarray((batch, *result.shape[1:]), np.int64)
    fixed = onnx.NodeProto()
    fixed.CopyFrom(node)
    fixed.input[place] = target
    return fixed


def _check_rows(
    program: Program, before: Mapping[str, TensorType], after: Mapping[str, TensorType], old: int, batch: int
) -> None:
    """Refuse a node that mixes rows, or does not pass the new batch on."""
    batched = {value.name for value in program.inputs if after[value.name].shape}
    for node in program.nodes:
        if not batched.intersection(node.input):
            continue
        for name in node.output:
            if not name:
                continue
            was, now = before.get(name), after.get(name)
            passes_on = was is not None and now is not None and was.shape[:1] == (old,)
            if was is None or now is None or not passes_on or now.shape != (batch, *was.shape[1:]) or _mixes(node, was):
                raise ModelError(
                    f"{program.name}: node '{title(node)}' ({node.op_type}) does not treat the leading dimension as a "
                    f"batch, so {old} cannot become {batch}; export the model for that batch"
                )
            batched.add(name)


def _mixes(node: onnx.NodeProto, result: TensorType) -> bool:
    """Whether the node computes along the leading axis although its result keeps it."""
    if node.op_type in _SEQUENCES:
        return True
    if node.op_type not in _ACROSS:
        return False
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), _ACROSS[node.op_type])
    return axis % len(result.shape) == 0
