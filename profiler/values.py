"""Values that ONNX knows beside tensors of numbers: text, sequences, optionals and maps.

A form is written as ``float32``, ``text``, ``sequence(float32)``, ``optional(sequence(text))`` or
``map(int64,float32)``. In Python, text is a numpy array of ``object`` that holds ``str``, a sequence is a list, an
optional is its value or None, a map is a dict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.profiler.dtypes import numpy_dtype

TEXT = "text"
_NESTED = re.compile(r"(sequence|optional|map)\((.*)\)")
_MANY = 3
"""Elements of a random sequence, and of an axis whose size nothing tells."""
_WORDS = ("", "a", "alpha", "Beta", "gamma delta", "0", "42", "x@example.org", "naïve", "東京")
"""Text for models that hold none: empty, of several words, with numbers, beyond ASCII."""


class FormError(ValueError):
    """A value that is not of the form wanted."""


def nesting(form: str) -> tuple[str, str]:
    """The outermost kind of a form and what is inside: ``("sequence", "float32")``; ``("", form)`` of a tensor."""
    match = _NESTED.fullmatch(form)
    return (match[1], match[2]) if match else ("", form)


def is_tensor(form: str) -> bool:
    """Whether the form is a tensor's, of numbers or text."""
    return nesting(form)[0] == ""


def is_form(text: str) -> bool:
    """Whether a text is a form."""
    kind, inner = nesting(text)
    if kind == "map":
        key, _, held = inner.partition(",")
        return is_form(key) and is_form(held)
    if kind:
        return is_form(inner)
    try:
        return inner == TEXT or numpy_dtype(inner).kind in "biufV"
    except TypeError:
        return False


def unboxed(value: Any, type: Any) -> Any:
    """What ONNX's reference implementation gives for a value of an ONNX type, without the list around an optional."""
    if type.WhichOneof("value") != "optional_type" or not isinstance(value, list) or len(value) != 1:
        return value
    sequence = type.optional_type.elem_type.WhichOneof("value") == "sequence_type"
    return value if sequence and isinstance(value[0], np.ndarray) else value[0]


def as_formed(value: Any, form: str) -> Any:
    """The value in this form: text as objects, numbers in their type, the elements of a sequence likewise.

    Raises:
        FormError: it cannot be.
    """
    kind, inner = nesting(form)
    if kind == "optional":
        return None if value is None else as_formed(value, inner)
    if kind == "sequence":
        if not isinstance(value, list | tuple):
            raise FormError(f"a {type(value).__name__} where a list is wanted")
        return [as_formed(one, inner) for one in value]
    if kind == "map":
        return value
    if value is None or isinstance(value, list | tuple | dict):
        raise FormError(f"a {type(value).__name__} where an array is wanted")
    array = np.asarray(value)
    if form == TEXT:
        return _as_text(array)
    if array.dtype.kind in "OUST":
        raise FormError(f"text where {form} is wanted")
    return array.astype(numpy_dtype(form), copy=False)


def _as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind not in "OUST":
        raise FormError(f"{array.dtype} where text is wanted")
    flat = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in array.ravel().tolist()]
    strange = next((one for one in flat if not isinstance(one, str)), None)
    if strange is not None:
        raise FormError(f"a {type(strange).__name__} where text is wanted")
    made = np.empty(len(flat), object)
    made[:] = flat
    return made.reshape(array.shape)


def random_text(rng: np.random.Generator, shape: Sequence[int], words: Sequence[str] = ()) -> npt.NDArray[Any]:
    """Text drawn from the words, and from others too."""
    pool = [*words, *words, *_WORDS] or [""]
    made = np.empty(int(np.prod(shape, dtype=np.int64)), object)
    made[:] = [pool[index] for index in rng.integers(0, len(pool), made.size)]
    return made.reshape(tuple(shape))


def random_value(
    rng: np.random.Generator, form: str, shape: Sequence[int | None] | None, words: Sequence[str] = ()
) -> Any:
    """A seeded value of a form.

    Args:
        shape: of the tensor, or of the tensors inside; sizes that nothing tells are None.
        words: that the model itself holds.
    """
    kind, inner = nesting(form)
    sizes = [_MANY] if shape is None else [_MANY if size is None else size for size in shape]
    if kind == "optional":
        return random_value(rng, inner, shape, words)
    if kind == "sequence":
        return [random_value(rng, inner, shape, words) for _ in range(_MANY)]
    if kind == "map":
        raise FormError("maps cannot be given")
    if form == TEXT:
        return random_text(rng, sizes, words)
    dtype = numpy_dtype(form)
    if dtype.kind == "f" or "float" in dtype.name:
        return np.asarray(rng.standard_normal(sizes)).astype(dtype)
    return np.asarray(rng.integers(0, 2, sizes)).astype(dtype)
