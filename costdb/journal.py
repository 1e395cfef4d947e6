"""What was measured and could not be stored: kept on this machine until ``joulec db merge`` brings it in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from joulec.costdb.cost import Measurement
from joulec.costdb.exchange import line_of, read

FOLDER = "journals"
"""Beside the user's own cost database."""


@dataclass(frozen=True)
class Journal:
    """A file of JSON Lines that grows at its end; several processes may write one.

    Attributes:
        path: the file; made with its folder when the first measurement comes.
        database: how to name the database on a command line, without any password.
    """

    path: Path
    database: str

    @staticmethod
    def of(database: str, home: Path) -> Journal:
        """The journal of a database on this machine: always the same for the same one.

        Args:
            database: its path or URL, without any password.
            home: the user's data directory for joulec.
        """
        return Journal(home / FOLDER / f"{hashlib.sha256(database.encode()).hexdigest()[:16]}.jsonl", database)

    def keep(self, measurements: Sequence[Measurement]) -> None:
        """Append measurements, each in one piece and on the disk when this returns.

        Raises:
            OSError: they cannot be written; nothing of them is.
        """
        lines = "".join(map(line_of, measurements)).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._locked(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            _write_all(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @property
    def merging(self) -> str:
        """The command that brings it in."""
        return f"joulec db merge {shlex.quote(str(self.path))} --costs {shlex.quote(self.database)}"

    @contextmanager
    def taken(self) -> Iterator[Iterator[Measurement]]:
        """What is in the journal; it is removed at the end, unless something goes wrong. Writers wait meanwhile.

        Raises:
            CostStoreError: the journal is damaged; a last line that was cut off is only left out.
        """
        try:
            descriptor = self._locked(os.O_RDONLY)
        except FileNotFoundError:
            yield iter(())
            return
        try:
            yield read(self.path, on_cut_off=lambda: None)
            self.path.unlink()
        finally:
            os.close(descriptor)

    def _locked(self, flags: int) -> int:
        """The open file, locked; its last holder may have removed it while it was waited for."""
        while True:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                return descriptor
            os.close(descriptor)


def _write_all(descriptor: int, text: bytes) -> None:
    """Write it all, or, where the disk is full, nothing."""
    before = os.fstat(descriptor).st_size
    try:
        while text:
            text = text[os.write(descriptor, text) :]
    except OSError:
        os.ftruncate(descriptor, before)
        raise
