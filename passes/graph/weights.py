"""Expressions over constant weights, kept in a normal form.

Rules build new kernels by concatenating, zero-padding, adding, slicing and multiplying old ones. The search needs only
the type and the identity of such a kernel, so nothing is computed until export. The normal form (pads and slices at the
leaves, concatenations and sums flattened, sums in the order of their keys) makes different orders of rewriting meet in
one expression.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Computed(Weight):
    """A function of parts: a key of `FUNCTIONS` with its parameters. Arithmetic is done in float64 and rounded once."""

    function: str = field(compare=False)
    parts: tuple[Weight, ...] = field(compare=False)
    params: tuple[Any, ...] = field(compare=False, default=())

    __hash__ = Weight.__hash__

    def value(self) -> Array:
        result = FUNCTIONS[self.function]([part.value() for part in self.parts], self.params)
        return np.asarray(result, dtype=self.type.dtype, order="C")  # ascontiguousarray gives a scalar an axis


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
    flat = _adjoined(flat, axis)
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
    if isinstance(part, Computed) and part.function == "sum":
        return summed(tuple(padded(inner, pads) for inner in part.parts))
    if isinstance(part, Computed) and part.function == "dirac" and pads[:2] == ((0, 0), (0, 0)):
        channels, height, width, row, column = part.params
        (above, below), (before, after) = pads[2:]
        size = height + above + below, width + before + after
        return dirac(channels, size, (row + above, column + before), part.type.dtype)
    shape = tuple(size + before + after for size, (before, after) in zip(part.type.shape, pads, strict=True))
    return Padded(content_key("padded", part.key, pads), TensorType(shape, part.type.dtype), part, pads)


def summed(parts: tuple[Weight, ...]) -> Weight:
    """The sum of weights of one type, in normal form: sums of sums flattened, in the order of the keys.

    Sums of concatenations cut at the same places are concatenations of sums.
    """
    flat: list[Weight] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Computed) and part.function == "sum" else (part,))
    if len(flat) == 1:
        return flat[0]
    if any(part.type != flat[0].type for part in flat):
        raise ValueError(f"cannot add {', '.join(str(part.type) for part in flat)}")
    cut = [part for part in flat if isinstance(part, Concatenated)]
    if len(cut) == len(flat) and len({(part.axis, *_sizes(part)) for part in cut}) == 1:
        columns = zip(*(part.parts for part in cut), strict=True)
        return concatenated(tuple(summed(column) for column in columns), cut[0].axis)
    return _computed("sum", tuple(sorted(flat, key=lambda part: part.key)), flat[0].type.shape)


def sliced(part: Weight, axis: int, begin: int, end: int) -> Weight:
    """The elements from ``begin`` to ``end`` along an axis, in normal form: slices go to the leaves."""
    size = part.type.shape[axis]
    if not 0 <= begin < end <= size:
        raise ValueError(f"cannot take {begin} to {end} of {part.type} along axis {axis}")
    if (begin, end) == (0, size):
        return part
    if isinstance(part, Concatenated) and part.axis != axis:
        return concatenated(tuple(sliced(inner, axis, begin, end) for inner in part.parts), part.axis)
    if isinstance(part, Concatenated):
        taken, at = [], 0
        for inner, length in zip(part.parts, _sizes(part), strict=True):
            low, high = max(begin - at, 0), min(end - at, length)
            if low < high:
                taken.append(sliced(inner, axis, low, high))
            at += length
        return concatenated(tuple(taken), axis)
    if isinstance(part, Padded) and part.pads[axis] == (0, 0):
        return padded(sliced(part.part, axis, begin, end), part.pads)
    if isinstance(part, Computed) and part.function == "sum":
        return summed(tuple(sliced(inner, axis, begin, end) for inner in part.parts))
    if isinstance(part, Computed) and part.function == "slice" and part.params[0] == axis:
        return sliced(part.parts[0], axis, part.params[1] + begin, part.params[1] + end)
    shape = (*part.type.shape[:axis], end - begin, *part.type.shape[axis + 1 :])
    return _computed("slice", (part,), shape, (axis, begin, end))


def dirac(channels: int, size: tuple[int, int], at: tuple[int, int], dtype: str) -> Weight:
    """The kernel [channels,channels,height,width] that copies each channel's element at a place of its window."""
    params = (channels, *size, *at)
    return _computed("dirac", (), (channels, channels, *size), params, dtype)


def composed(outer: Weight, inner: Weight) -> Weight:
    """The kernel of one convolution for two in a row (one group), at least one of them 1x1; chains are flattened."""
    parts: list[Weight] = []
    for part in (outer, inner):
        parts.extend(part.parts if isinstance(part, Computed) and part.function == "compose" else (part,))
    size = tuple(a + b - 1 for a, b in zip(outer.type.shape[2:], inner.type.shape[2:], strict=True))
    return _computed("compose", tuple(parts), (outer.type.shape[0], inner.type.shape[1], *size))


def projected(kernel: Weight, vector: Weight, groups: int = 1) -> Weight:
    """What a convolution without padding makes of an input that is ``vector`` [C] everywhere: [O]."""
    return _computed("project", (kernel, vector), kernel.type.shape[:1], (groups,))


def scaled(kernel: Weight, vector: Weight, groups: int = 1) -> Weight:
    """A convolution's kernel with each input channel multiplied by its element of ``vector`` [C]."""
    return _computed("scale", (kernel, vector), kernel.type.shape, (groups,))


def reshaped(part: Weight, shape: tuple[int, ...]) -> Weight:
    """The same elements in row-major order under another shape; reshapes of reshapes are one."""
    if isinstance(part, Computed) and part.function == "reshape":
        part = part.parts[0]
    if part.type.shape == shape:
        return part
    if part.type.size != math.prod(shape):
        raise ValueError(f"cannot give {part.type} the shape {shape}")
    return _computed("reshape", (part,), shape, shape)


def transposed(matrix: Weight) -> Weight:
    """A matrix with rows and columns exchanged; exchanged twice, it is itself."""
    if isinstance(matrix, Computed) and matrix.function == "transpose":
        return matrix.parts[0]
    rows, columns = matrix.type.shape
    return _computed("transpose", (matrix,), (columns, rows))


def _computed(
    function: str, parts: tuple[Weight, ...], shape: tuple[int, ...], params: tuple[Any, ...] = (), dtype: str = ""
) -> Computed:
    key = content_key(function, *(part.key for part in parts), *params, dtype)
    return Computed(key, TensorType(shape, dtype or parts[0].type.dtype), function, parts, params)


def _sizes(part: Concatenated) -> tuple[int, ...]:
    return tuple(inner.type.shape[part.axis] for inner in part.parts)


def _adjoined(parts: list[Weight], axis: int) -> list[Weight]:
    """Slices of one weight that lie side by side, as one slice."""
    found: list[Weight] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(last, Computed) and isinstance(part, Computed) and last.function == part.function == "slice":
            (along, begin, middle), (other, start, end) = last.params, part.params
            if along == other == axis and middle == start and last.parts == part.parts:
                found[-1] = sliced(part.parts[0], axis, begin, end)
                continue
        found.append(part)
    return found


_Wide = np.ndarray[Any, np.dtype[Any]]


def _wide(array: _Wide) -> _Wide:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _sum(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    total = _wide(parts[0])
    for part in parts[1:]:
        total = total + part
    return total


def _slice(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    axis, begin, end = params
    taken: _Wide = parts[0][(slice(None),) * axis + (slice(begin, end),)]
    return taken


def _dirac(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    channels, height, width, row, column = params
    kernel = np.zeros((channels, channels, height, width))
    kernel[:, :, row, column] = np.eye(channels)
    return kernel


def _compose(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    result = _wide(parts[0])
    for part in parts[1:]:  # of two neighbours, one is 1x1: its last two axes have length 1 and broadcast
        equation = "omij,mchw->ochw" if result.shape[2:] == (1, 1) else "omhw,mcij->ochw"
        result = np.einsum(equation, result, _wide(part), optimize=True)
    return result


def _project(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    kernel, vector = _wide(parts[0]), _wide(parts[1])
    (groups,) = params
    grouped = kernel.sum(axis=(2, 3)).reshape(groups, -1, kernel.shape[1])
    return np.asarray(np.einsum("goc,gc->go", grouped, vector.reshape(groups, -1)).reshape(-1))


def _scale(parts: list[_Wide], params: tuple[Any, ...]) -> _Wide:
    kernel, vector = _wide(parts[0]), _wide(parts[1])
    (groups,) = params
    grouped = kernel.reshape(groups, -1, *kernel.shape[1:])
    return np.asarray((grouped * vector.reshape(groups, 1, -1, 1, 1)).reshape(kernel.shape))


FUNCTIONS: Mapping[str, Callable[[list[_Wide], tuple[Any, ...]], _Wide]] = {
    "sum": _sum,
    "slice": _slice,
    "dirac": _dirac,
    "compose": _compose,
    "project": _project,
    "scale": _scale,
    "reshape": lambda parts, params: parts[0].reshape(params),
    "transpose": lambda parts, params: parts[0].T,
}
"""The meaning of each function of `Computed` in numpy, given its parts and parameters."""
