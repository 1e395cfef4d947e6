"""Measurements between the cost database and files, journals and other databases."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from joulec.costdb.cost import EnergySource, Measurement, TimeSource
from joulec.costdb.exchange import is_database, read, write
from joulec.costdb.open import open_store
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStore, CostStoreError, Merged

SOURCES = tuple(dict.fromkeys((*get_args(TimeSource), *get_args(EnergySource))))
"""Where seconds and joules come from."""
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


def merge_source(store: CostStore, source: str, warn: Callable[[str], None]) -> Merged:
    """Merge a database, an exported file or a journal; what it is shows in its contents.

    Args:
        store: the database that is merged into.
        source: path or URL.
        warn: told where the last line of a file was cut off and left out.

    Raises:
        CostStoreError: the source is not there, is neither, or is the store itself.
    """
    path = Path(source)
    if _URL.match(source) is None:
        if path.is_dir():
            raise CostStoreError(f"{source} is a folder; name a database, an exported file or a journal in it")
        if not path.is_file():
            raise CostStoreError(f"{source} is not there: name a database, an exported file or a journal to merge")
        if isinstance(store, SqlStore) and store.journal is not None and _same(path, store.journal.path):
            return merge_journal(store)
        if not is_database(path):
            for _ in read(path, on_cut_off=lambda: warn(f"the last line of {source} was cut off, and is left out")):
                pass
            return store.merge(read(path, on_cut_off=lambda: None))
    with open_store(source) as other:
        if other.info().url == store.info().url:
            raise CostStoreError(f"{source} is the database that is merged into; name another")
        return store.merge(other.rows()) + store.merge(other.rows(superseded=True))


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def devices_like(store: CostStore, name: str | None) -> list[str | None]:
    """Fingerprints of the devices in a store that a user means: the one of this name, else all that it is part of.

    Returns:
        ``[None]``, which stands for all, where no name is given.

    Raises:
        CostStoreError: no device is called so; the message names those that there are.
    """
    if name is None:
        return [None]
    devices = store.info().devices
    if name in devices:
        return [name]
    found = sorted(device for device in devices if name.casefold() in device.casefold())
    if not found:
        known = "; ".join(sorted(devices)) or "none"
        raise CostStoreError(f"no measurement is of a device called {name}; the database has {known}")
    return [*found]


def matching(
    store: CostStore, operator: str | None, device: str | None, source: str | None, superseded: bool
) -> Iterator[Measurement]:
    """Measurements that pass the filters of ``joulec db list`` and ``export``; read piece by piece.

    Raises:
        CostStoreError: see `devices_like`; or the source is none, or the database cannot be read.
    """
    if source is not None and source not in SOURCES:
        raise CostStoreError(f"{source} is no source of costs; there are {', '.join(SOURCES)}")
    for one in devices_like(store, device):
        yield from store.rows(operator, one, source, superseded=superseded)


def merge_journal(store: CostStore) -> Merged:
    """Merge this machine's journal of the store, if there is one, and remove it."""
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
