"""Types of numbers that numpy knows by extension only, and the plain ones of equal size that carry them.

Compiled code sees bfloat16 as uint16 and eight bits or less (float8, int4, …, one number per byte) as uint8. What
computes on them reads the carrier's bits as what they stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The type of a name, e.g. ``float32`` or ``bfloat16``.

    Raises:
        TypeError: there is no such type.
    """
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # registers them

        return np.dtype(getattr(ml_dtypes, name, name))


def is_exotic(dtype: np.dtype[Any]) -> bool:
    """Whether numpy knows the type by extension only."""
    return dtype.isbuiltin == 2


def carrier(name: str) -> str:
    """The plain type that carries a type; its own name where it is plain."""
    dtype = numpy_dtype(name)
    return f"uint{8 * dtype.itemsize}" if is_exotic(dtype) else name


def as_carrier(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as its carrier, in the same memory."""
    return array.view(carrier(array.dtype.name)) if is_exotic(array.dtype) else array


def from_carrier(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """What the carrier holds, in the same memory."""
    return array if str(array.dtype) == name else array.view(numpy_dtype(name))
