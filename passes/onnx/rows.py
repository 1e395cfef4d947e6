"""The proof that a rebatched model treats its examples one by one, on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from joulec.passes.graph import TensorType, Value
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.places import Place
from joulec.passes.onnx.program import Program, title
from joulec.passes.onnx.ranges import input_ranges
from joulec.passes.onnx.reference import onnx_reference
from joulec.passes.verification import Reference, ReferenceRefusal, VerificationError, random_inputs, verify

_Array = npt.NDArray[Any]
_Types = Mapping[str, TensorType]

_TOLERANCE = 1e-3
"""Engines may sum in another order for another batch; examples that mix differ by far more."""
_EXAMPLES = 3
"""How many examples of a large batch are computed on their own."""
_LIMIT_S = 60.0


@dataclass(frozen=True)
class Batched:
    """A program at one batch size, folded.

    Attributes:
        types: of its values.
        batch: the leading dimension of inputs and outputs.
    """

    program: Program
    types: _Types
    batch: int

    def reference(self) -> Reference:
        """What computes it."""
        return onnx_reference(self.program.model(self.types), _LIMIT_S)


def prove(single: Batched, many: Batched, places: Mapping[str, Place]) -> bool:
    """Compare a batch with its examples computed one by one (or in batches of the file's size).

    Args:
        single: the model as the file has it.
        many: the same for another batch.
        places: where the batch lies in values of the program, to name the node at fault.

    Returns:
        Whether it was proven; False where the model takes none of the random inputs, or nothing here computes it.

    Raises:
        ModelError: they differ; the message names the node where they begin to.
    """
    values = [Value.input(value.name, many.types[value.name]) for value in many.program.inputs]
    inputs = random_inputs(values, 0, input_ranges(many.program, many.types))
    batched, alone = many.reference(), single.reference()
    compared = _compared(many.batch, single.batch)

    def by_batch(given: Mapping[str, _Array]) -> Sequence[_Array]:
        return [np.take(found, compared, 0) if found.ndim else found for found in batched.run(given)]

    def one_by_one(given: Mapping[str, _Array]) -> Sequence[_Array]:
        return _joined(alone.run, given, compared, single.batch)

    proven = Reference("one by one", one_by_one)
    try:
        return any(verify(proven, by_batch, [given], _TOLERANCE).inputs for given in inputs)
    except ReferenceRefusal:
        return False
    except VerificationError as error:
        if "did not compute" in str(error):
            return False
        raise ModelError(
            f"{many.program.name}: {_fault(single, many, places, inputs[0])}, so {single.batch} cannot become "
            f"{many.batch}: a batch of random examples gives other results than the examples one by one; export the "
            "model for that batch"
        ) from error


def _compared(new: int, old: int) -> npt.NDArray[np.intp]:
    """Which examples of a batch are computed on their own: all, or some from its begin to its end."""
    count = min(new, max(_EXAMPLES, old))
    return np.unique(np.linspace(0, new - 1, count).round().astype(np.intp))


def _joined(
    run: Callable[[Mapping[str, _Array]], Sequence[_Array]],
    given: Mapping[str, _Array],
    examples: npt.NDArray[np.intp],
    old: int,
) -> list[_Array]:
    """Outputs of these examples, each in a batch of the file's size whose other examples are copies of the next."""
    parts = []
    for begin in range(0, len(examples), old):
        chosen = np.resize(examples[begin : begin + old], old)
        found = run({name: np.take(array, chosen, 0) if array.ndim else array for name, array in given.items()})
        kept = min(old, len(examples) - begin)
        parts.append([array[:kept] if array.ndim else array for array in found])
    return [np.concatenate(column) if column[0].ndim else column[0] for column in zip(*parts, strict=True)]


def _fault(single: Batched, many: Batched, places: Mapping[str, Place], given: Mapping[str, _Array]) -> str:
    """The first node whose results differ between a batch and its examples."""
    made = [
        (node, name)
        for node in many.program.nodes
        for name in node.output
        if name in places and name in single.types and name in many.types
    ]
    present = {name for node in single.program.nodes for name in node.output}
    names = [name for _, name in made if name in present]
    unknown = "its examples are not treated one by one"
    try:
        batched = dict(zip(names, _watching(many, names).run(given), strict=True))
        alone: dict[str, list[_Array]] = {name: [] for name in names}
        watched = _watching(single, names)
        for begin in range(0, many.batch, single.batch):
            chosen = np.resize(np.arange(begin, min(begin + single.batch, many.batch)), single.batch)
            part = {name: np.take(array, chosen, 0) if array.ndim else array for name, array in given.items()}
            for name, array in zip(names, watched.run(part), strict=True):
                alone[name].append(_examples(array, places[name], single.batch)[:, : many.batch - begin])
    except (ReferenceRefusal, VerificationError, ModelError):
        return unknown
    for node, name in made:
        if name not in batched:
            continue
        ours = _examples(batched[name], places[name], many.batch)
        theirs = np.concatenate(alone[name], 1)
        apart = float(np.linalg.norm((ours.astype(np.float64) - theirs.astype(np.float64)).ravel()))
        if not apart <= _TOLERANCE * float(np.linalg.norm(theirs.astype(np.float64).ravel())):
            return f"node '{title(node)}' ({node.op_type}) does not treat its examples one by one"
    return unknown


def _examples(array: _Array, place: Place, batch: int) -> _Array:
    """The value with the batch on an axis of its own, between all that lies outside and inside of it."""
    return array.reshape(place.before(array.shape), batch, -1)


def _watching(one: Batched, names: Sequence[str]) -> Reference:
    """The program with these values as outputs."""
    watched = one.program.copy()
    watched.outputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(one.types[name].dtype)), one.types[name].shape
        )
        for name in names
    ]
    return Batched(watched, one.types, one.batch).reference()
