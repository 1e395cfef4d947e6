"""Requests of any number of rows, and the batches that they are cut and joined into."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

Outputs = tuple[_Array, ...]

_IDLE_S = 0.5


@dataclass(eq=False)
class Request:
    """Rows that one caller wants computed. Only the queue and the worker touch it.

    Attributes:
        arrays: its inputs; all have ``rows`` rows.
        rows: how many.
        future: receives what ``finish`` makes of the outputs.
        arrived_s: on the queue's clock.
        taken: rows that are in a batch or computed.
        pieces: outputs of the batches that held its rows, in order.
    """

    arrays: list[_Array]
    rows: int
    future: Future[Any]
    finish: Callable[[Outputs], Any]
    arrived_s: float
    taken: int = 0
    done: int = 0
    pieces: list[Outputs] = field(default_factory=list)

    @property
    def signature(self) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
        """What must agree for two requests to share a batch."""
        return tuple((array.shape[1:], array.dtype) for array in self.arrays)

    def deliver(self, outputs: Outputs, count: int) -> None:
        """Take the outputs of its next ``count`` rows; the last ones complete the future."""
        if self.future.done():  # failed meanwhile
            return
        self.pieces.append(outputs)
        self.done += count
        if self.done < self.rows:
            return
        whole = outputs if len(self.pieces) == 1 else tuple(map(np.concatenate, zip(*self.pieces, strict=True)))
        self.pieces = []
        self.future.set_result(self.finish(whole))

    def fail(self, error: BaseException) -> None:
        """Complete the future with an error; its other rows are of no use any more."""
        self.taken = self.done = self.rows
        self.pieces = []
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``start + count`` of a request, in a batch."""

    request: Request
    start: int
    count: int

    @property
    def arrays(self) -> list[_Array]:
        """Its rows of each input."""
        return [array[self.start : self.start + self.count] for array in self.request.arrays]


class QueueClosed(RuntimeError):
    """The queue takes no more requests."""


class RequestQueue:
    """Requests in order of arrival. Many threads put, one takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready = threading.Condition()
        self._requests: deque[Request] = deque()
        self._rows = 0
        self._closed = False

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def put(self, arrays: list[_Array], rows: int, finish: Callable[[Outputs], Any]) -> Future[Any]:
        """Queue a request.

        Raises:
            QueueClosed: the queue is closed.
        """
        future: Future[Any] = Future()
        with self._ready:
            if self._closed:
                raise QueueClosed("the session is closed")
            self._requests.append(Request(arrays, rows, future, finish, self._clock()))
            self._rows += rows
            self._ready.notify()
        return future

    def take(self, size: int, sizes: Sequence[int], max_wait_s: float, idle: Callable[[], None]) -> list[Part]:
        """The rows of the next batch, in order: as many as the size, or, where the oldest has waited its time, the
        largest of the sizes that the rows at hand fill (all of them where they fill none).

        Args:
            size: the batch size wanted.
            sizes: all that can be run, ascending.
            max_wait_s: how long the oldest request may wait for others to fill the batch.
            idle: called before waiting, and every half second while nothing comes.

        Returns:
            Parts that may share a batch; empty once the queue is closed and drained.
        """
        with self._ready:
            while True:
                self._drop_cancelled()
                rows = self._joinable(size)
                if not rows:
                    if self._closed:
                        return []
                    idle()
                    self._ready.wait(_IDLE_S)
                    continue
                waited_s = self._clock() - self._requests[0].arrived_s
                full = rows >= size or rows < self._rows  # the rows behind do not fit into the same batch
                if full or self._closed or waited_s >= max_wait_s or self._requests[0].taken:
                    return self._cut(min(rows, max((s for s in sizes if s <= rows), default=rows)))
                idle()
                self._ready.wait(max_wait_s - waited_s)

    def _drop_cancelled(self) -> None:
        """Leave out cancelled requests at the front; those further back are met when they get there."""
        while self._requests and not self._requests[0].taken and self._requests[0].future.cancelled():
            self._rows -= self._requests.popleft().rows

    def _joinable(self, most: int) -> int:
        """Rows at the front, up to a number, that may share a batch."""
        rows = 0
        for request in self._requests:
            if rows >= most or request.signature != self._requests[0].signature:
                break
            rows += request.rows - request.taken
        return min(rows, most)

    def _cut(self, rows: int) -> list[Part]:
        parts: list[Part] = []
        while rows and self._requests:
            request = self._requests[0]
            if parts and request.signature != parts[0].request.signature:
                break
            if not request.taken and not request.future.set_running_or_notify_cancel():
                self._rows -= request.rows
                self._requests.popleft()
                continue
            count = min(rows, request.rows - request.taken)
            parts.append(Part(request, request.taken, count))
            request.taken += count
            rows -= count
            self._rows -= count
            if request.taken == request.rows:
                self._requests.popleft()
        return parts

    def discard(self, request: Request) -> None:
        """Forget the rows of a failed request that still wait."""
        with self._ready:
            if request in self._requests:
                self._requests.remove(request)
                self._rows -= request.rows - request.taken

    def close(self, abort: BaseException | None = None) -> None:
        """Take no more requests; with an error, fail those that wait."""
        with self._ready:
            self._closed = True
            if abort is not None:
                for request in self._requests:
                    if request.future.running() or request.future.set_running_or_notify_cancel():
                        request.fail(abort)
                self._requests.clear()
                self._rows = 0
            self._ready.notify_all()
