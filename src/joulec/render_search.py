"""Explanations and frontiers for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table

from joulec.quantities import show_energy, show_time
from joulec.render import console, show_verified


def show_extras(report: Mapping[str, Any]) -> None:
    """Print what ``joulec optimize`` gave beside the search's outcome."""
    for batch, entry in report["entries"].items():
        if "explain" in entry:
            _show_explained(batch, entry["explain"])
        if "frontier" in entry:
            _show_frontier(batch, entry["frontier"])
    if report["verified"] is not None:
        show_verified(console(), report["verified"])


def _show_explained(batch: str, explained: Mapping[str, Any]) -> None:
    out = console()
    if "steps" in explained:
        table = Table(
            Column(f"batch {batch}", no_wrap=True),
            *(explained["objective"], "saved", "time", "energy"),
        )
        for step in explained["steps"]:
            table.add_row(
                step["rule"],
                f"{step['value']:.4g}",
                f"{step['saved_value']:.3g}",
                show_time(step["time_s"]),
                show_energy(step["energy_j"]),
            )
        out.print(table)
        return
    out.print(f"batch {batch}: {explained['rule']}: {explained['equation']}", markup=False)
    for title, key in (("original graph", "original"), ("best graph", "best")):
        places = explained[key]
        out.print(f"  {title}: {'no place comes near' if not places else f'{len(places)} places'}", markup=False)
        for place in places:
            said = "applies" if place["applies"] else f"does not apply: {place['reason']}"
            out.print(f"    {', '.join(place['nodes'])}: {said}", markup=False)


def _show_frontier(batch: str, points: Sequence[Mapping[str, Any]]) -> None:
    table = Table(f"batch {batch}: frontier", "time", "energy", "power")
    for index, point in enumerate(points):
        power = f"{point['power_w']:.3g} W"
        table.add_row(str(index + 1), show_time(point["time_s"]), show_energy(point["energy_j"]), power)
    console().print(table)
