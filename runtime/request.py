"""Requests of any number of rows, and the parts of them that a batch holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

Outputs = tuple[_Array, ...]
Signature = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


def signature_of(arrays: Sequence[_Array]) -> Signature:
    """What must agree for requests to share a batch: shapes of rows, and dtypes."""
    return tuple((array.shape[1:], array.dtype) for array in arrays)


@dataclass(eq=False)
class Request:
    """Rows that one caller wants computed. The queue and the worker touch it, under the queue's lock where both may.

    Attributes:
        arrays: its inputs; all have ``rows`` rows.
        rows: how many.
        finish: makes the caller's result of the outputs.
        arrived_s: on the queue's clock.
        deadline_s: on the same clock: when its first row must have begun at the latest; None for no deadline.
        signature: what must agree for two requests to share a batch; given where the executor takes one kind only.
        future: receives what ``finish`` makes.
        taken: rows that are in a batch or computed.
        queued: whether it stands in the queue.
        done: rows that are computed.
        pieces: outputs of the batches that held its rows, in order.
        answered: whether its outputs were delivered.
        error: what it failed with; None where it did not.
    """

    arrays: list[_Array]
    rows: int
    finish: Callable[[Outputs], Any]
    arrived_s: float = 0.0
    deadline_s: float | None = None
    signature: Signature = ()
    future: Future[Any] = field(default_factory=Future)
    taken: int = 0
    queued: bool = False
    done: int = 0
    pieces: list[Outputs] = field(default_factory=list)
    answered: bool = False
    error: BaseException | None = None

    def deliver(self, outputs: Outputs, count: int) -> None:
        """Take the outputs of its next ``count`` rows; the last ones complete the future."""
        if self.error is not None:  # failed meanwhile
            return
        self.done += count
        if self.done < self.rows or self.pieces:
            self.pieces.append(outputs)
            if self.done < self.rows:
                return
            outputs = tuple(map(np.concatenate, zip(*self.pieces, strict=True)))
            self.pieces = []
        self.answered = True
        try:
            self.future.set_result(self.finish(outputs))
        except InvalidStateError:  # the session was aborted at this moment
            self.answered = False

    def fail(self, error: BaseException) -> None:
        """Complete the future with an error; its other rows are of no use any more."""
        self.pieces = []
        if self.error is None:
            self.error = error
        try:
            self.future.set_exception(error)
        except InvalidStateError:  # it was completed or cancelled meanwhile
            return


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``start + count`` of a request, in a batch."""

    request: Request
    start: int
    count: int

    @property
    def arrays(self) -> list[_Array]:
        """Its rows of each input, as views."""
        if self.count == self.request.rows:
            return self.request.arrays
        return [array[self.start : self.start + self.count] for array in self.request.arrays]


def count_rows(parts: Sequence[Part]) -> int:
    """Rows of all parts."""
    return sum(part.count for part in parts)


def divide(parts: Sequence[Part], counts: Sequence[int]) -> list[list[Part]]:
    """The same rows in groups of the counts, which sum to theirs."""
    left = list(reversed(parts))
    groups: list[list[Part]] = []
    for count in counts:
        group: list[Part] = []
        while count:
            part = left.pop()
            taken = min(count, part.count)
            group.append(Part(part.request, part.start, taken))
            if taken < part.count:
                left.append(Part(part.request, part.start + taken, part.count - taken))
            count -= taken
        groups.append(group)
    return groups
