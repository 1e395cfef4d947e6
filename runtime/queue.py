"""The queue: requests in order of arrival, and the batches that they are cut and joined into."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from joulec.runtime.request import Part, Request

_IDLE_S = 0.5
_SPARE = 0.1

WhenFull = Literal["wait", "reject"]


class QueueClosed(RuntimeError):
    """The queue takes no more requests."""


class QueueFull(RuntimeError):
    """The queue is full and was told to reject."""


class DeadlineExceeded(TimeoutError):
    """A request's deadline came before its first row began."""


@dataclass(frozen=True)
class Outcomes:
    """How requests ended: counts."""

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    rejected: int = 0


class RequestQueue:
    """Requests in order of arrival. Many threads put, one takes.

    Args:
        limit_rows: rows that may wait; None for any number. A request of more rows is taken once the queue is empty.
        when_full: whether `put` waits for room or rejects.
        clock: monotonic seconds.
        on_answer: told of each answered request's seconds from arrival to answer.
    """

    def __init__(
        self,
        limit_rows: int | None = None,
        when_full: WhenFull = "wait",
        *,
        clock: Callable[[], float] = time.monotonic,
        on_answer: Callable[[float], None] | None = None,
    ) -> None:
        self._limit_rows = math.inf if limit_rows is None else limit_rows
        self._when_full = when_full
        self._clock = clock
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._requests: deque[Request] = deque()
        self._deadlines: list[tuple[float, int, Request]] = []
        self._waiting: deque[Request] = deque()
        self._number = itertools.count()
        self._rows = 0
        self._changes = 0
        self._closed = False
        self._counts = dict.fromkeys(Outcomes.__dataclass_fields__, 0)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def outcomes(self) -> Outcomes:
        """How requests ended so far."""
        with self._lock:
            return Outcomes(**self._counts)

    def put(self, request: Request) -> Future[Any]:
        """Queue a request, waiting for room where the queue is full and was told to wait.

        Returns:
            The request's future. It raises DeadlineExceeded where the deadline came before the first row began.

        Raises:
            QueueClosed: the queue is closed.
            QueueFull: the queue is full and was told to reject.
        """
        request.arrived_s = self._clock()
        with self._lock:
            late = not self._wait_for_room(request)
            if not late:
                self._enter(request)
        request.future.add_done_callback(lambda future: self._ended(request))
        if late:
            request.fail(_late(request))
        return request.future

    def _wait_for_room(self, request: Request) -> bool:
        """Wait until the request may enter; False where its deadline came first."""
        if self._closed:
            raise QueueClosed("the session is closed")
        if self._fits(request):
            return True
        if self._when_full == "reject":
            self._counts["rejected"] += 1
            raise QueueFull(f"{self._rows} rows wait and {self._limit_rows} may; {request.rows} more do not fit")
        self._waiting.append(request)
        try:
            while not self._fits(request):
                left_s = None if request.deadline_s is None else request.deadline_s - self._clock()
                if left_s is not None and left_s <= 0:
                    return False
                self._room.wait(left_s)
                if self._closed:
                    raise QueueClosed("the session was closed while the request waited for room in the queue")
        finally:
            self._waiting.remove(request)
            self._room.notify_all()
        return True

    def _fits(self, request: Request) -> bool:
        first = not self._waiting or self._waiting[0] is request  # nobody overtakes one that waits for room
        return first and (not self._rows or self._rows + request.rows <= self._limit_rows)

    def _enter(self, request: Request) -> None:
        request.queued = True
        self._requests.append(request)
        self._rows += request.rows
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (request.deadline_s, next(self._number), request))
        self._changes += 1
        self._ready.notify()

    def _leave(self, request: Request) -> None:
        """Its rows that still wait are taken out."""
        request.queued = False
        self._requests.remove(request)
        self._free(request.rows - request.taken)

    def _free(self, rows: int) -> None:
        self._rows -= rows
        self._changes += 1
        if self._waiting:
            self._room.notify_all()

    def _ended(self, request: Request) -> None:
        """A future was completed or cancelled, in whatever thread."""
        outcome = "answered"
        if request.error is not None or not request.answered:
            future = request.future
            error = None if future.cancelled() else future.exception()
            outcome = "cancelled" if error is None else "expired" if isinstance(error, DeadlineExceeded) else "failed"
        with self._lock:
            self._counts[outcome] += 1
            if request.queued:
                self._leave(request)
        if outcome == "answered" and self._on_answer is not None:
            self._on_answer(self._clock() - request.arrived_s)

    def take(
        self,
        size: int,
        sizes: Sequence[int],
        max_wait_s: float,
        idle: Callable[[], None] = lambda: None,
        lead_s: float = 0.0,
    ) -> list[Part]:
        """The rows of the next batch, in order: as many as the size, or, where the oldest has waited its time, the
        largest of the sizes that the rows at hand fill (all of them where they fill none).

        Args:
            size: the batch size wanted.
            sizes: all that can be run, ascending.
            max_wait_s: how long the oldest request may wait for others to fill the batch.
            idle: called before waiting, and every half second while nothing comes.
            lead_s: how long before a deadline a batch begins that could still wait for others.

        Returns:
            Parts that may share a batch; empty once the queue is closed and drained.
        """
        while True:
            with self._lock:
                expired = self._expired()
                parts, wait_s = ([], 0.0) if expired else self._next(size, sizes, max_wait_s, lead_s)
                changes = self._changes
            for request in expired:
                request.fail(_late(request))
            if expired:
                continue
            if parts or not wait_s:
                return parts
            idle()
            with self._lock:
                if changes == self._changes and not self._closed:
                    self._ready.wait(wait_s)

    def fail_waiting(self, longer_than_s: float, error: BaseException) -> None:
        """Fail the requests that have waited for longer than so many seconds."""
        latest_s = self._clock() - longer_than_s
        with self._lock:
            waiting = [request for request in self._requests if request.arrived_s < latest_s]
        for request in waiting:
            request.fail(error)

    def _expired(self) -> list[Request]:
        """Requests whose deadline has come and of which nothing was begun."""
        late: list[Request] = []
        now_s = self._clock() if self._deadlines else 0.0
        while self._deadlines and (self._deadlines[0][0] <= now_s or not self._deadlines[0][2].queued):
            request = heapq.heappop(self._deadlines)[2]
            if request.queued and not request.taken:
                late.append(request)
        return late

    def _next(self, size: int, sizes: Sequence[int], max_wait_s: float, lead_s: float) -> tuple[list[Part], float]:
        """A batch; or none, and how long to wait, which is 0 where nothing comes any more."""
        rows = self._joinable(size)
        if not rows:
            return [], 0.0 if self._closed else _IDLE_S
        oldest = self._requests[0]
        latest_s = min(oldest.arrived_s + max_wait_s, self._latest_begin_s(lead_s))
        left_s = latest_s - self._clock()
        full = rows >= size or rows < self._rows  # the rows behind do not fit into the same batch
        if full or self._closed or left_s <= 0 or oldest.taken:
            parts = self._cut(min(rows, max((s for s in sizes if s <= rows), default=rows)))
            return parts, _IDLE_S  # where all had been cancelled: look again
        return [], left_s

    def _latest_begin_s(self, lead_s: float) -> float:
        """When a batch must begin so that the nearest deadline is kept, with a tenth of its time to spare."""
        if not self._deadlines:
            return math.inf
        deadline_s, _, request = self._deadlines[0]
        return deadline_s - max(lead_s, _SPARE * (deadline_s - request.arrived_s))

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
        freed = 0
        while rows and self._requests:
            request = self._requests[0]
            if parts and request.signature != parts[0].request.signature:
                break
            if not request.taken and not request.future.set_running_or_notify_cancel():  # its callback comes too late
                request.queued = False
                self._requests.popleft()
                freed += request.rows
                continue
            count = min(rows, request.rows - request.taken)
            parts.append(Part(request, request.taken, count))
            request.taken += count
            rows -= count
            freed += count
            if request.taken == request.rows:
                request.queued = False
                self._requests.popleft()
        self._free(freed)
        return parts

    def close(self, abort: BaseException | None = None) -> None:
        """Take no more requests; with an error, fail those that wait."""
        with self._lock:
            self._closed = True
            given_up = list(self._requests) if abort is not None else []
            self._ready.notify_all()
            self._room.notify_all()
        for request in given_up:
            assert abort is not None
            request.fail(abort)


def _late(request: Request) -> DeadlineExceeded:
    assert request.deadline_s is not None
    allowed_s = max(request.deadline_s - request.arrived_s, 0.0)
    return DeadlineExceeded(f"the request's deadline of {allowed_s:.3g} s came before its first row began")
