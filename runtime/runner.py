"""What a session runs: a joulec model, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.profiler.candidate import NO_WORK, Work
from joulec.runtime.inputs import InputError, as_array, bind, check_rows
from joulec.runtime.model import Model
from joulec.runtime.packing import ALIGNMENT, Packer
from joulec.runtime.policies import Configuration, Prediction, Predictions
from joulec.runtime.request import Outputs, Part, Request, Signature, count_rows, divide, signature_of
from joulec.runtime.rows import split

_Array = npt.NDArray[Any]

Answers = list[tuple[Sequence[Part], Outputs]]
"""Rows and the outputs that hold theirs first."""

_MOST_PACKERS = 8
"""Kinds of requests to a callable whose batch memory is kept."""

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes for a callable of which nothing else is known."""


class Runner(Protocol):
    """Runs batches."""

    sizes: tuple[int, ...]
    uncapped: int
    threads: int | None

    @property
    def predictions(self) -> Predictions | None:
        """What is expected of each size; None where that is not known of all."""

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int, Signature]:
        """A request's arrays, its number of rows and what it may share a batch with.

        Raises:
            InputError: it cannot be run.
        """

    def run(self, size: int, parts: Sequence[Part]) -> Answers:
        """One batch of the size that holds the parts' rows."""

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
    """A joulec model.

    Sizes that were not compiled are laid over those that were. A model that is not batched runs each request as it is:
    every request is one row of one item.
    """

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
        self.uncapped = max((size for size in model.useful_batch_sizes if size in self.sizes), default=self.sizes[-1])
        likes = [np.empty((0, *tensor.shape[1:]), tensor.dtype) for tensor in model.manifest.entries[0].inputs]
        self._packer = Packer(likes, model.batch_sizes[-1], ALIGNMENT)

    @property
    def predictions(self) -> Predictions | None:
        """From the artifact: as measured, else as the search expects."""
        entries = {}
        for size in self.sizes:
            calls = [(batch, 1) for batch, _ in self._calls(size, size)] if self._model.batched else []
            budgets = [self._model.entry(batch).best_known for batch, _ in calls]
            known = [(budget.time_s, budget.energy_j) for budget in budgets if budget is not None]
            times = [time_s for time_s, energy_j in known if time_s and energy_j]
            joules = [energy_j for time_s, energy_j in known if time_s and energy_j]
            if not times or len(times) < len(calls):
                return None
            entries[Configuration(size)] = Prediction(sum(times), sum(joules) / sum(times))
        return Predictions(entries)

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int, Signature]:
        arrays = bind(self._model.input_names, inputs, named)
        if not self._model.batched:
            return [array[None] for array in arrays], 1, ()
        rows = check_rows(arrays, self._model.manifest.entries[0])
        if not rows:
            raise InputError("a request must have at least one row")
        return arrays, rows, ()

    def run(self, size: int, parts: Sequence[Part]) -> Answers:
        if not self._model.batched:
            (part,) = parts
            outputs = self._model.run([array[0] for array in part.arrays])
            return [(parts, tuple(output[None] for output in outputs))]
        calls = self._calls(size, count_rows(parts))
        groups = divide(parts, [count for _, count in calls]) if len(calls) > 1 else [parts]
        return [
            (group, self._model.run_batch(batch, self._packer.pack(group, batch)))
            for (batch, _), group in zip(calls, groups, strict=True)
        ]

    def _calls(self, size: int, rows: int) -> list[tuple[int, int]]:
        """Compiled batch sizes and the rows in each."""
        if size in self._model.batch_sizes:
            return [(size, rows)]
        return [(batch, count) for batch, _, count in split(rows, self._model.batch_sizes)]

    def finish(self, outputs: Outputs) -> Any:
        if not self._model.batched:
            outputs = tuple(output[0] for output in outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def work(self, size: int) -> Work | None:
        if not self._model.batched:
            return self._model.manifest.entries[0].work
        return sum((self._model.work(batch) for batch, _ in self._calls(size, size)), NO_WORK)


class CallableRunner:
    """Any callable that maps a batch to a batch."""

    threads: int | None = None
    predictions: Predictions | None = None

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
        self._packers: dict[Signature, Packer] = {}
        self.sizes = checked_sizes(DEFAULT_SIZES if sizes is None else sizes)
        self.uncapped = self.sizes[-1]

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int, Signature]:
        if named or not inputs:
            raise InputError("give one or more arrays by position: the executor is a plain callable")
        arrays = [as_array(value, f"input {index}") for index, value in enumerate(inputs)]
        for index, array in enumerate(arrays):
            if not array.ndim or not len(array):
                raise InputError(f"input {index} has no rows")
            if len(array) != len(arrays[0]):
                raise InputError(f"input {index} has {len(array)} rows, input 0 has {len(arrays[0])}")
        return arrays, len(arrays[0]), signature_of(arrays)

    def run(self, size: int, parts: Sequence[Part]) -> Answers:
        result = self._function(*self._packer(parts[0].request).pack(parts, size))
        results = list(result) if isinstance(result, tuple | list) else [result]
        outputs = tuple(np.array(as_array(value, "the output of the executor")) for value in results)  # ours to keep
        for output in outputs:
            if output.shape[:1] != (size,):
                raise ValueError(f"the executor returned shape {output.shape} for a batch of {size}")
        return [(parts, outputs)]

    def _packer(self, request: Request) -> Packer:
        found = self._packers.get(request.signature)
        if found is None:
            if len(self._packers) >= _MOST_PACKERS:
                del self._packers[next(iter(self._packers))]
            found = self._packers[request.signature] = Packer(request.arrays, self.sizes[-1])
        return found

    def finish(self, outputs: Outputs) -> Any:
        return outputs[0] if len(outputs) == 1 else outputs

    def work(self, size: int) -> Work | None:
        return None if self._work is None else self._work(size)
