"""Outputs of any form (text, sequences, optionals, maps) as arrays of numbers that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_DIFFER = (np.zeros(1), np.full(1, np.nan))


def comparable(found: Sequence[Any], wanted: Sequence[Any]) -> tuple[list[_Array], list[_Array]]:
    """Pairs of arrays that are as near to each other as the outputs are.

    Tensors of numbers stand for themselves; equal text becomes equal ones, other text unequal numbers; what differs in
    form or length becomes a pair that differs by infinity.
    """
    pairs = list(_pairs(list(found), list(wanted)))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _pairs(found: Any, wanted: Any) -> Iterator[tuple[_Array, _Array]]:
    if isinstance(wanted, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(wanted):
            yield _DIFFER
            return
        for one, other in zip(found, wanted, strict=True):
            yield from _pairs(one, other)
    elif isinstance(wanted, dict):
        if not isinstance(found, dict) or list(found) != list(wanted):
            yield _DIFFER
            return
        yield from _pairs(np.asarray(list(found.values())), np.asarray(list(wanted.values())))
    elif wanted is None or found is None or isinstance(found, list | tuple | dict):
        if found is not wanted:
            yield _DIFFER
    else:
        yield _arrays(np.asarray(found), np.asarray(wanted))


def _arrays(found: _Array, wanted: _Array) -> tuple[_Array, _Array]:
    texts = [array.dtype.kind in "OUS" for array in (found, wanted)]
    if not any(texts):
        return found, wanted
    if not all(texts):
        return _DIFFER
    if found.shape != wanted.shape:
        return np.ones(found.shape), np.ones(wanted.shape)
    return np.asarray(found == wanted, np.float64).reshape(wanted.shape), np.ones(wanted.shape)
