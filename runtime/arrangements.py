"""Weights that hold the same numbers in another order: stored once, with the order beside them.

Algorithms read a weight in layouts of their own, so that variants and batch sizes of one model bring the same kernel
several times: permuted, and padded with zeros. Such an array is told apart from the first by its order alone. The order
is regular, so that its differences compress to next to nothing.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

_SMALLEST = 4096
"""Bytes; smaller arrays are not worth the search."""
_WORTH = 0.25
"""An order that compresses to more than this share of the array is not used."""
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Arrangement:
    """An array as another one in a different order.

    Attributes:
        source: digest of the other one.
        steps: of the array's shape: differences from place to place in the flat source, counted from 1; place 0 is a
            zero. The array is ``source[cumsum(steps)]``.
    """

    source: str
    steps: npt.NDArray[np.int32]

    def apply(self, source: _Array) -> _Array:
        """The array."""
        flat = np.concatenate([np.zeros(1, source.dtype), source.reshape(-1)])
        places = np.cumsum(self.steps.reshape(-1), dtype=np.int64)
        if places.size and not 0 <= places.min() <= places.max() < len(flat):
            raise ValueError("an arrangement of weights points beyond its source; compile the model again")
        taken: _Array = flat[places].reshape(self.steps.shape)
        return taken


def arrange(weights: Mapping[str, _Array]) -> dict[str, Arrangement]:
    """Which of the weights are others in a different order, by digest. No source is itself one of these."""
    alike: dict[object, list[str]] = defaultdict(list)
    for digest, array in weights.items():
        if array.nbytes >= _SMALLEST and array.dtype.itemsize in _BITS and array.size < 2**31:
            alike[_numbers(array)].append(digest)
    found: dict[str, Arrangement] = {}
    for first, *others in alike.values():
        if not others:
            continue
        order, values = _sorted(weights[first])
        for digest in others:
            steps = _steps(weights[digest], order, values)
            if steps is not None:
                found[digest] = Arrangement(first, steps)
    return found


def _numbers(array: _Array) -> tuple[object, ...]:
    """The same for arrays that hold the same numbers, zeros aside; rarely for others."""
    bits = _bits(array).astype(np.uint64)
    return array.dtype, np.count_nonzero(bits), int(bits.sum()), int((bits * bits).sum())


def _bits(array: _Array) -> _Array:
    """The flat array's numbers as they are stored: a negative zero is none."""
    return np.ascontiguousarray(array).reshape(-1).view(_BITS[array.dtype.itemsize])


def _sorted(array: _Array) -> tuple[npt.NDArray[np.int64], _Array]:
    """Places of all numbers but zeros in ascending order of the number, and these."""
    bits = _bits(array)
    order = np.argsort(bits, kind="stable")
    order = order[np.count_nonzero(bits == 0) :]
    return order, bits[order]


def _steps(array: _Array, order: npt.NDArray[np.int64], values: _Array) -> npt.NDArray[np.int32] | None:
    """How to walk through the source, given its order and values; None where that takes too much room."""
    own, numbers = _sorted(array)
    if not np.array_equal(numbers, values):
        return None
    places = np.zeros(array.size, dtype=np.int32)
    places[own] = order + 1
    steps = np.diff(places, prepend=np.int32(0)).reshape(array.shape)
    return steps if len(zlib.compress(steps.tobytes(), 1)) < _WORTH * array.nbytes else None
