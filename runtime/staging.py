"""Runs a model's parts around its compiled function (`joulec.runtime.parts`)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.profiler.values import TEXT, FormError, as_formed, is_tensor, nesting
from joulec.runtime.external import FUNCTION, ExternalError, open_session
from joulec.runtime.inputs import InputError, as_array
from joulec.runtime.manifest import Entry, TensorInfo, part_assigned
from joulec.runtime.parts import Part, Parts, ValueInfo, describe
from joulec.runtime.profile import Step

_Array = npt.NDArray[Any]
Compiled = Callable[[list[_Array]], Sequence[_Array]]
"""Calls the compiled function."""


class Staging:
    """The parts of a model, ready to run.

    Args:
        parts: what they are.
        definitions: ONNX models by key.
        threads: worker threads of an engine.

    Raises:
        ExternalError: a definition is missing, or no engine here knows it.
    """

    def __init__(self, parts: Parts, definitions: Mapping[str, bytes], threads: int) -> None:
        self.parts = parts
        self._lock = threading.Lock()
        self._sessions = {}
        for part in parts.there:
            if part.key not in definitions:
                raise ExternalError(f"{part.operators} is not in the artifact; compile the model again")
            self._sessions[part.key] = open_session(part.key, definitions[part.key], threads)

    def bind(self, values: Sequence[Any]) -> dict[str, Any]:
        """The caller's inputs by name, each in its form.

        Raises:
            InputError: one has another form, shape or dtype.
        """
        return {one.name: _checked(value, one) for one, value in zip(self.parts.inputs, values, strict=True)}

    def before(self, values: dict[str, Any]) -> None:
        """Run the head, and add what it gives to the values."""
        self._run(self.parts.head, values)

    def after(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """Run the tail on the values, which it adds to; the model's outputs, each in its form."""
        self._run(self.parts.tail, values)
        return tuple(_formed(values[one.name], one.form) for one in self.parts.outputs)

    def run(
        self, given: Sequence[Any], inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], compiled: Compiled
    ) -> tuple[Any, ...]:
        """The model's outputs.

        Args:
            given: in the model's order.
            inputs: of the compiled function.
            outputs: of the compiled function.
            compiled: calls it.

        Raises:
            InputError: an input does not fit.
            ExternalError: a part does not take these inputs.
        """
        values = self.bind(given)
        self.before(values)
        arrays = compiled(taken(values, inputs))
        values.update((one.name, array) for one, array in zip(outputs, arrays, strict=True))
        return self.after(values)

    def profile(
        self,
        given: Sequence[Any],
        entry: Entry,
        compiled: Callable[[list[_Array]], tuple[Step, ...] | None],
        call: Compiled,
        repeats: int,
    ) -> tuple[Step, ...] | None:
        """Steps of a call: the head, those of the compiled function, the tail.

        Args:
            given: in the model's order.
            entry: the compiled function.
            compiled: profiles it; None where it cannot run step by step.
            call: calls it.
            repeats: runs of each part; medians count.
        """
        values = self.bind(given)
        head = self._timed(self.parts.head, values, repeats)
        arrays = taken(values, entry.inputs)
        steps = compiled(arrays)
        values.update((one.name, array) for one, array in zip(entry.outputs, call(arrays), strict=True))
        tail = self._timed(self.parts.tail, values, repeats)
        return None if steps is None else (*head, *steps, *tail)

    def _timed(self, part: Part | None, values: dict[str, Any], repeats: int) -> list[Step]:
        """A part's step; what the part gives is added to the values."""
        if part is None:
            return []
        seconds = []
        for _ in range(repeats):
            begun_s = time.perf_counter()
            self._run(part, values)
            seconds.append(time.perf_counter() - begun_s)
        return [Step(FUNCTION, statistics.median(seconds), part_assigned(part))]

    def compute(self, part: Part, values: Mapping[str, Any]) -> Sequence[Any]:
        """What a part gives for its inputs among the values."""
        with self._lock:  # the reference implementation keeps what it computes in itself
            return self._sessions[part.key].compute({name: values[name] for name in part.inputs})

    def _run(self, part: Part | None, values: dict[str, Any]) -> None:
        if part is None:
            return
        found = self.compute(part, values)
        if len(found) != len(part.outputs):
            raise ExternalError(f"{part.operators} is not what was compiled; compile the model again")
        values.update(zip(part.outputs, found, strict=True))


def taken(values: Mapping[str, Any], inputs: Sequence[TensorInfo]) -> list[_Array]:
    """What the compiled function takes of the values.

    Raises:
        InputError: the head gave another shape than was compiled.
    """
    arrays = []
    for one in inputs:
        array = np.asarray(values[one.name])
        if array.shape != one.shape:
            raise InputError(
                f"the model does not take these inputs: they give {one.name!r} as {describe(array)}, where {one} was "
                "compiled"
            )
        arrays.append(np.ascontiguousarray(as_formed(array, one.dtype)).reshape(one.shape))
    return arrays


def _formed(value: Any, form: str) -> Any:
    """An output in its form; as the engine gave it where it is of another one."""
    try:
        return as_formed(value, form)
    except FormError:
        return value


def _checked(value: Any, wanted: ValueInfo) -> Any:
    if is_tensor(wanted.form) and isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise InputError(f"input {wanted.name!r} must be {wanted}, not lists of different lengths") from error
    if wanted.form != TEXT and is_tensor(wanted.form):
        value = as_array(value, f"input {wanted.name!r}")
        if str(value.dtype) != wanted.form or not wanted.fits(value.shape):
            raise InputError(f"input {wanted.name!r} must be {wanted}, not {describe(value)}")
        return value
    try:
        _check_types(value, wanted.form)
        formed = as_formed(value, wanted.form)
    except FormError as error:
        raise InputError(f"input {wanted.name!r} must be {wanted}, not {describe(value)}: {error}") from error
    if isinstance(formed, np.ndarray) and not wanted.fits(formed.shape):
        raise InputError(f"input {wanted.name!r} must be {wanted}, not {describe(value)}")
    return formed


def _check_types(value: Any, form: str) -> None:
    """Refuse arrays of another type inside of a sequence or an optional, as is done with those that are inputs.

    Raises:
        FormError: one is.
    """
    kind, inner = nesting(form)
    if kind == "sequence" and isinstance(value, list | tuple):
        for one in value:
            _check_types(one, inner)
    elif kind == "optional":
        _check_types(value, inner)
    elif not kind and form != TEXT and isinstance(value, np.ndarray) and str(value.dtype) != form:
        raise FormError(f"{describe(value)} where {form} is wanted")
