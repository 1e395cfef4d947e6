"""Putting the page together."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulec.options import CompileOptions, OptionError
from joulec.quantities import show_energy, show_time

if TYPE_CHECKING:
    from joulec.compiler import Compiled
    from joulec.findings import Finding
    from joulec.passes.search.results import Plan

_PACKAGES = ("numpy", "onnx", "onnxruntime", "apache-tvm", "SQLAlchemy", "matplotlib", "Jinja2", "pygraphviz")


def check_page(path: str | os.PathLike[str]) -> None:
    """Refuse a page that could not be written, before anything is searched.

    Raises:
        OptionError: the form is unknown.
        ArtifactError: the place cannot be written.
        ImportError: a library that draws is not installed; the message names the extra.
    """
    from joulec.runtime.artifact import check_writable

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--report {path}: the page is HTML; name a file that ends in .html")
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import pygraphviz  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"--report needs Jinja2, matplotlib and pygraphviz ({error}): pip install 'joulec[report]'"
        ) from error
    check_writable(path)


def write_page(compiled: Compiled, options: CompileOptions, model: str | os.PathLike[str], path: Any) -> None:
    """Write the page of a compilation.

    Args:
        compiled: made with ``options.report`` set, so that findings were gathered.
        options: with which it was made.
        model: what the page calls the model.
        path: where to.

    Raises:
        ArtifactError: the place cannot be written, or the disk is full.
    """
    from joulec.runtime.artifact import write_file

    write_file(path, render(compiled, options, os.fspath(model)).encode())


def render(compiled: Compiled, options: CompileOptions, model: str) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    from joulec.page.compare import STATUSES
    from joulec.page.plots import overview

    environment = Environment(
        loader=PackageLoader("joulec.page"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": _or_dash(show_time),
        "energy": _or_dash(show_energy),
        "power": _or_dash(lambda watts: f"{watts:.3g} W"),
        "percent": _or_dash(lambda share: f"{share:+.1%}"),
    }
    report, manifest = compiled.report, compiled.model.manifest
    return environment.get_template("page.html.j2").render(
        model=Path(model).name,
        path=model,
        report=report,
        manifest=manifest,
        meter=compiled.meter,
        statuses=STATUSES,
        overview=overview(report["entries"]),
        notes=_notes(report),
        batches=[_batch(finding, report["entries"][str(finding.batch)]) for finding in compiled.findings],
        options=_given(options),
        versions=_versions(),
        machine=platform.platform(),
        change=_change,
    )


def _or_dash(show: Any) -> Any:
    return lambda value: "–" if value is None else show(value)


def _change(new: float | None, old: float | None) -> float | None:
    """How much more than before, relative to it."""
    return None if new is None or not old else new / old - 1


def _batch(finding: Finding, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the template needs of a batch size."""
    from joulec.page.compare import compare
    from joulec.page.drawing import draw
    from joulec.page.plots import frontier

    compared = compare(finding.origin, finding.best)
    counts = {status: sum(row.status == status for row in compared.rows) for status in _statuses(compared.rows)}
    shown = entry.get("variants", [{"variant": None, "predicted": entry["predicted"], "measured": entry["measured"]}])
    measured = [one["measured"] for one in shown if one["measured"]["time_s"] is not None]
    changed = finding.best.applied != ()
    return {
        "batch": finding.batch,
        "entry": entry,
        "shown": shown,
        "steps": finding.steps,
        "equations": finding.equations,
        "rows": compared.rows,
        "counts": counts,
        "longest_s": max((side.time_s for row in compared.rows for side in (row.before, row.after) if side), default=0),
        "before": draw(finding.origin.graph, compared.rows, compared.before, after=False) if changed else None,
        "after": draw(finding.best.graph, compared.rows, compared.after, after=True),
        "changed": changed,
        "frontier": [{"totals": plan.totals, "rules": _rules(plan, finding.origin)} for plan in finding.frontier],
        "beaten": any(_beats(plan, finding.best) for plan in finding.frontier),
        "no_frontier": finding.no_frontier,
        "plot": frontier(finding, measured) if finding.frontier else "",
    }


def _rules(plan: Plan, origin: Plan) -> str:
    """The substitutions that led to a plan; of graphs that were searched by parts they are not kept."""
    if plan.graph.key == origin.graph.key:
        return "none"
    return ", ".join(dict.fromkeys(rule for rule, _ in plan.applied)) or "found by parts: not kept"


def _beats(plan: Plan, other: Plan) -> bool:
    """Whether a plan is better in time and in energy, by more than rounding."""
    ours, theirs = plan.totals, other.totals
    return bool(ours.time_s < theirs.time_s * (1 - 1e-9) and ours.energy_j < theirs.energy_j * (1 - 1e-9))


def _statuses(rows: Any) -> list[str]:
    return list(dict.fromkeys(row.status for row in rows))


def _notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know to take the figures for what they are."""
    entries = report["entries"].values()
    figures = [entry[kind] for entry in entries for kind in ("origin", "predicted", "measured")]
    times = {one["time_source"] for one in figures} - {None}
    energies = {one["energy_source"] for one in figures} - {None}
    notes = [
        "Predictions are sums over operators, each priced alone. The original graph was priced in this way and not run "
        "as a whole."
    ]
    if "estimated" in energies:
        notes.append(
            "No power sensor was read: joules and watts marked estimated are computed from the arithmetic and the "
            "bytes that each algorithm states, with published constants that are right to the order of magnitude. They "
            "rank algorithms, and do not say what this machine draws."
        )
    if "simulated" in energies:
        notes.append("Joules marked simulated come from a script and say nothing of this machine.")
    if "replay" in energies:
        notes.append("Joules marked replay were recorded earlier.")
    if "estimated" in times:
        notes.append("Times marked estimated come from a roofline: the least that the arithmetic and the bytes allow.")
    if all(entry["measured"]["time_s"] is None for entry in entries):
        notes.append("The compiled model was not timed, so that nothing here tells how good the predictions are.")
    if not energies:
        notes.append("No energies are known.")
    return notes


def _given(options: CompileOptions) -> list[tuple[str, str]]:
    """The options that are not as they come."""
    plain = CompileOptions()
    shown = [(field.name, getattr(options, field.name), getattr(plain, field.name)) for field in fields(options)]
    return [(name, str(value)) for name, value, default in shown if value != default]


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
