"""What a session runs: a joulec model, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.dtypes import numpy_dtype
from joulec.runtime.inputs import InputError, as_array, bind, check_rows, ordered
from joulec.runtime.manifest import Budget
from joulec.runtime.model import Model
from joulec.runtime.packing import ALIGNMENT, Packer
from joulec.runtime.policies import Configuration, Prediction, Predictions
from joulec.runtime.request import Outputs, Part, Request, Signature, count_rows, divide, signature_of
from joulec.runtime.rows import fitting, split
from joulec.runtime.variant import check_variants

_Array = npt.NDArray[Any]

Answers = list[tuple[Sequence[Part], Outputs]]
"""Rows and the outputs that hold theirs first."""

_MOST_PACKERS = 8
"""Kinds of requests to a callable whose batch memory is kept."""

ESTIMATE_ERROR = 1.0
"""How far times that nothing but an estimate tells may be off, as a share: they know no overhead of a call."""

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes for a callable of which nothing else is known."""


class Runner(Protocol):
    """Runs batches."""

    sizes: tuple[int, ...]
    variants: tuple[str | int, ...]
    uncapped: Configuration
    threads: int | None

    @property
    def predictions(self) -> Predictions | None:
        """What is expected of each size and variant; None where that is not known of all sizes."""

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int, Signature]:
        """A request's arrays, its number of rows and what it may share a batch with.

        Raises:
            InputError: it cannot be run.
        """

    def run(self, size: int, parts: Sequence[Part], variant: str | int = 0) -> Answers:
        """One batch of the size that holds the parts' rows, computed by a variant of the graph."""

    def finish(self, outputs: Outputs) -> Any:
        """A request's outputs as its caller gets them."""

    def work(self, size: int, variant: str | int = 0) -> Work | None:
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

    Args:
        model: the model.
        sizes: batch sizes to choose from; all that were compiled when None.
        variants: variants to choose from; all that were compiled when None, or the one that the model was loaded for.

    Raises:
        ValueError: the model has no such variant, or its batch size cannot be chosen.
    """

    def __init__(self, model: Model, sizes: Sequence[int] | None, variants: Sequence[str] | None = None) -> None:
        self._model = model
        self.threads: int | None = model.threads
        self.device_kind = model.device_kind
        asked = variants if variants is not None else model.variants if model.variant is None else (model.variant,)
        check_variants(model.variants, asked)
        self.variants: tuple[str | int, ...] = tuple(name for name in model.variants if name in asked) or (0,)
        if not model.batched:
            if sizes is not None and checked_sizes(sizes) != (1,):
                raise ValueError("this model's rows are not independent, so that its batch size cannot be chosen")
            self.sizes: tuple[int, ...] = (1,)
            self.uncapped = self._preferred(1)
            return
        self.sizes = model.batch_sizes if sizes is None else checked_sizes(sizes)
        useful = max((size for size in model.useful_batch_sizes if size in self.sizes), default=self.sizes[-1])
        self.uncapped = self._preferred(useful)
        first = model.manifest.entries[0]
        likes = [np.empty((0, *tensor.shape[1:]), numpy_dtype(tensor.dtype)) for tensor in first.inputs]
        self._packer = Packer(likes, model.batch_sizes[-1], ALIGNMENT)

    def _preferred(self, size: int) -> Configuration:
        """The size in the variant that is best under the artifact's objective, or the nearest that may be chosen."""
        if self.variants == (0,):
            return Configuration(size)
        batch = fitting(size, self._model.batch_sizes)
        best = self._model.entry(batch).variant
        return Configuration(size, best if best in self.variants else self.variants[0])

    @property
    def predictions(self) -> Predictions | None:
        """From the artifact: as measured, else as the search expects. None where a size is not known in any variant.

        A variant that a batch size does not have is not predicted for it: it would be another one again.
        """
        known = {
            Configuration(size, variant): self._known(size, variant) for size in self.sizes for variant in self.variants
        }
        found = {one: expected for one, budgets in known.items() if (expected := _prediction(budgets)) is not None}
        if {one.batch for one in found} != set(self.sizes):
            return None
        estimated = any(budget.time_source == "estimated" for one in found for budget in known[one])
        return Predictions(found, ESTIMATE_ERROR) if estimated else Predictions(found)

    def _known(self, size: int, variant: str | int) -> list[Budget]:
        """What is known of each call that a batch of a size takes."""
        if not self._model.batched:
            return []
        entries = [self._model.entry(batch, _name(variant)) for batch, _ in self._calls(size, size)]
        if len(self.variants) > 1 and all(entry.variant != variant for entry in entries):
            return []
        return [entry.best_known or Budget() for entry in entries]

    def accept(self, inputs: Sequence[object], named: Mapping[str, object]) -> tuple[list[_Array], int, Signature]:
        if self._model.manifest.parts is not None:
            return [_boxed(value) for value in ordered(self._model.input_names, inputs, named)], 1, ()
        arrays = bind(self._model.input_names, inputs, named)
        if not self._model.batched:
            return [array[None] for array in arrays], 1, ()
        rows = check_rows(arrays, self._model.manifest.entries[0])
        if not rows:
            raise InputError("a request must have at least one row")
        return arrays, rows, ()

    def run(self, size: int, parts: Sequence[Part], variant: str | int = 0) -> Answers:
        name = _name(variant)
        if not self._model.batched:
            (part,) = parts
            outputs = self._model.run([array[0] for array in part.arrays], name)
            return [(parts, tuple(map(_boxed, outputs)))]
        calls = self._calls(size, count_rows(parts))
        groups = divide(parts, [count for _, count in calls]) if len(calls) > 1 else [parts]
        return [
            (group, self._model.run_batch(batch, self._packer.pack(group, batch), name))
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

    def work(self, size: int, variant: str | int = 0) -> Work | None:
        if not self._model.batched:
            return self._model.manifest.entries[0].work
        return sum((self._model.work(batch, _name(variant)) for batch, _ in self._calls(size, size)), NO_WORK)


def _boxed(value: object) -> _Array:
    """An array that holds the one value, of any form."""
    box = np.empty(1, object)
    box[0] = value
    return box


def _prediction(budgets: Sequence[Budget]) -> Prediction | None:
    """Of calls one after the other; None where time or energy of one is not known."""
    times = [budget.time_s for budget in budgets if budget.time_s and budget.energy_j]
    joules = [budget.energy_j for budget in budgets if budget.time_s and budget.energy_j]
    if not times or len(times) < len(budgets):
        return None
    return Prediction(sum(times), sum(joules) / sum(times))


def _name(variant: str | int) -> str | None:
    """A policy's variant as the model knows it."""
    return variant if isinstance(variant, str) else None


class CallableRunner:
    """Any callable that maps a batch to a batch."""

    threads: int | None = None
    predictions: Predictions | None = None
    variants: tuple[str | int, ...] = (0,)

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
        self.uncapped = Configuration(self.sizes[-1])

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

    def run(self, size: int, parts: Sequence[Part], variant: str | int = 0) -> Answers:
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

    def work(self, size: int, variant: str | int = 0) -> Work | None:
        return None if self._work is None else self._work(size)
