"""Opens the cost database that the user names."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import platformdirs
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from joulec.costdb.engine import postgres_engine, sqlite_engine
from joulec.costdb.journal import Journal
from joulec.costdb.memory import MemoryStore
from joulec.costdb.retry import Retry
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStore, CostStoreError

URL_VARIABLE = "JOULEC_COSTS"
"""Environment variable that names the database where none is given; the same forms as `open_store` takes."""
PATIENCE_VARIABLE = "JOULEC_COSTS_PATIENCE_S"
"""Environment variable: for how many seconds a server that restarts is waited for, where not for 30."""
_FORMS = "a path, sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory:"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: C:\costs.db is a path
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def default_path() -> Path:
    """Where costs are kept when nobody says otherwise: ``costs.db`` in the user's data directory for joulec."""
    return Path(platformdirs.user_data_dir("joulec", appauthor=False)) / "costs.db"


def data_directory() -> Path:
    """Where joulec keeps what belongs to the user: the default cost database and journals of others."""
    return default_path().parent


def open_store(url: str | None = None) -> CostStore:
    """Open a cost database, creating or upgrading it where that is needed.

    What it does not take later is kept in a journal in the user's data directory (`joulec.costdb.journal`).

    Args:
        url: a path or ``sqlite:///PATH`` (SQLite), ``postgresql://USER@HOST/DATABASE`` (PostgreSQL) or ``memory:``
            (gone with the process). None: the environment variable ``JOULEC_COSTS``, else `default_path`.

    Returns:
        The store; close it, or use it as a context.

    Raises:
        CostStoreError: not one of these forms, or the database cannot be opened.
    """
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        path = default_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CostStoreError(
                f"cannot make the folder {path.parent} for the cost database ({error.strerror}); "
                f"name another with --costs or {URL_VARIABLE}"
            ) from error
        return _open_sqlite(path)
    if url == "memory:":
        return MemoryStore()
    scheme = _SCHEME.match(url)
    if scheme is None:
        return _open_sqlite(Path(url).expanduser())
    if scheme[1] in _POSTGRES:
        return _open_postgres(_parsed(url))
    if scheme[1] == "sqlite":
        return _open_sqlite(_sqlite_path(url))
    raise CostStoreError(f"{scheme[0]} is not a kind of cost database that joulec knows; give {_FORMS}")


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise CostStoreError(f"the URL of the cost database cannot be read; give {_FORMS}") from error


def _sqlite_path(url: str) -> Path:
    parsed = _parsed(url)
    if parsed.query or parsed.host:
        raise CostStoreError(f"{url} has more than a path; give sqlite:///PATH (four slashes for an absolute one)")
    if parsed.database in (None, "", ":memory:"):
        raise CostStoreError(f"{url} names no file; give sqlite:///PATH, or memory: for a store that is not kept")
    return Path(parsed.database).expanduser()


def _open_sqlite(path: Path) -> CostStore:
    path = path.absolute()
    if path.is_dir():
        raise CostStoreError(f"{path} is a folder; give a file in it, e.g. {path / 'costs.db'}")
    if not path.parent.is_dir():
        raise CostStoreError(f"the folder {path.parent} of the cost database does not exist; create it first")
    for place in (path, path.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise CostStoreError(
                f"the cost database {path} cannot be kept there: {place} may not be written; "
                "get the permission, or give another with --costs"
            )
    return SqlStore(sqlite_engine(path), path, journal=Journal.of(str(path), data_directory()))


def _open_postgres(url: URL) -> CostStore:
    try:
        engine = postgres_engine(url)
    except ImportError as error:
        raise CostStoreError(
            f"a PostgreSQL cost database needs the driver psycopg ({error}); pip install 'joulec[postgres]'"
        ) from error
    named = url.set(drivername="postgresql").render_as_string(hide_password=True)
    return SqlStore(engine, retry=_retry(), journal=Journal.of(named, data_directory()))


def _retry() -> Retry:
    given = os.environ.get(PATIENCE_VARIABLE)
    if not given:
        return Retry()
    try:
        patience_s = float(given)
    except ValueError:
        patience_s = -1.0
    if not 0.0 <= patience_s < math.inf:
        raise CostStoreError(f"{PATIENCE_VARIABLE} is {given!r}; give a number of seconds")
    return Retry(patience_s=patience_s)
