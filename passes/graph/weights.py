"""Expressions over constant weights, kept in a normal form.

Rules build new kernels by concatenating and zero-padding old ones. The search needs only the type and the identity of
such a kernel, so nothing is computed until export. The normal form (pads at the leaves, concatenations flattened)
makes different orders of merging meet in one expression.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.values import TensorType, content_key

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant operand; equal keys mean equal contents."""

    key: int
    type: TensorType = field(compare=False)

    def __hash__(self) -> int:
        return self.key & 0x7FFFFFFFFFFFFFFF

    def value(self) -> Array:
        """The contents, computed on demand."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Literal(Weight):
    """A constant that the model holds."""

    array: Array = field(compare=False, repr=False)

    __hash__ = Weight.__hash__

    def value(self) -> Array:
        return self.array


@dataclass(frozen=True, slots=True)
class Concatenated(Weight):
    """Parts laid one after another along an axis; no part is itself a concatenation along that axis."""

    parts: tuple[Weight, ...] = field(compare=False)
    axis: int = field(compare=False)

    __hash__ = Weight.__hash__

    def value(self) -> Array:
        return np.concatenate([part.value() for part in self.parts], axis=self.axis)


@dataclass(frozen=True, slots=True)
class Padded(Weight):
    """A leaf surrounded by zeros: ``pads`` holds (before, after) per axis."""

    part: Weight = field(compare=False)
    pads: tuple[tuple[int, int], ...] = field(compare=False)

    __hash__ = Weight.__hash__

    def value(self) -> Array:
        return np.pad(self.part.value(), self.pads)


def literal(array: Array) -> Literal:
    """A weight from an array; its key is the digest of dtype, shape and bytes."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    digest = hashlib.blake2b(array.tobytes(), digest_size=16)
    digest.update(f"{array.dtype}{array.shape}".encode())
    return Literal(int.from_bytes(digest.digest(), "big"), TensorType(array.shape, str(array.dtype)), array)


def concatenated(parts: tuple[Weight, ...], axis: int) -> Weight:
    """Parts along an axis, in normal form. All other dimensions and the dtypes must agree."""
    flat: list[Weight] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Concatenated) and part.axis == axis else (part,))
    if len(flat) == 1:
        return flat[0]
    first = flat[0].type
    rest = first.shape[:axis], first.shape[axis + 1 :], first.dtype
    for part in flat:
        if (part.type.shape[:axis], part.type.shape[axis + 1 :], part.type.dtype) != rest:
            raise ValueError(f"cannot concatenate {first} and {part.type} along axis {axis}")
    shape = (*first.shape[:axis], sum(part.type.shape[axis] for part in flat), *first.shape[axis + 1 :])
    key = content_key("concatenated", axis, *(part.key for part in flat))
    return Concatenated(key, TensorType(shape, first.dtype), tuple(flat), axis)


def padded(part: Weight, pads: tuple[tuple[int, int], ...]) -> Weight:
    """A weight surrounded by zeros, in normal form: pads of pads add up, pads of a concatenation go to its parts."""
    if not any(before or after for before, after in pads):
        return part
    if isinstance(part, Padded):
        merged = tuple((a + c, b + d) for (a, b), (c, d) in zip(part.pads, pads, strict=True))
        return padded(part.part, merged)
    if isinstance(part, Concatenated) and pads[part.axis] == (0, 0):
        return concatenated(tuple(padded(inner, pads) for inner in part.parts), part.axis)
    shape = tuple(size + before + after for size, (before, after) in zip(part.type.shape, pads, strict=True))
    return Padded(content_key("padded", part.key, pads), TensorType(shape, part.type.dtype), part, pads)
