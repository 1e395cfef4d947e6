"""Measurements between the cost database and files, journals and other databases."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from joulec.costdb.cost import Measurement
from joulec.costdb.exchange import SUFFIXES, read, write
from joulec.costdb.open import open_store
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStore, CostStoreError, Merged

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def write_whole(measurements: Iterable[Measurement], path: Path, form: str) -> int:
    """Write a file that is whole or not there; returns how many measurements it holds.

    Raises:
        CostStoreError: the file cannot be written, or the database not read.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8", newline=""
        ) as file:
            try:
                count = write(measurements, file, form)
                file.flush()
                Path(file.name).chmod(0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CostStoreError(f"{path} cannot be written ({error.strerror}); give another file") from error
    return count


def import_file(store: CostStore, path: Path) -> Merged:
    """Merge an exported file into the store, once all of it was read without a fault.

    Raises:
        CostStoreError: the file is damaged, so that nothing was taken, or the database cannot be written.
    """
    for _ in read(path):
        pass
    return store.merge(read(path))


def merge_source(store: CostStore, source: str) -> Merged:
    """Merge a database, an exported file or a journal; of a journal, a last line that was cut off is left out.

    Raises:
        CostStoreError: the source is not there, is neither, or is the store itself.
    """
    path = Path(source)
    if _URL.match(source) is None and not path.is_file():
        raise CostStoreError(f"{source} is not there: name a database, an exported file or a journal to merge")
    if isinstance(store, SqlStore) and store.journal is not None and path.absolute() == store.journal.path.absolute():
        return merge_journal(store)
    if path.suffix in SUFFIXES:
        for _ in read(path, cut_off=True):
            pass
        return store.merge(read(path, cut_off=True))
    with open_store(source) as other:
        if other.info().url == store.info().url:
            raise CostStoreError(f"{source} is the database that is merged into; name another")
        return store.merge(other.rows()) + store.merge(other.rows(superseded=True))


def merge_journal(store: CostStore) -> Merged:
    """Merge this machine's journal of the store, and remove it."""
    if not isinstance(store, SqlStore) or store.journal is None:
        return Merged()
    with store.journal.taken() as measurements:
        return store.merge(measurements)


def upgrade_json(store: CostStore) -> dict[str, Any]:
    """What opening the store did to its schema, as JSON."""
    if not isinstance(store, SqlStore):
        return {"from": "", "to": "", "backup": None}
    prepared = store.prepared
    backup = None if prepared.backup is None else str(prepared.backup)
    return {"from": prepared.before, "to": prepared.schema_version, "backup": backup}
