"""Whether the SQLite file that a store has open is still there and still itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path

HEADER = b"SQLite format 3\0"
"""How every SQLite file begins."""
_Inode = tuple[int, int]
_open: dict[_Inode, tuple[int, int]] = {}
"""Descriptor by inode, and how many watch it. Closing any descriptor of a file drops the locks that SQLite holds on it
in this process, so all who watch share one, which is closed when no store has the file open any more."""
_guard = threading.Lock()


class WatchedFile:
    """A SQLite file in use; SQLite itself reads on from what it has in memory, whatever becomes of the file."""

    def __init__(self, path: Path) -> None:
        """Begin to watch.

        Raises:
            OSError: the file cannot be read.
        """
        self._path = path
        with _guard:
            found = path.stat()
            self._inode: _Inode = found.st_dev, found.st_ino
            descriptor, watchers = _open.get(self._inode) or (os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0)
            _open[self._inode] = descriptor, watchers + 1
        self._descriptor = descriptor
        self._closed = False

    def trouble(self) -> str | None:
        """What became of the file, as the end of a sentence; None where it is as it should be."""
        try:
            found = self._path.stat()
        except OSError:
            return "was deleted or replaced while it was in use; start again to begin a new one"
        if (found.st_dev, found.st_ino) != self._inode:
            return "was deleted or replaced while it was in use; start again to begin a new one"
        if os.pread(self._descriptor, len(HEADER), 0) != HEADER:
            return "was overwritten while it was in use; move it away and start again to begin a new one"
        return None

    def close(self) -> None:
        """End watching, once this store has no connection to the file any more."""
        if self._closed:
            return
        self._closed = True
        with _guard:
            descriptor, watchers = _open.pop(self._inode)
            if watchers > 1:
                _open[self._inode] = descriptor, watchers - 1
            else:
                os.close(descriptor)
