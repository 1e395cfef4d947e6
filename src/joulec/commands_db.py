"""``joulec db``: look into the cost database, and carry measurements between databases."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulec import completion
from joulec.arguments import AsJson, catch, print_json

if TYPE_CHECKING:
    from joulec.costdb.store import CostStore, Merged

database = typer.Typer(
    help="Look into the cost database, and carry measurements between databases.", no_args_is_help=True
)


class Form(StrEnum):
    """Forms of exported files."""

    jsonl = "jsonl"
    csv = "csv"


_FORM_NAMES = {"jsonl": "JSON Lines", "csv": "CSV"}
_SHOWN = 100
"""How many measurements people are shown who do not say how many they want."""

Database = Annotated[
    str | None,
    typer.Option("--costs", help="Cost database (path or URL). Default: JOULEC_COSTS, else your own database."),
]
Operator = Annotated[str | None, typer.Option(help="Only this operator, e.g. conv2d.")]
Device = Annotated[str | None, typer.Option(help="Only this device: its name in joulec db info, or a part of it.")]
Source = Annotated[
    str | None,
    typer.Option(help="Only costs from this source, e.g. measured or rapl.", autocompletion=completion.sources),
]
Superseded = Annotated[
    bool, typer.Option("--superseded", help="The measurements that merging found worse, instead of those that count.")
]


@database.command("info")
@catch
def info(costs: Database = None, as_json: AsJson = False) -> None:
    """Say what the cost database holds.

    Example: joulec db info --json
    """
    from joulec.render_db import info_json, show_info

    with _open(costs) as store:
        report = info_json(store)
    if as_json:
        print_json(report)
    else:
        show_info(report)


@database.command("list")
@catch
def list_rows(
    operator: Operator = None,
    device: Device = None,
    source: Source = None,
    superseded: Superseded = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show at most so many. Default: 100, with --json all.", show_default=False)
    ] = None,
    costs: Database = None,
    as_json: AsJson = False,
) -> None:
    """List measurements.

    Example: joulec db list --operator conv2d --limit 20
    """
    from itertools import islice

    from joulec.costdb.exchange import record_of
    from joulec.render_db import show_rows
    from joulec.transfer import matching

    most = limit if limit is not None or as_json else _SHOWN
    with _open(costs) as store:
        found = matching(store, operator, device, source, superseded)
        rows = [record_of(measurement) for measurement in islice(found, most)]
        more = next(found, None) is not None
    if as_json:
        print_json({"rows": rows})
        return
    if rows:
        show_rows(rows)
    else:
        typer.echo("no measurement matches", err=True)
    if more:
        typer.echo(f"the first {len(rows)} are shown; --limit shows more, joulec db export writes all", err=True)


@database.command("export")
@catch
def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to (.jsonl or .csv).")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The same as FILE.")] = None,
    form: Annotated[Form | None, typer.Option("--format", help="Default: by the suffix, else jsonl.")] = None,
    operator: Operator = None,
    device: Device = None,
    source: Source = None,
    superseded: Superseded = False,
    costs: Database = None,
    as_json: AsJson = False,
) -> None:
    """Write measurements as JSON Lines or CSV: to FILE, or to standard output.

    Example: joulec db export costs.csv --operator conv2d
    """
    from joulec.costdb.exchange import SUFFIXES, write
    from joulec.options import OptionError
    from joulec.transfer import matching, write_whole

    if file is not None and output is not None:
        raise OptionError("FILE and --output name the same thing; give one of them")
    target = file or output
    if target == Path("-"):
        target = None
    if as_json and target is None:
        raise OptionError("--json prints its own object on standard output; name a FILE for the measurements")
    kind = form.value if form is not None else SUFFIXES.get("" if target is None else target.suffix, "jsonl")
    with _open(costs) as store:
        rows = matching(store, operator, device, source, superseded)
        if target is None:
            write(rows, sys.stdout, kind)
            return
        with _working(f"writing {target}"):
            count = write_whole(rows, target, kind)
    text = f"wrote {count} measurements to {target} as {_FORM_NAMES[kind]}"
    _report({"file": str(target), "format": kind, "rows": count}, text, as_json)


@database.command("import")
@catch
def import_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported files.", show_default=False)],
    costs: Database = None,
    as_json: AsJson = False,
) -> None:
    """Take in measurements that joulec db export wrote; nothing of a damaged file is taken.

    Example: joulec db import costs.jsonl
    """
    from joulec.costdb.store import Merged
    from joulec.transfer import import_file

    with _working("taking measurements in"), _open(costs) as store:
        merged = sum((import_file(store, path) for path in files), Merged())
    _report_merged(merged, as_json)


@database.command("merge")
@catch
def merge(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Databases (path or URL), journals, exported files. Default: this machine's journal of the database.",
            show_default=False,
        ),
    ] = None,
    costs: Database = None,
    as_json: AsJson = False,
) -> None:
    """Take in other databases: the better measurement of each key counts, and the other is kept too.

    Example: joulec db merge machine-a.db machine-b.db --costs all.db
    """
    from joulec.costdb.store import Merged
    from joulec.transfer import merge_journal, merge_source

    def warn(message: str) -> None:
        typer.echo(f"warning: {message}", err=True)

    with _working("merging"), _open(costs) as store:
        if sources:
            merged = sum((merge_source(store, source, warn) for source in sources), Merged())
        else:
            merged = merge_journal(store)
    _report_merged(merged, as_json)


@database.command("upgrade")
@catch
def upgrade(costs: Database = None, as_json: AsJson = False) -> None:
    """Bring the database to this joulec's schema, as opening it does too; a SQLite file is copied before.

    Example: joulec db upgrade --costs old.db
    """
    from joulec.transfer import upgrade_json

    with _working("upgrading"), _open(costs) as store:
        report = upgrade_json(store)
    before, after, backup = report["from"], report["to"], report["backup"]
    if before == after:
        text = f"the schema is {after} already"
    else:
        text = f"upgraded from schema {before or 'none'} to {after}" + (
            f"; a copy is kept in {backup}" if backup else ""
        )
    _report(report, text, as_json)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A moving line while work is under way, for terminals alone."""
    if not sys.stderr.isatty():
        yield
        return
    from joulec.render import Display

    with Display() as display:
        display.stage(what)
        yield


def _open(costs: str | None) -> CostStore:
    from joulec.costdb.open import open_store

    return open_store(costs)


def _report_merged(merged: Merged, as_json: bool) -> None:
    from dataclasses import asdict

    text = (
        f"{merged.new} new, {merged.better} better than what was there, {merged.worse} worse (kept as superseded), "
        f"{merged.same} there already"
    )
    _report(asdict(merged), text, as_json)


def _report(report: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        typer.echo(text, err=True)
