"""Fix the shapes of a program's inputs, and its batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold
from joulec.passes.onnx.observing import foreign_results, observed, unknown_outputs
from joulec.passes.onnx.places import Place
from joulec.passes.onnx.program import Program, dimensions, form_of, title
from joulec.passes.onnx.rebatching import Rebatching
from joulec.passes.onnx.rows import Batched, prove
from joulec.profiler.values import TEXT

Shapes = dict[str, tuple[int | str, ...]]

_ATTEMPTS = 24
"""How many explanations of ambiguous shapes are tried."""

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
    if batch == 1:
        return _folded(program, _led(shapes, 1, symbols))
    try:
        return _rebatched(program, _led(shapes, 1, symbols), batch)
    except ModelError as error:
        return _direct(program, _led(shapes, 1, symbols), _led(shapes, batch, symbols), batch, error)


def _direct(
    program: Program, single: Shapes, wanted: Shapes, batch: int, error: ModelError
) -> tuple[Program, dict[str, TensorType], int | None]:
    """The program for a batch that its file leaves open, where following the batch through the nodes failed.

    Raises:
        ModelError: `error`, where it does not take this batch, or its examples are not treated one by one.
    """
    try:
        alone, result = _folded(program, single), _folded(program, wanted)
        _check_rows(*alone[:2], batch)
        if result[2] == batch and prove(Batched(alone[0], alone[1], 1), Batched(result[0], result[1], batch), {}):
            return result
    except ModelError:
        raise error from None
    raise error


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
            if name in asked:
                raise ModelError(f"{program.name}: input '{name}' is {form_of(value)}, which has no shape to be given")
            continue
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
        if value.name not in shapes:
            fixed.append(value)
            continue
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
    types = _typed(program)
    leads = {
        types[value.name].shape[0]
        for value in (*program.inputs, *program.outputs)
        if value.name in types and types[value.name].shape
    }
    return program, types, leads.pop() if len(leads) == 1 else None


def _typed(program: Program) -> dict[str, TensorType]:
    """Fold, and let runs on random inputs tell what shape inference cannot (`joulec.passes.onnx.observing`)."""
    types = fold(program)
    foreign = observed(program, foreign_results(program, types), types)
    if foreign:
        program.seen, program.unsure = foreign, frozenset(foreign)
        types = fold(program)
    outputs = observed(program, unknown_outputs(program, types), types)
    if outputs:
        known = frozenset(types)
        program.seen = {**program.seen, **outputs}
        types = fold(program)
        program.unsure |= frozenset(types) - known
    return types


def _overridden(program: Program, shapes: Shapes) -> bool:
    """Whether a size differs from what the file states for it: then what it states for other values is void too."""
    return any(
        isinstance(known, int) and known != size
        for value in program.inputs
        for known, size in zip(dimensions(value), shapes.get(value.name, ()), strict=False)
    )


def _check_rows(program: Program, types: Mapping[str, TensorType], batch: int) -> None:
    """Refuse a batch where an input or output is no tensor of numbers with rows."""
    for value in (*program.inputs, *program.outputs):
        type, form = types.get(value.name), form_of(value)
        if type is not None and type.dtype != "object":
            continue
        if form == TEXT:
            why = "is text, of which rows are not set"
        else:
            holds = f"is {form}" if "(" in form else "has as many as data decide"
            why = f"has no row for each example, it {holds}"
        raise ModelError(
            f"{program.name}: the batch cannot be set to {batch}: '{value.name}' {why}; give the shapes that you want "
            "with --input-shapes"
        )


def _rebatched(program: Program, shapes: Shapes, batch: int) -> tuple[Program, dict[str, TensorType], int | None]:
    """The program for another batch; what states the old one is mended, and the result proven on random inputs."""
    file, before, old = _folded(program, shapes)
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
    if old == batch:
        return file, before, old
    _check_rows(file, before, batch)
    if not old:
        raise ModelError(f"{program.name}: a batch of 0 cannot become {batch}; give shapes with --input-shapes")
    wanted: Shapes = {name: (batch, *shape[1:]) if shape else () for name, shape in shapes.items()}
    inputs = {name: (batch, *before[name].shape[1:]) if shape else () for name, shape in shapes.items()}
    single = Batched(file, before, old)
    failure: ModelError | None = None
    for attempt in _attempts(program, before, old, batch):
        try:
            mended = attempt.walk(inputs)
            result = _folded(mended, wanted)
            _prove(single, Batched(result[0], result[1], batch), attempt.places)
        except ModelError as error:
            failure = failure or error
        else:
            return result
    assert failure is not None
    raise failure


def _attempts(program: Program, before: Mapping[str, TensorType], old: int, batch: int) -> Iterator[Rebatching]:
    """Walks that take one explanation after the other where shapes have several, the likeliest first."""
    choices: dict[int, int] = {}
    for _ in range(_ATTEMPTS):
        attempt = Rebatching(program, before, old, batch, choices)
        yield attempt
        following = next(
            (
                index
                for index in sorted(attempt.options, reverse=True)
                if choices.get(index, 0) + 1 < attempt.options[index]
            ),
            None,
        )
        if following is None:
            return
        choices = {index: choice for index, choice in choices.items() if index < following}
        choices[following] = attempt.choices.get(following, 0) + 1


def _prove(single: Batched, many: Batched, places: Mapping[str, Place]) -> None:
    """Compare on random inputs; where the model takes none, by what is known of operators that mix examples.

    Raises:
        ModelError: examples are not treated one by one.
    """
    if prove(single, many, places):
        return
    for node in many.program.nodes:
        place = places.get(node.input[0]) if node.input else None
        if place is not None and _mixes(node, place, len(many.types[node.input[0]].shape)):
            raise ModelError(
                f"{many.program.name}: node '{title(node)}' ({node.op_type}) does not treat the leading dimension as a "
                f"batch, so {single.batch} cannot become {many.batch}; export the model for that batch"
            )


def _mixes(node: onnx.NodeProto, place: Place, rank: int) -> bool:
    """Whether the node computes along the batch although its result keeps it."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in _SEQUENCES:
        return place.axis != (0 if attributes.get("layout") else 1)
    if node.op_type not in _ACROSS:
        return False
    return bool(attributes.get("axis", _ACROSS[node.op_type]) % rank == place.axis)
