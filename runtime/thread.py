"""One thread that calls are handed to. It never keeps the process alive, not even where a call hangs for ever."""

from __future__ import annotations

import atexit
import threading
import weakref
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
