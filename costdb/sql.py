"""The store in a SQL database: SQLite or PostgreSQL."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, Select, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.engine import WRITING
from joulec.costdb.errors import translated
from joulec.costdb.journal import Journal
from joulec.costdb.locks import FileLocks, Locks, ServerLocks
from joulec.costdb.merging import merge_rows
from joulec.costdb.models import CostRow, SupersededRow, measurement_of, outcome_of, values_of
from joulec.costdb.retry import Retry, passes
from joulec.costdb.schema import Prepared, prepare
from joulec.costdb.statements import lookup, replace
from joulec.costdb.store import (
    CostStore,
    CostStoreError,
    FileLostError,
    Merged,
    ServerLostError,
    StoreInfo,
    checked,
    settled,
)
from joulec.costdb.watched import WatchedFile

ROWS_PER_PAGE = 1000
_T = TypeVar("_T")


class SqlStore(CostStore):
    """Keeps measurements in one table of a SQL database; see `CostStore` for the contract.

    Attributes:
        name: the database in the user's words: its path, or its URL without the password.
        prepared: what opening did to the schema.
        path: the SQLite file, None for a server.
        journal: where measurements go that the database does not take; None for nowhere.
    """

    def __init__(
        self, engine: Engine, path: Path | None = None, *, retry: Retry | None = None, journal: Journal | None = None
    ) -> None:
        """Open the database, creating or upgrading it where that is needed.

        Args:
            engine: connections as `joulec.costdb.engine` sets them up; the store closes them.
            path: the SQLite file, None for a server.
            retry: how long a server that is restarted is waited for.
            journal: see the class.

        Raises:
            CostStoreError: it cannot be opened, or is a later joulec's or another program's.
        """
        self._engine = engine
        self.path = path
        self._url = engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=True)
        self.name = self._url if path is None else str(path)
        self._reader = engine
        self._writer = engine.execution_options(**WRITING)
        self._retry = retry or Retry()
        self._closed = False
        self._put: dict[str, Measurement] = {}
        self.journal = journal
        try:
            self.prepared: Prepared = prepare(engine, self.name, path)
            self._file = None if path is None else WatchedFile(path)
        except OSError as error:
            engine.dispose()
            raise translated(error, self.name) from error
        except CostStoreError:
            engine.dispose()
            raise
        locks = ServerLocks(engine) if path is None else FileLocks(path.with_name(f"{path.name}.locks"))
        self._locks: Locks = locks

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """See `CostStore.get_many`."""
        by_id = {key.id: key for key in keys}
        query, ids = lookup(self._engine.dialect.name, sorted(by_id))
        with _uncollected():
            found = self._run(self._reader, lambda session: session.connection().execute(query, ids).all())
            return {by_id[row[0]]: outcome_of(*row[1:]) for row in found}

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """See `CostStore.put_many`.

        The rows are written in the order of their ids, so that two writers never wait for each other in a ring.
        """
        kept = list(settled(measurements).values())
        if not kept:
            return
        if self.path is not None:
            self._put.update((measurement.key.id, measurement) for measurement in kept)
        rows = [values_of(measurement) for measurement in kept]
        statement = replace(self._engine.dialect.name, failures_too=False)
        try:
            self._run(self._writer, lambda session: session.connection().execute(statement, rows))
        except FileLostError:
            raise
        except CostStoreError as error:
            if self.journal is None or self._closed:
                raise
            raise _kept(error, self.journal, kept) from error

    def merge(self, measurements: Iterable[Measurement]) -> Merged:
        """See `CostStore.merge`."""
        merged = Merged()
        waiting = map(checked, measurements)
        while page := list(islice(waiting, ROWS_PER_PAGE)):
            merged += self._run(self._writer, lambda session, page=page: merge_rows(session, page))  # type: ignore[misc]
        return merged

    def try_lock(self, name: str) -> bool:
        """See `CostStore.try_lock`."""
        try:
            self._check_open()
            return self._retry.run(lambda: self._locks.try_lock(name), self.name)
        except FileLostError as error:
            raise self._saved(error) from error
        except (SQLAlchemyError, OSError) as error:
            raise self._raised(error) from error

    def unlock(self, name: str) -> None:
        """See `CostStore.unlock`."""
        try:
            self._locks.unlock(name)
        except SQLAlchemyError:
            return  # the connection is lost, and the lock with it

    def info(self) -> StoreInfo:
        """See `CostStore.info`."""
        return self._run(self._reader, self._count)

    def _count(self, session: Session) -> StoreInfo:
        count, failures, newest = session.execute(
            select(func.count(), func.count(CostRow.failure_kind), func.max(CostRow.measured_at))
        ).one()
        pair = (CostRow.time_source, CostRow.energy_source)
        by_pair = session.execute(select(*pair, func.count()).group_by(*pair)).all()
        devices = session.execute(select(CostRow.device, func.count()).group_by(CostRow.device)).all()
        by_source: Counter[str] = Counter()
        for time_source, energy_source, rows in by_pair:
            by_source.update({source: rows for source in (time_source, energy_source) if source is not None})
        return StoreInfo(
            url=self._url,
            path=self.path,
            schema_version=self.prepared.schema_version,
            rows=count,
            failures=failures,
            by_source=dict(by_source),
            devices=dict(devices),
            last_measured_at=None if newest is None else newest.replace(tzinfo=UTC),
            superseded=session.execute(select(func.count()).select_from(SupersededRow)).scalar_one(),
        )

    def rows(
        self,
        operator: str | None = None,
        device: str | None = None,
        source: str | None = None,
        *,
        superseded: bool = False,
    ) -> Iterator[Measurement]:
        """See `CostStore.rows`."""
        table: type[CostRow | SupersededRow] = SupersededRow if superseded else CostRow
        place = SupersededRow.measurement_digest if superseded else CostRow.id
        query: Select[Any] = select(table.__table__).order_by(place).limit(ROWS_PER_PAGE)
        if operator is not None:
            query = query.where(table.operator == operator)
        if device is not None:
            query = query.where(table.device == device)
        if source is not None:
            query = query.where(or_(table.time_source == source, table.energy_source == source))
        last, full = "", True
        while full:

            def page(session: Session, after: str = last) -> tuple[list[Measurement], str]:
                found = session.execute(query.where(place > after)).all()
                return [measurement_of(row) for row in found], getattr(found[-1], place.key) if found else after

            measurements, last = self._run(self._reader, page)
            full = len(measurements) == ROWS_PER_PAGE
            yield from measurements

    def close(self) -> None:
        """See `CostStore.close`."""
        self._closed = True
        self._locks.close()
        self._engine.dispose()
        if self._file is not None:
            self._file.close()

    def _run(self, engine: Engine, work: Callable[[Session], _T]) -> _T:
        """Work in one transaction: committed at the end, rolled back and the error translated where it goes wrong."""

        def once() -> _T:
            self._check_open()
            with Session(engine) as session, session.begin():
                done = work(session)
            self._check_open()  # what was written to a file that is gone is lost
            return done

        try:
            return self._retry.run(once, self.name)
        except FileLostError as error:
            raise self._saved(error) from error
        except (SQLAlchemyError, ValueError) as error:
            raise self._saved(self._raised(error)) from error

    def _raised(self, error: Exception) -> CostStoreError:
        said = translated(error, self.name)
        lost = self.path is None and isinstance(error, SQLAlchemyError) and passes(error)
        return ServerLostError(str(said)) if lost else said

    def _saved(self, error: CostStoreError) -> CostStoreError:
        """The error to raise; where it is that the file is lost, all that this store has put is in the journal."""
        if not isinstance(error, FileLostError) or self.journal is None or not self._put:
            return error
        put, self._put = list(self._put.values()), {}
        return _kept(error, self.journal, put)

    def _check_open(self) -> None:
        """Raise where the store was closed, or its file deleted or replaced."""
        if self._closed:
            raise CostStoreError(f"cost database {self.name}: the store is closed; open another")
        trouble = None if self._file is None else self._file.trouble()
        if trouble is not None:
            raise FileLostError(f"cost database {self.name} {trouble}")


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: thousands of new rows would have it walk the whole process again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _kept(error: CostStoreError, journal: Journal, measurements: Sequence[Measurement]) -> CostStoreError:
    """The error to raise once measurements that the database did not take are in the journal, or are not."""
    which = "the last measurement is" if len(measurements) == 1 else f"{len(measurements)} measurements are"
    try:
        journal.keep(measurements)
    except OSError as full:
        return CostStoreError(f"{error}; nor can the journal {journal.path} be written ({full.strerror}): {which} lost")
    return type(error)(f"{error}; {which} kept in {journal.path}, and {journal.merging} brings it in later")
