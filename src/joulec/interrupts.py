"""An interrupt ends the command within a second, even while a compiler's call keeps the interpreter from noticing."""

from __future__ import annotations

import os
import signal
import threading
import time

from joulec.errors import INTERRUPTED

GRACE_S = 0.7
MESSAGE = "joulec: error: interrupted; what was measured is kept"

_told = threading.Event()


def said() -> None:
    """The command has told of the interrupt itself."""
    _told.set()


def end_on_interrupt() -> None:
    """From now on an interrupt ends the process after `GRACE_S` at the latest. Call on the main thread, once.

    Each outcome is in the database the moment it is known, and workers end with this process, so nothing is lost.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_fd,), name="joulec-interrupt", daemon=True).start()


def _watch(read_fd: int) -> None:
    while True:
        if signal.SIGINT not in os.read(read_fd, 64):
            continue
        time.sleep(GRACE_S)
        if not _told.is_set():
            os.write(2, f"{MESSAGE}\n".encode())
        os._exit(INTERRUPTED)
