"""Where calls are made: on one thread that they are handed to, or on whichever thread makes them.

A thread never keeps the process alive, not even where a call hangs for ever.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_AT_EXIT_S = 1.0


class CallHangs(TimeoutError):
    """A call has not come back in time. It goes on, on its thread; what it gives is dropped."""


class _Call:
    """A call that is to be made, and what came of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class CallThread:
    """Makes calls one after another on a thread of its own.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True)
        self._thread.start()
        _threads.add(self)

    def call(self, work: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Make a call there and wait for it.

        Raises:
            CallHangs: it has not come back in time.
            RuntimeError: the thread was stopped.
            Exception: what the call raised.
        """
        if self._stopped:
            raise RuntimeError("the thread that makes the calls was stopped")
        call = _Call(work)
        self._calls.put(call)
        if not call.done.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise CallHangs(f"no answer for {timeout_s:.3g} s")
        if call.error is not None:
            raise call.error
        return cast(_T, call.result)

    def __del__(self) -> None:
        self._calls.put(None)

    def stop(self, timeout_s: float | None = None) -> bool:
        """End the thread after the calls that were handed to it; whether it has ended. Idempotent."""
        self._stopped = True
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class CallHere:
    """Makes calls on the thread that asks for them, one after another. Otherwise like `CallThread`.

    Handing a call to a thread and waiting for it takes tens of microseconds.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._late: deque[Callable[[], object]] = deque()
        self._stopped = False

    def call(self, work: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Make a call once those of other threads are done.

        Raises:
            CallHangs: the turn has not come in time. The call is made once it has.
            RuntimeError: calls were stopped.
            Exception: what the call raised.
        """
        if self._stopped:
            raise RuntimeError("no more calls are made here")
        if not self._turn.acquire(timeout=-1 if timeout_s is None else timeout_s):
            self._late.append(work)
            self._make_late()
            raise CallHangs(f"no turn for {timeout_s:.3g} s")
        try:
            return work()
        finally:
            self._turn.release()
            self._make_late()

    def _make_late(self) -> None:
        """Make the calls that were given up waiting for, unless another one is under way: it will."""
        while self._late and self._turn.acquire(blocking=False):
            try:
                self._late.popleft()()
            finally:
                self._turn.release()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Make no more calls; whether none is under way. Idempotent."""
        self._stopped = True
        free = self._turn.acquire(timeout=-1 if timeout_s is None else timeout_s)
        if free:
            self._turn.release()
        return free


def _serve(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call.result = call.work()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever called
            call.error = error
        call.done.release()
        del call  # what it gave must not live on here until the next call


_threads: weakref.WeakSet[CallThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Idle threads end before the interpreter does; one that hangs is left behind."""
    for thread in list(_threads):
        thread.stop(_AT_EXIT_S)
