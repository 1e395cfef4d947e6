"""Locks by name among the processes that share a database; a process that dies holds none.

They belong to the operating system or to the server, not to the tables: what releases them is the end of the process
or of its connection. So there is no clock that two machines would have to agree on, no heartbeat, and nothing that a
killed process leaves behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

_SETTINGS = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
"""A server finds out within a minute that the machine at the other end is gone."""
_NUMBER = "hashtextextended(current_schema() || ' joulec ' || :name, 0)"


class Locks(Protocol):
    """The locks of one store; threads may share it."""

    def try_lock(self, name: str) -> bool:
        """Take a lock if it is free; False where anybody holds it, this store too."""

    def unlock(self, name: str) -> None:
        """Give it back, if this store holds it."""

    def close(self) -> None:
        """Give all back."""


class FileLocks:
    """Locks of processes on one machine: a locked file for each in a folder beside the database, gone when released.

    They belong to the open file, so that two stores in one process exclude each other too.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare; the folder is made when the first lock is taken."""
        self._folder = folder
        self._held: dict[str, tuple[int, Path]] = {}
        self._guard = threading.Lock()

    def try_lock(self, name: str) -> bool:
        """See `Locks.try_lock`.

        Raises:
            OSError: the folder cannot be made or written.
        """
        with self._guard:
            if name in self._held:
                return False
            self._folder.mkdir(exist_ok=True)
            path = self._folder / hashlib.sha256(name.encode()).hexdigest()[:32]
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return False
                if _is(descriptor, path):
                    self._held[name] = (descriptor, path)
                    return True
                os.close(descriptor)  # its last holder has just removed it: the name belongs to a new file

    def unlock(self, name: str) -> None:
        """See `Locks.unlock`."""
        with self._guard:
            if name in self._held:
                _release(*self._held.pop(name))

    def close(self) -> None:
        """See `Locks.close`."""
        with self._guard:
            while self._held:
                _release(*self._held.popitem()[1])


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file still bears its name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)


def _release(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


class ServerLocks:
    """Advisory locks of a PostgreSQL session, on a connection of their own.

    A server that restarts forgets them. The next call connects anew and takes again what is still free; until then
    another process may take the same lock.
    """

    def __init__(self, engine: Engine) -> None:
        """Prepare; connects when the first lock is taken."""
        self._engine = engine
        self._connection: Connection | None = None
        self._held: set[str] = set()
        self._guard = threading.Lock()

    def try_lock(self, name: str) -> bool:
        """See `Locks.try_lock`.

        Raises:
            SQLAlchemyError: the server cannot be reached.
        """
        with self._guard:
            taken = self._asked(lambda connection: name not in self._held and _take(connection, name))
            if taken:
                self._held.add(name)
            return taken

    def unlock(self, name: str) -> None:
        """See `Locks.unlock`.

        Raises:
            SQLAlchemyError: the connection is lost, and the lock with it.
        """
        with self._guard:
            if name in self._held:
                self._held.discard(name)
                self._asked(lambda connection: _give_back(connection, name))

    def close(self) -> None:
        """See `Locks.close`."""
        with self._guard:
            if self._held and self._connection is not None:
                with suppress(SQLAlchemyError):  # a server that is gone holds none
                    self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
            self._held.clear()
            self._drop()

    def _asked(self, ask: Callable[[Connection], bool]) -> bool:
        """Ask on the connection of the locks; one that failed is dropped, so that the next call makes another."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                self._connection.execute(text(_SETTINGS))
                self._held = {name for name in self._held if _take(self._connection, name)}
            return ask(self._connection)
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """End the session on the server; returned to the pool, it would keep its locks."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _take(connection: Connection, name: str) -> bool:
    return bool(connection.execute(text(f"SELECT pg_try_advisory_lock({_NUMBER})"), {"name": name}).scalar())


def _give_back(connection: Connection, name: str) -> bool:
    return bool(connection.execute(text(f"SELECT pg_advisory_unlock({_NUMBER})"), {"name": name}).scalar())
