"""The store in a SQL database: SQLite or PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

from sqlalchemy import Engine, Insert, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.engine import WRITING
from joulec.costdb.errors import translated
from joulec.costdb.models import OUTCOME_COLUMNS, CostRow, measurement_of, outcome_of, values_of
from joulec.costdb.schema import prepare
from joulec.costdb.store import CostStore, CostStoreError, StoreInfo, settled

KEYS_PER_QUERY = 900
"""Every SQLite takes 999 parameters in one statement."""
ROWS_PER_PAGE = 1000


class SqlStore(CostStore):
    """Keeps measurements in one table of a SQL database; see `CostStore` for the contract."""

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        """Open the database, creating or upgrading it where that is needed.

        Args:
            engine: connections as `joulec.costdb.engine` sets them up; the store closes them.
            path: the SQLite file, None for a server.

        Raises:
            CostStoreError: it cannot be opened, or is a later joulec's or another program's.
        """
        self._engine = engine
        self._path = path
        self._where = str(path) if path is not None else engine.url.render_as_string(hide_password=True)
        self._reader = engine
        self._writer = engine.execution_options(**WRITING)
        self._closed = False
        try:
            self._schema_version = prepare(engine, self._where, path)
        except CostStoreError:
            engine.dispose()
            raise

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """See `CostStore.get_many`."""
        by_id = {key.id: key for key in keys}
        ids = sorted(by_id)
        found: dict[CostKey, Cost | Failure] = {}
        with self._session(self._reader) as session:
            for start in range(0, len(ids), KEYS_PER_QUERY):
                chunk = ids[start : start + KEYS_PER_QUERY]
                for row in session.execute(select(CostRow.id, *OUTCOME_COLUMNS).where(CostRow.id.in_(chunk))):
                    found[by_id[row.id]] = outcome_of(row)
        return found

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """See `CostStore.put_many`.

        The rows are written in the order of their ids, so that two writers never wait for each other in a ring.
        """
        rows = [values_of(key_id, measurement) for key_id, measurement in settled(measurements).items()]
        if not rows:
            return
        with self._session(self._writer) as session:
            session.connection().execute(self._upsert(), rows)

    def info(self) -> StoreInfo:
        """See `CostStore.info`."""
        with self._session(self._reader) as session:
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
            url=self._engine.url.set(drivername=self._engine.dialect.name).render_as_string(hide_password=True),
            path=self._path,
            schema_version=self._schema_version,
            rows=count,
            failures=failures,
            by_source=dict(by_source),
            devices=dict(devices),
            last_measured_at=None if newest is None else newest.replace(tzinfo=UTC),
        )

    def rows(
        self, operator: str | None = None, device: str | None = None, source: str | None = None
    ) -> Iterator[Measurement]:
        """See `CostStore.rows`."""
        query = select(CostRow).order_by(CostRow.id).limit(ROWS_PER_PAGE)
        if operator is not None:
            query = query.where(CostRow.operator == operator)
        if device is not None:
            query = query.where(CostRow.device == device)
        if source is not None:
            query = query.where(or_(CostRow.time_source == source, CostRow.energy_source == source))
        last = ""
        while True:
            with self._session(self._reader) as session:
                page = list(session.scalars(query.where(CostRow.id > last)))
                measurements = [measurement_of(row) for row in page]
                last = page[-1].id if page else last
            yield from measurements
            if len(measurements) < ROWS_PER_PAGE:
                return

    def close(self) -> None:
        """See `CostStore.close`."""
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back and the error translated where anything goes wrong."""
        if self._closed:
            raise CostStoreError(f"cost database {self._where}: the store is closed; open another")
        try:
            with Session(engine) as session, session.begin():
                yield session
        except (SQLAlchemyError, ValueError) as error:
            raise translated(error, self._where) from error

    def _upsert(self) -> Insert:
        """Insert, or replace the row of an equal key unless a failure would replace a cost."""
        if self._engine.dialect.name == "sqlite":
            insert: sqlite.Insert | postgresql.Insert = sqlite.insert(CostRow)
        else:
            insert = postgresql.insert(CostRow)
        new = insert.excluded
        columns = [column.name for column in CostRow.__table__.columns if column.name != "id"]
        return insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: new[name] for name in columns},
            where=or_(new.failure_kind.is_(None), CostRow.failure_kind.is_not(None)),
        )
