"""Going on where a server that many share dies: what is measured meanwhile goes to a journal on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.locks import FileLocks
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStore, CostStoreError, Merged, ServerLostError, StoreInfo, prevails, settled


class ContinuingStore(CostStore):
    """A server's store that a long run uses: once the server is lost, the run goes on without it.

    From then on measurements go to the store's journal, look-ups are answered by what this run has seen, and locks are
    held among the processes of this machine alone. The server is not asked again: what the journal holds is merged
    when it is up.

    Attributes:
        kept: how many measurements are in the journal because of this run.
        on_lost: told once, in a sentence, that the server is lost.
    """

    def __init__(self, inner: SqlStore, on_lost: Callable[[str], None] = lambda message: None) -> None:
        """Take over a store that has a journal; closing this one closes it."""
        if inner.journal is None:
            raise ValueError("a store without a journal cannot be continued")
        self._inner = inner
        self._journal = inner.journal
        self._locks = FileLocks(self._journal.path.with_suffix(".locks"))
        self._seen: dict[CostKey, Cost | Failure] = {}
        self._why: ServerLostError | None = None
        self.kept = 0
        self.on_lost = on_lost

    @property
    def lost(self) -> str | None:
        """What happened and what to do, where the server was lost; None where all went well."""
        if self._why is None:
            return None
        where = self._inner.name
        if not self.kept:
            return f"cost database {where} went away while it was in use; nothing was measured since"
        return (
            f"cost database {where} went away while it was in use; {self.kept} measurements are kept in "
            f"{self._journal.path}: once the server is up, {self._journal.merging} brings them in"
        )

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """See `CostStore.get_many`; without the server, what this run has seen."""
        asked = list(keys)
        if self._why is None:
            try:
                found = self._inner.get_many(asked)
            except ServerLostError as error:
                self._go_on(error)
            else:
                self._seen.update(found)
                return found
        return {key: self._seen[key] for key in asked if key in self._seen}

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """See `CostStore.put_many`; without the server, into the journal.

        Raises:
            CostStoreError: the journal cannot be written either.
        """
        new = list(settled(measurements).values())
        if self._why is None:
            try:
                self._inner.put_many(new)
            except ServerLostError as error:
                self.kept += len(new)  # the store itself has put them there
                self._go_on(error)
        else:
            self._keep(new)
        for one in new:
            if one.key not in self._seen or prevails(one.outcome, self._seen[one.key]):
                self._seen[one.key] = one.outcome

    def _keep(self, measurements: list[Measurement]) -> None:
        try:
            self._journal.keep(measurements)
        except OSError as error:
            raise CostStoreError(
                f"{self.lost}; now the journal cannot be written ({error.strerror}): the last measurement is lost"
            ) from error
        self.kept += len(measurements)

    def _go_on(self, error: ServerLostError) -> None:
        self._why = error
        self.on_lost(
            f"cost database {self._inner.name} does not answer any more; measuring goes on, into the journal "
            f"{self._journal.path}, which {self._journal.merging} brings in later"
        )

    def merge(self, measurements: Iterable[Measurement]) -> Merged:
        """See `CostStore.merge`; not without the server."""
        return self._inner.merge(measurements)

    def try_lock(self, name: str) -> bool:
        """See `CostStore.try_lock`; without the server, among the processes of this machine."""
        if self._why is None:
            try:
                return self._inner.try_lock(name)
            except ServerLostError as error:
                self._go_on(error)
        try:
            self._journal.path.parent.mkdir(parents=True, exist_ok=True)
            return self._locks.try_lock(name)
        except OSError as error:
            raise CostStoreError(
                f"{self._journal.path.parent} cannot be written ({error.strerror}); free some space in it"
            ) from error

    def unlock(self, name: str) -> None:
        """See `CostStore.unlock`."""
        if self._why is None:
            self._inner.unlock(name)
        else:
            self._locks.unlock(name)

    def info(self) -> StoreInfo:
        """See `CostStore.info`; not without the server."""
        return self._inner.info()

    def rows(
        self,
        operator: str | None = None,
        device: str | None = None,
        source: str | None = None,
        *,
        superseded: bool = False,
    ) -> Iterator[Measurement]:
        """See `CostStore.rows`; not without the server."""
        return self._inner.rows(operator, device, source, superseded=superseded)

    def close(self) -> None:
        """See `CostStore.close`."""
        self._locks.close()
        self._inner.close()


def going_on(store: CostStore, warn: Callable[[str], None], lost: Callable[[Path], None]) -> CostStore:
    """The store for a long run: one of a server with a journal is continued when the server is lost.

    Args:
        store: as `joulec.costdb.open.open_store` opened it.
        warn: told what the user should know: a journal of an earlier run, and a loss.
        lost: told of the journal into which the run goes on.
    """
    if not isinstance(store, SqlStore) or store.journal is None:
        return store
    journal = store.journal
    if journal.path.is_file():
        warn(f"earlier measurements that the database did not take lie in {journal.path}: {journal.merging}")
    if store.path is not None:
        return store

    def on_lost(message: str) -> None:
        lost(journal.path)
        warn(message)

    return ContinuingStore(store, on_lost)
