"""An interrupt ends the command within a second, even while a compiler's call keeps the interpreter from noticing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from joulec.errors import INTERRUPTED

GRACE_S = 0.7
MESSAGE = "joulec: error: interrupted; what was measured is kept"

_told = threading.Event()


def said() -> None:
    """The command has told of the interrupt itself."""
    _told.set()


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """An interrupt within ends the process after `GRACE_S` at the latest. Enter on the main thread.

    Each outcome is in the database the moment it is known, and workers end with this process, so nothing is lost.
    """
    _told.clear()
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_fd,), name="joulec-interrupt", daemon=True).start()
    try:
        yield
    finally:
        if not _told.is_set():  # else what is left of the process has its time, too
            signal.set_wakeup_fd(before)
            os.close(write_fd)


def _watch(read_fd: int) -> None:
    """Watch until an interrupt comes or the other end is closed."""
    while signals := os.read(read_fd, 64):
        if signal.SIGINT in signals:
            time.sleep(GRACE_S)
            if not _told.is_set():
                os.write(2, f"{MESSAGE}\n".encode())
            os._exit(INTERRUPTED)
    os.close(read_fd)
