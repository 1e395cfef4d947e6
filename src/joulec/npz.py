"""Inputs and outputs of a model in .npz files: text as numpy's strings, the elements of a sequence one by one.

An array of a sequence ``x`` is called ``x/0``, ``x/1``…; of an optional, what it holds has its name, and nothing stands
for none; a map has ``x/keys`` and ``x/values``.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.options import OptionError
from joulec.profiler.values import nesting
from joulec.runtime.inputs import InputError
from joulec.runtime.model import Model

_Array = npt.NDArray[Any]


def read_inputs(path: Path, model: Model) -> list[Any]:
    """A model's inputs, in its order.

    Raises:
        InputError: the file cannot be read, or holds other inputs or elements.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file, or cut short")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        how = "array.astype(str)" if "Object arrays" in str(reason) else "array"
        raise InputError(
            f"cannot read inputs from {path}: {reason}; write them with numpy.savez(path, name={how})"
        ) from error
    forms = {} if model.manifest.parts is None else {one.name: one.form for one in model.manifest.parts.inputs}
    held = ", ".join(found) or "nothing"
    given = {name: _assembled(name, forms.get(name, ""), found) for name in model.input_names}
    missing = sorted(name for name, value in given.items() if value is None and nesting(forms.get(name, ""))[0] == "")
    differing = [*sorted(found), *missing]
    if differing:
        raise InputError(
            f"{path} {'holds' if differing[0] in found else 'lacks'} the input {differing[0]!r}; it holds "
            f"{held}, the model takes {', '.join(model.input_names) or 'nothing'}"
        )
    return list(given.values())


def _assembled(name: str, form: str, found: dict[str, _Array]) -> Any:
    """A value of this form out of the arrays, from which it is taken; None where it is not there."""
    kind, inner = nesting(form)
    if kind == "optional":
        return _assembled(name, inner, found) if any(_belongs(key, name) for key in found) else None
    if kind == "sequence":
        elements: list[Any] = []
        while any(_belongs(key, f"{name}/{len(elements)}") for key in found):
            elements.append(_assembled(f"{name}/{len(elements)}", inner, found))
        later = [
            key for key in found if key.startswith(f"{name}/") and key[len(name) + 1 :].partition("/")[0].isdigit()
        ]
        if later:
            raise InputError(
                f"the inputs hold {later[0]!r} without {f'{name}/{len(elements)}'!r}: number the elements of {name!r} "
                "from 0 on"
            )
        return elements
    array = found.pop(name, None)
    return None if array is None else np.asarray(array, order="C")


def _belongs(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}/")


def write_outputs(path: Path, named: Mapping[str, Any]) -> None:
    """An .npz that takes the path's place when complete; any name may be an output's.

    Raises:
        OptionError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise OptionError(f"cannot write outputs to {path}: it exists and is not a file; name another")
        with tempfile.TemporaryDirectory(prefix=".joulec-", dir=target.parent) as folder:
            fresh = Path(folder, "outputs.npz")
            with zipfile.ZipFile(fresh, "w") as archive:
                for name, array in _arrays(named):
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            fresh.replace(target)
    except OSError as error:
        raise OptionError(f"cannot write outputs to {path}: {error.strerror or error}") from error


def _arrays(named: Mapping[str, Any]) -> Iterator[tuple[str, _Array]]:
    for name, value in named.items():
        if isinstance(value, list):
            yield from _arrays({f"{name}/{index}": one for index, one in enumerate(value)})
        elif isinstance(value, dict):
            yield from _arrays({f"{name}/keys": np.asarray(list(value)), f"{name}/values": list(value.values())})
        elif value is not None:
            array = np.asarray(value)
            yield name, array.astype(str) if array.dtype.kind == "O" else array


def described(value: Any, form: str) -> dict[str, Any]:
    """Shape and kind of an output, for the report; a list's shape is its length."""
    if isinstance(value, list):
        return {"shape": [len(value)], "dtype": form}
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "dtype": form if value.dtype.kind == "O" else str(value.dtype)}
    return {"shape": [], "dtype": "none" if value is None else form}
