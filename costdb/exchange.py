"""Measurements as JSON Lines and CSV: one flat record for each, read back exactly."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, get_args

from joulec.costdb.cost import Cost, CostKey, EnergySource, Failure, FailureKind, Measurement, TimeSource
from joulec.costdb.store import KEY_FIELDS, CostStoreError, checked
from joulec.costdb.watched import HEADER

COLUMNS = (
    *("key_energy_source" if name == "energy_source" else name for name in KEY_FIELDS),
    *("time_s", "energy_j", "time_source", "energy_source", "spread", "samples"),
    *("failure_kind", "failure_reason", "provenance"),
)
"""Names of a record's fields: the key's (its energy source as ``key_energy_source``), the outcome's, the provenance."""
_LONGEST_HEADER = 4096
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def record_of(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON: what does not apply is null, an unknown spread too. Seconds, joules."""
    outcome = measurement.outcome
    record: dict[str, Any] = dict.fromkeys(COLUMNS)
    record |= {_column(name): getattr(measurement.key, name) for name in KEY_FIELDS}
    if isinstance(outcome, Failure):
        record |= {"failure_kind": outcome.kind, "failure_reason": outcome.reason}
    else:
        record |= vars(outcome) | {"spread": outcome.spread if math.isfinite(outcome.spread) else None}
    return record | {"provenance": dict(measurement.provenance)}


def measurement_of_record(record: Mapping[str, Any]) -> Measurement:
    """The measurement that a record holds.

    Raises:
        ValueError: a field is missing, unknown, or no value of its kind.
    """
    missing, surplus = [name for name in COLUMNS if name not in record], sorted(set(record) - set(COLUMNS))
    if missing or surplus:
        raise ValueError(f"{', '.join(missing)} missing" if missing else f"{', '.join(surplus)} unknown")
    key = {name: _text(record, _column(name)) for name in KEY_FIELDS}
    _one_of(EnergySource, key["energy_source"], "key_energy_source")
    provenance = record["provenance"]
    if not isinstance(provenance, dict) or not all(isinstance(text, str) for text in provenance.values()):
        raise ValueError("provenance is no object of texts")
    outcome = _cost(record) if record["failure_kind"] is None else _failure(record)
    return checked(Measurement(CostKey(**key), outcome, provenance))  # type: ignore[arg-type]


def _cost(record: Mapping[str, Any]) -> Cost:
    energy_source = record["energy_source"]
    _one_of(TimeSource, record["time_source"], "time_source")
    if energy_source is not None:
        _one_of(EnergySource, energy_source, "energy_source")
    energy_j = None if record["energy_j"] is None else _number(record, "energy_j")
    spread = math.inf if record["spread"] is None else _number(record, "spread")
    samples = record["samples"]
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}")
    return Cost(_number(record, "time_s"), energy_j, record["time_source"], energy_source, spread, samples)


def _failure(record: Mapping[str, Any]) -> Failure:
    _one_of(FailureKind, record["failure_kind"], "failure_kind")
    if record["time_s"] is not None:
        raise ValueError("both time_s and failure_kind are given")
    return Failure(record["failure_kind"], _text(record, "failure_reason"))


def _column(name: str) -> str:
    return "key_energy_source" if name == "energy_source" else name


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise ValueError(f"{name} is {record[name]!r}, no text")
    return str(record[name])


def _number(record: Mapping[str, Any], name: str) -> float:
    if isinstance(record[name], bool) or not isinstance(record[name], (int, float)):
        raise ValueError(f"{name} is {record[name]!r}, no number")
    return float(record[name])


def _one_of(kind: Any, value: Any, name: str) -> None:
    if value not in get_args(kind):
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(get_args(kind))}")


def line_of(measurement: Measurement) -> str:
    """A line of JSON Lines, its end included."""
    return json.dumps(record_of(measurement), allow_nan=False) + "\n"


def write(measurements: Iterable[Measurement], file: IO[str], form: str) -> int:
    """Write measurements as ``jsonl`` or ``csv``; returns how many.

    In CSV an empty cell stands for null, and provenance is JSON; open the file with ``newline=""``.
    """
    count = 0
    if form == "jsonl":
        for measurement in measurements:
            file.write(line_of(measurement))
            count += 1
        return count
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    for measurement in measurements:
        record = record_of(measurement)
        table.writerow(record | {"provenance": json.dumps(record["provenance"])})
        count += 1
    return count


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER


def read(path: Path, *, on_cut_off: Callable[[], None] | None = None) -> Iterator[Measurement]:
    """Read measurements from a file that `write` wrote; its form shows in its first line, whatever it is called.

    Args:
        path: the file.
        on_cut_off: told where the last line of JSON Lines was cut off, by a full disk or a killed process, and is left
            out; without it such a file is refused.

    Raises:
        CostStoreError: the file cannot be read; the message names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if is_database(path):
                raise CostStoreError(f"{path} is a database, no exported file; joulec db merge {path} takes it in")
            first = file.readline(_LONGEST_HEADER)
            file.seek(0)
            if first == "" and path.suffix == ".csv":
                raise _damaged(path, 1, "the header is missing")
            if first.strip() == "" or first.lstrip().startswith("{"):
                records = _from_lines(path, file, on_cut_off)
            elif first.startswith(f"{COLUMNS[0]},"):
                records = _from_csv(path, file)
            else:
                raise _foreign(path)
            for line, record in records:
                try:
                    yield measurement_of_record(record)
                except ValueError as error:
                    raise _damaged(path, line, str(error)) from error
    except OSError as error:
        raise CostStoreError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _foreign(path) from error


def _from_lines(
    path: Path, file: IO[str], on_cut_off: Callable[[], None] | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if on_cut_off is not None and not line.endswith("\n"):
                on_cut_off()
                return
            raise _damaged(path, number, "not JSON") from error
        if not isinstance(record, dict):
            raise _damaged(path, number, "not an object")
        yield number, record


def _from_csv(path: Path, file: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    table = csv.DictReader(file, strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise _damaged(path, 1, f"the column {missing[0]} is missing")
        for row in table:
            if None in row or None in row.values():
                raise _damaged(path, table.line_num, "the number of cells differs from the header's")
            yield table.line_num, _from_cells(row)
    except (csv.Error, ValueError) as error:
        raise _damaged(path, table.line_num, str(error)) from error


def _from_cells(row: Mapping[str, str]) -> dict[str, Any]:
    """A record from the text of its cells; what is no number or JSON stays text, and is refused as such."""
    record: dict[str, Any] = dict(row)
    for name in ("time_s", "energy_j", "time_source", "energy_source", "spread", "samples", "failure_kind"):
        if name in record and record[name] == "":
            record[name] = None
    for name, kind in (("time_s", float), ("energy_j", float), ("spread", float), ("samples", int)):
        if record.get(name) is not None:
            record[name] = kind(record[name])
    record["provenance"] = json.loads(row.get("provenance") or "{}")
    return record


def _foreign(path: Path) -> CostStoreError:
    return CostStoreError(
        f"{path} is no file of measurements, neither JSON Lines nor CSV; give one that joulec db export wrote"
    )


def _damaged(path: Path, line: int, why: str) -> CostStoreError:
    return CostStoreError(f"{path}, line {line}: {why}; nothing of the file was taken: export it again")
