"""The schema of a cost database: made and upgraded by migrations when it is opened."""

from __future__ import annotations

import logging
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from joulec.costdb.engine import BUSY_TIMEOUT_S, WRITING, use_write_ahead_log
from joulec.costdb.errors import translated
from joulec.costdb.store import CostStoreError

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "joulec_schema"
_ADVISORY_LOCK = 0x6A6F756C  # "joul": PostgreSQL's name for the lock that one migrating process holds
_migrating = threading.Lock()  # Alembic's context is one per process
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What opening a database did to its schema.

    Attributes:
        schema_version: the schema's number now, e.g. ``0002``.
        before: the number before; None for a database that was made just now.
        backup: the copy of the SQLite file as it was before an upgrade; None where there was none to make.
    """

    schema_version: str
    before: str | None
    backup: Path | None = None


def prepare(engine: Engine, where: str, path: Path | None, migrations: Path = MIGRATIONS) -> Prepared:
    """Bring a database to the schema of this joulec: create it, upgrade it, or find it as it should be.

    Several processes may do so at once; one works and the others wait. An upgrade is one transaction. A SQLite file is
    copied beside itself before it is upgraded; a server's database is its administrator's to back up.

    Args:
        engine: connections to the database.
        where: the database in the user's words.
        path: the SQLite file, None for a server.
        migrations: the folder of the migrations.

    Raises:
        CostStoreError: it is a later joulec's or another program's, or it cannot be read, written or copied.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    if head is None:
        raise CostStoreError(f"the migrations of the cost database are missing from {migrations}; reinstall joulec")
    known = {script.revision for script in scripts.walk_revisions()}
    try:
        with engine.connect() as connection:
            if _revision(connection, where, known) == head:
                return Prepared(_number(head), _number(head))
        if path is not None:
            use_write_ahead_log(engine)
        with _migrating, engine.connect().execution_options(**WRITING) as connection, connection.begin():
            return _migrate(connection, where, path, config, known)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise translated(error, where) from error
    except CommandError as error:
        raise CostStoreError(f"cost database {where} cannot be upgraded: {error}") from error


def _revision(connection: Connection, where: str, known: set[str]) -> str | None:
    """The database's revision, None for an empty one; raises where joulec must not touch it."""
    revision = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if revision in known:
        return revision
    if revision is not None:
        number, _, joulec = revision.partition("_")
        needed = f"joulec>={joulec}" if joulec else "joulec"
        raise CostStoreError(
            f"cost database {where} was made by a later joulec (schema {number}); "
            f"install it (pip install --upgrade '{needed}'), or give another database with --costs"
        )
    if connection.dialect.name == "sqlite" and inspect(connection).get_table_names():
        raise CostStoreError(f"{where} is another program's database and is left alone; give another file with --costs")
    return None


def _migrate(connection: Connection, where: str, path: Path | None, config: Config, known: set[str]) -> Prepared:
    """Upgrade within the open transaction, unless another process has done so meanwhile."""
    if path is None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    before = _revision(connection, where, known)
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    copy = None
    if before is not None and path is not None and before != head:
        copy = _copy_beside(path, _number(before))
        _log.warning("cost database %s is upgraded from schema %s; a copy is kept in %s", where, _number(before), copy)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return Prepared(_number(head), None if before is None else _number(before), copy)


def _copy_beside(path: Path, number: str) -> Path:
    """Copy a SQLite file, its write-ahead log included, to a name that is free."""
    copy = path.with_name(f"{path.name}.schema-{number}.bak")
    count = 1
    while copy.exists():
        count += 1
        copy = path.with_name(f"{path.name}.schema-{number}.{count}.bak")
    source = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
    target = sqlite3.connect(copy)
    try:
        source.backup(target)
    except sqlite3.Error:
        target.close()
        copy.unlink(missing_ok=True)
        raise
    finally:
        source.close()
        target.close()
    return copy


def _number(revision: str) -> str:
    return revision.partition("_")[0]
