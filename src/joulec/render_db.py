"""The cost database for people and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from joulec.costdb.sql import SqlStore
from joulec.quantities import show_energy, show_time

if TYPE_CHECKING:
    from joulec.costdb.store import CostStore


_WIDE = 240
"""Columns of a table that goes to a file or a pipe."""


def info_json(store: CostStore) -> dict[str, Any]:
    """What a store holds, as JSON."""
    info = store.info()
    plain = asdict(info)
    plain["path"] = None if info.path is None else str(info.path)
    plain["last_measured_at"] = None if info.last_measured_at is None else info.last_measured_at.isoformat()
    plain["by_source"], plain["devices"] = dict(info.by_source), dict(info.devices)
    journal = store.journal.path if isinstance(store, SqlStore) and store.journal is not None else None
    plain["journal"] = str(journal) if journal is not None and journal.is_file() else None
    return plain


def show_info(info: Mapping[str, Any]) -> None:
    """Print what a store holds."""
    table = Table("cost database", str(info["url"]))
    table.add_row("schema", info["schema_version"])
    table.add_row("measurements", f"{info['rows']} ({info['failures']} failures)")
    table.add_row("superseded", str(info["superseded"]))
    table.add_row("by source", ", ".join(f"{source}: {count}" for source, count in info["by_source"].items()))
    for device, count in info["devices"].items():
        table.add_row("device", f"{device}: {count}")
    table.add_row("last measured", info["last_measured_at"] or "never")
    if info["journal"]:
        table.add_row("journal", f"{info['journal']}: joulec db merge brings it in")
    Console(highlight=False).print(table)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print measurements."""
    table = Table("operator", "attributes", "shapes", "algorithm", "time", "energy", "±", "source", "device")
    for row in rows:
        failed = row["failure_kind"]
        energy = row["energy_j"]
        table.add_row(
            row["operator"],
            row["attributes"],
            row["shapes"],
            row["algorithm"],
            f"failed: {failed}" if failed else show_time(row["time_s"]),
            "" if failed or energy is None else show_energy(energy),
            "" if row["spread"] is None else f"{row['spread']:.1%}",
            "" if failed else f"{row['time_source']}, {row['energy_source'] or 'no energy'}",
            row["device"],
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE).print(table)
