"""Connections to SQLite and PostgreSQL, each set up for several processes that write at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for another process's transaction."""
CACHE_KIB = 64 << 10
"""How much of a SQLite file a connection keeps at most. The file is not mapped: one cut short would end the process."""
CONNECT_TIMEOUT_S = 10
"""How long a PostgreSQL server may take to answer."""
WRITING = {"joulec_begin": "BEGIN IMMEDIATE"}
"""Execution options of a transaction that writes: SQLite takes the write lock first, so that it waits its turn."""


def sqlite_engine(path: Path) -> Engine:
    """Connections to a SQLite file; opens nothing yet.

    Transactions are begun here and not by the driver, which would begin them late and as readers: a reader that turns
    writer fails at once where another process has written meanwhile.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # With a write-ahead log, a commit is in the kernel's hands when it returns: it outlives the process.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("joulec_begin", "BEGIN"))

    return engine


def postgres_engine(url: URL) -> Engine:
    """Connections to a PostgreSQL server; opens nothing yet. A connection that the server dropped is replaced."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("SET jit = off")  # a look-up of many keys takes less time than compiling its query
        cursor.close()
        connection.commit()

    return engine


def use_write_ahead_log(engine: Engine) -> None:
    """Switch a SQLite file to a write-ahead log, once for all: readers and the writer no longer wait for each other.

    The switch needs the file for itself and SQLite does not wait for that, so this does. Where the file system cannot
    share memory between processes the file keeps its rollback journal, which is slower and as safe.

    Raises:
        OperationalError: the file stayed busy, or may not be written.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    raw = engine.raw_connection()
    try:
        while True:
            try:
                cursor = raw.cursor()
                cursor.execute("PRAGMA journal_mode = WAL")
                cursor.close()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise OperationalError("PRAGMA journal_mode", None, error) from error
                time.sleep(0.02)
    finally:
        raw.close()
