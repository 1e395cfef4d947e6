"""Database errors in the user's words: what is wrong, which database, what to do."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from joulec.costdb.store import CostStoreError, FileLostError

_BROKEN = "move the file away to begin a new one, or put a copy back in its place"
_UNWRITABLE = "check that the folder exists and that you may write to it and to the file, or give another with --costs"
_SQLITE = {
    sqlite3.SQLITE_NOTADB: ("is not a cost database", "give another file with --costs, or move this one away"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _BROKEN),
    sqlite3.SQLITE_BUSY: ("was held by another process for too long", "try again when that one is done"),
    sqlite3.SQLITE_LOCKED: ("was held by another process for too long", "try again when that one is done"),
    sqlite3.SQLITE_READONLY: ("may not be written", _UNWRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _UNWRITABLE),
    sqlite3.SQLITE_PERM: ("may not be opened", _UNWRITABLE),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "free some space"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk reports an error", "check the disk and its free space"),
}
_LOST = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_SQLSTATE_CLASS = {
    "08": ("lost its connection", "check that the server is up"),
    "25": ("refuses to write", "give the URL of a primary server, not of a read-only copy"),
    "28": ("refused the user", "check the user and the password in the URL"),
    "3D": ("does not exist", "create it with createdb, or correct the URL"),
    "40": ("was held by another process at the same time", "try again"),
    "42": ("refused the query", "check that the user may create tables (GRANT CREATE ON SCHEMA) and use joulec's own"),
    "53": ("is out of disk, memory or connections", "free some on the server"),
    "57": ("was shut down", "start the server and try again"),
}


def translated(error: Exception, where: str) -> CostStoreError:
    """The error to raise for one that a database driver, or SQLAlchemy, has raised.

    Args:
        error: what went wrong.
        where: the database in the user's words: its path, or its URL without the password.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    sqlite_code = getattr(cause, "sqlite_errorcode", None)
    if sqlite_code is None and isinstance(cause, sqlite3.DatabaseError) and "malformed" in said:
        sqlite_code = sqlite3.SQLITE_CORRUPT
    state = getattr(cause, "sqlstate", None)
    if sqlite_code is not None and (sqlite_code & 0xFF) in _SQLITE:
        wrong, remedy = _SQLITE[sqlite_code & 0xFF]
    elif state is not None and state[:2] in _SQLSTATE_CLASS:
        wrong, remedy = _SQLSTATE_CLASS[state[:2]]
    elif isinstance(cause, ValueError):
        wrong, remedy = "holds a row that cannot be read", "restore a copy of the database, or delete that row"
    elif isinstance(cause, OSError):
        wrong, remedy = "cannot be used", "check the folder, the disk and its free space"
    elif isinstance(cause, sqlite3.Error):
        wrong, remedy = "cannot be used", _BROKEN
    else:
        wrong, remedy = "cannot be used", "check the URL, and that the server is up and lets you in"
    kind = FileLostError if sqlite_code is not None and sqlite_code & 0xFF in _LOST else CostStoreError
    return kind(f"cost database {where} {wrong} ({said}); {remedy}")
