"""A store that lives in memory: for tests, and for a search that is to leave nothing behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.preference import measured_at, measurement_digest, rank
from joulec.costdb.store import CostStore, CostStoreError, Merged, StoreInfo, checked, prevails, settled, sources


class MemoryStore(CostStore):
    """Keeps measurements in a dictionary, as long as the process lives; see `CostStore` for the contract."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, Measurement] = {}
        self._superseded: dict[str, Measurement] = {}
        self._locked: set[str] = set()
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

    def merge(self, measurements: Iterable[Measurement]) -> Merged:
        """See `CostStore.merge`."""
        merged = Merged()
        for measurement in map(checked, measurements):
            with self._lock:
                self._check_open()
                merged += self._merge(measurement)
        return merged

    def _merge(self, measurement: Measurement) -> Merged:
        key_id, digest = measurement.key.id, measurement_digest(measurement)
        old = self._rows.get(key_id)
        if old is None:
            self._rows[key_id] = measurement
            return Merged(new=1)
        if old == measurement:
            return Merged(same=1)
        if rank(measurement) < rank(old):
            known = digest in self._superseded
            self._superseded[digest] = measurement
            return Merged(same=1) if known else Merged(worse=1)
        self._superseded.pop(digest, None)
        self._superseded[measurement_digest(old)] = old
        self._rows[key_id] = measurement
        return Merged(better=1)

    def try_lock(self, name: str) -> bool:
        """See `CostStore.try_lock`."""
        with self._lock:
            self._check_open()
            if name in self._locked:
                return False
            self._locked.add(name)
            return True

    def unlock(self, name: str) -> None:
        """See `CostStore.unlock`."""
        with self._lock:
            self._locked.discard(name)

    def info(self) -> StoreInfo:
        """See `CostStore.info`."""
        rows = self._snapshot(self._rows).values()
        return StoreInfo(
            url="memory:",
            path=None,
            schema_version="",
            rows=len(rows),
            failures=sum(isinstance(m.outcome, Failure) for m in rows),
            by_source=dict(Counter(source for m in rows for source in sources(m.outcome))),
            devices=dict(Counter(m.key.device for m in rows)),
            last_measured_at=max((when for m in rows if (when := measured_at(m)) is not None), default=None),
            superseded=len(self._snapshot(self._superseded)),
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
        for _, measurement in sorted(self._snapshot(self._superseded if superseded else self._rows).items()):
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
            self._rows, self._superseded, self._locked = {}, {}, set()

    def _snapshot(self, rows: dict[str, Measurement]) -> dict[str, Measurement]:
        """A copy of rows as they are now."""
        with self._lock:
            self._check_open()
            return dict(rows)

    def _check_open(self) -> None:
        if self._closed:
            raise CostStoreError("memory: the store is closed; open another")
