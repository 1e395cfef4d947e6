"""What a session runs: a joulec model, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.profiler.candidate import Work
from joulec.runtime.inputs import InputError, as_array, bind, check_rows
from joulec.runtime.model import Model

_Array = npt.NDArray[Any]
Outputs = tuple[_Array, ...]

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes for a callable of which nothing else is known."""


class Runner(Protocol):
    """Runs batches."""

    sizes: tuple[int, ...]
    uncapped: int
    threads: int | None

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int]:
        """A request's arrays and its number of rows; InputError where it cannot be run."""

    def run(self, size: int, arrays: list[_Array]) -> Outputs:
        """One batch of exactly the size."""

    def finish(self, outputs: Outputs) -> Any:
        """A request's outputs as its caller gets them."""

    def work(self, size: int) -> Work | None:
        """What one batch does; None where that is not known."""


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes, ascending, each once.

    Raises:
        ValueError: there are none, or one is no whole number above zero.
    """
    if not sizes or any(isinstance(s, bool) or not isinstance(s, int | np.integer) or s < 1 for s in sizes):
        raise ValueError(f"batch sizes must be whole numbers from 1 up, not {list(sizes)}")
    return tuple(sorted({int(size) for size in sizes}))


class ModelRunner:
    """A joulec model. One that is not batched runs each request as it is: every request is one row of one item."""

    def __init__(self, model: Model, sizes: Sequence[int] | None) -> None:
        self._model = model
        self.threads: int | None = model.threads
        if not model.batched:
            if sizes is not None and checked_sizes(sizes) != (1,):
                raise ValueError("this model's rows are not independent, so that its batch size cannot be chosen")
            self.sizes: tuple[int, ...] = (1,)
            self.uncapped = 1
            return
        self.sizes = model.batch_sizes if sizes is None else checked_sizes(sizes)
        for size in self.sizes:
            model.entry(size)
        self.uncapped = max((size for size in model.useful_batch_sizes if size in self.sizes), default=self.sizes[-1])

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int]:
        arrays = bind(self._model.input_names, inputs, named)
        if not self._model.batched:
            return [array[None] for array in arrays], 1
        rows = check_rows(arrays, self._model.manifest.entries[0])
        if not rows:
            raise InputError("a request must have at least one row")
        return arrays, rows

    def run(self, size: int, arrays: list[_Array]) -> Outputs:
        if self._model.batched:
            return self._model.run_batch(size, arrays)
        return tuple(output[None] for output in self._model.run([array[0] for array in arrays]))

    def finish(self, outputs: Outputs) -> Any:
        if not self._model.batched:
            outputs = tuple(output[0] for output in outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def work(self, size: int) -> Work | None:
        return self._model.manifest.entries[0].work if not self._model.batched else self._model.work(size)


class CallableRunner:
    """Any callable that maps a batch to a batch."""

    threads: int | None = None

    def __init__(
        self,
        function: Callable[..., Any],
        sizes: Sequence[int] | None,
        work: Callable[[int], Work] | None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"a session needs a joulec model or a callable, not a {type(function).__name__}")
        self._function = function
        self._work = work
        self.sizes = checked_sizes(DEFAULT_SIZES if sizes is None else sizes)
        self.uncapped = self.sizes[-1]

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int]:
        if named or not inputs:
            raise InputError("give one or more arrays by position: the executor is a plain callable")
        arrays = [as_array(value, f"input {index}") for index, value in enumerate(inputs)]
        for index, array in enumerate(arrays):
            if not array.ndim or not len(array):
                raise InputError(f"input {index} has no rows")
            if len(array) != len(arrays[0]):
                raise InputError(f"input {index} has {len(array)} rows, input 0 has {len(arrays[0])}")
        return arrays, len(arrays[0])

    def run(self, size: int, arrays: list[_Array]) -> Outputs:
        result = self._function(*arrays)
        results = list(result) if isinstance(result, tuple | list) else [result]
        outputs = tuple(np.array(as_array(value, "the output of the executor")) for value in results)  # ours to keep
        for output in outputs:
            if output.shape[:1] != (size,):
                raise ValueError(f"the executor returned shape {output.shape} for a batch of {size}")
        return outputs

    def finish(self, outputs: Outputs) -> Any:
        return outputs[0] if len(outputs) == 1 else outputs

    def work(self, size: int) -> Work | None:
        return None if self._work is None else self._work(size)
