"""A store that lives in memory: for tests, and for a search that is to leave nothing behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.store import CostStore, CostStoreError, StoreInfo, measured_at, prevails, settled, sources


class MemoryStore(CostStore):
    """Keeps measurements in a dictionary, as long as the process lives; see `CostStore` for the contract."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, Measurement] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """See `CostStore.get_many`."""
        wanted = {key: key.id for key in keys}
        with self._lock:
            self._check_open()
            return {key: self._rows[key_id].outcome for key, key_id in wanted.items() if key_id in self._rows}

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """See `CostStore.put_many`."""
        new = settled(measurements)
        with self._lock:
            self._check_open()
            for key_id, measurement in new.items():
                old = self._rows.get(key_id)
                if old is None or prevails(measurement.outcome, old.outcome):
                    self._rows[key_id] = measurement

    def info(self) -> StoreInfo:
        """See `CostStore.info`."""
        rows = self._snapshot().values()
        return StoreInfo(
            url="memory:",
            path=None,
            schema_version="",
            rows=len(rows),
            failures=sum(isinstance(m.outcome, Failure) for m in rows),
            by_source=dict(Counter(source for m in rows for source in sources(m.outcome))),
            devices=dict(Counter(m.key.device for m in rows)),
            last_measured_at=max((when for m in rows if (when := measured_at(m)) is not None), default=None),
        )

    def rows(
        self, operator: str | None = None, device: str | None = None, source: str | None = None
    ) -> Iterator[Measurement]:
        """See `CostStore.rows`."""
        for _, measurement in sorted(self._snapshot().items()):
            if operator is not None and measurement.key.operator != operator:
                continue
            if device is not None and measurement.key.device != device:
                continue
            if source is not None and source not in sources(measurement.outcome):
                continue
            yield measurement

    def close(self) -> None:
        """See `CostStore.close`."""
        with self._lock:
            self._closed = True
            self._rows = {}

    def _snapshot(self) -> dict[str, Measurement]:
        """A copy of the rows as they are now."""
        with self._lock:
            self._check_open()
            return dict(self._rows)

    def _check_open(self) -> None:
        if self._closed:
            raise CostStoreError("memory: the store is closed; open another")
