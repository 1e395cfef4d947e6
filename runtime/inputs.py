"""What a caller hands in, checked against what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.profiler.dtypes import numpy_dtype
from joulec.runtime.manifest import Entry, TensorInfo

_Array = npt.NDArray[Any]


class InputError(ValueError):
    """Inputs of the wrong number, name, shape, dtype or device. The message names the input and what is wanted."""


def as_array(value: object, label: str) -> _Array:
    """A numpy array, or any tensor that exports DLPack from a CPU, without a copy.

    Raises:
        InputError: it is neither, or lies on another device.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        raise InputError(f"{label} is a {type(value).__name__}, not a numpy array or a DLPack tensor")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{label} cannot be read as a DLPack tensor on a CPU: {error}") from error


def bind(names: Sequence[str], positional: Sequence[object], named: Mapping[str, object]) -> list[_Array]:
    """Arrays in the model's order.

    Raises:
        InputError: too many, missing, unknown, given twice, or no arrays.
    """
    return as_arrays(names, ordered(names, positional, named))


def as_arrays(names: Sequence[str], values: Sequence[object]) -> list[_Array]:
    """Inputs in the model's order as arrays (`as_array`).

    Raises:
        InputError: one is none.
    """
    return [as_array(value, f"input {name!r}") for name, value in zip(names, values, strict=True)]


def ordered(names: Sequence[str], positional: Sequence[object], named: Mapping[str, object]) -> list[object]:
    """Put inputs in the model's order.

    Raises:
        InputError: too many, missing, unknown, or given twice.
    """
    wanted = ", ".join(names) or "no inputs"
    if len(positional) > len(names):
        raise InputError(f"{len(positional)} inputs were given by position, the model takes {len(names)}: {wanted}")
    given = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise InputError(f"the model has no input {name!r}; it takes {wanted}")
        if name in given:
            raise InputError(f"input {name!r} was given by position and by name")
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"input {missing[0]!r} is missing; the model takes {wanted}")
    return [given[name] for name in names]


def check_exactly(arrays: Sequence[_Array], tensors: Sequence[TensorInfo]) -> None:
    """Check shapes and dtypes of one call.

    Raises:
        InputError: one differs.
    """
    if len(arrays) != len(tensors):
        raise InputError(f"{len(arrays)} inputs were given, {len(tensors)} are wanted")
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape != tensor.shape or str(array.dtype) != tensor.dtype:
            raise InputError(f"input {tensor.name!r} must be {tensor}, not {describe(array)}")


def exact_entry(arrays: Sequence[_Array], entries: Sequence[Entry]) -> Entry:
    """The entry with just these shapes.

    Raises:
        InputError: there is none, or a dtype differs.
    """
    for entry in entries:
        if [a.shape for a in arrays] == [tensor.shape for tensor in entry.inputs]:
            check_exactly(arrays, entry.inputs)
            return entry
    if len(entries) == 1:
        check_exactly(arrays, entries[0].inputs)
    given = ", ".join(map(describe, arrays))
    wanted = " or ".join(", ".join(f"{t.name} {t}" for t in entry.inputs) for entry in entries)
    raise InputError(f"no compiled shapes fit inputs {given}; compiled are {wanted}")


def check_rows(arrays: Sequence[_Array], entry: Entry) -> int:
    """Check inputs of any number of rows against an entry of a batched model.

    Returns:
        The number of rows, the same in all inputs.

    Raises:
        InputError: a shape or dtype differs, or two inputs have different numbers of rows.
    """
    for array, tensor in zip(arrays, entry.inputs, strict=True):
        fits = array.ndim == len(tensor.shape) and array.shape[1:] == tensor.shape[1:]
        if not fits or str(array.dtype) != tensor.dtype:
            wanted = ",".join(["rows", *map(str, tensor.shape[1:])])
            raise InputError(f"input {tensor.name!r} must be {tensor.dtype}[{wanted}], not {describe(array)}")
        if len(array) != len(arrays[0]):
            first = entry.inputs[0].name
            raise InputError(f"input {tensor.name!r} has {len(array)} rows, {first!r} has {len(arrays[0])}")
    return len(arrays[0])


def describe(array: _Array) -> str:
    """Dtype and shape, e.g. ``float32[1,3,224,224]``."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def random_array(rng: np.random.Generator, tensor: TensorInfo) -> _Array:
    """Normal floats, fair booleans, whole numbers that the model expects, or small ones where it tells nothing."""
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind == "f" or "float" in dtype.name:
        return np.asarray(rng.standard_normal(tensor.shape)).astype(dtype)
    low, high = tensor.span or (0, 2 if dtype.kind in "bV" else 10)
    return np.asarray(rng.integers(low, high, tensor.shape)).astype(dtype)
