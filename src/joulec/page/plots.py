"""Plots as SVG that stands inside of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from joulec.findings import Finding

_COLOURS = {"origin": "#8a8f98", "predicted": "#2f6fb3", "measured": "#d9822b"}
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_NAMES = {"origin": "original, predicted", "predicted": "chosen, predicted", "measured": "chosen, measured"}


def overview(entries: Mapping[str, Any]) -> str:
    """Time and energy of each batch size as bars: the original, the prediction, what was measured."""
    figure = _figure(9.0, 2.8)
    axes = figure.subplots(1, 2)
    for place, field, name, unit in (
        (axes[0], "time_s", "time per call", "s"),
        (axes[1], "energy_j", "energy per call", "J"),
    ):
        known = [entry[kind][field] for entry in entries.values() for kind in _COLOURS]
        scale, prefix = _scale(value for value in known if value is not None)
        for offset, kind in enumerate(_COLOURS):
            bars = [(index, entry[kind][field]) for index, entry in enumerate(entries.values())]
            shown = [(index + 0.27 * (offset - 1), value * scale) for index, value in bars if value is not None]
            if shown:
                place.bar(*zip(*shown, strict=True), 0.25, color=_COLOURS[kind], label=_NAMES[kind])
        place.set_xticks(range(len(entries)), list(entries))
        place.set_xlabel("batch size")
        place.set_ylabel(f"{name} in {prefix}{unit}\n({_sources(entries, field) or 'not known'})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return _svg(figure, "overview")


def frontier(finding: Finding, measured: Sequence[Mapping[str, Any]]) -> str:
    """The frontier with the original, the chosen point and what was measured of the artifact's entries."""
    figure = _figure(7.5, 4.2)
    axes = figure.subplots()
    shown = [*finding.frontier, finding.origin, finding.best]
    seconds, second = _scale(plan.totals.time_s for plan in shown)
    joules, joule = _scale(plan.totals.energy_j for plan in shown)
    points = [(seconds * plan.totals.time_s, joules * plan.totals.energy_j) for plan in finding.frontier]
    axes.step(*zip(*points, strict=True), where="post", color="#9db8d6", zorder=1)
    axes.scatter(*zip(*points, strict=True), s=28, color=_COLOURS["predicted"], label="frontier, predicted", zorder=2)
    for plan, kind, marker, size in (
        (finding.origin, "origin", "s", 60),
        (finding.best, "predicted", "*", 220),
    ):
        axes.scatter(
            [seconds * plan.totals.time_s],
            [joules * plan.totals.energy_j],
            s=size, marker=marker, color=_COLOURS[kind], edgecolor="black", label=_NAMES[kind], zorder=3,
        )  # fmt: skip
    seen = [(seconds * one["time_s"], joules * one["energy_j"]) for one in measured if one["energy_j"] is not None]
    if seen:
        colour = _COLOURS["measured"]
        axes.scatter(*zip(*seen, strict=True), s=70, marker="X", color=colour, label="compiled, measured", zorder=4)
    sources = dict.fromkeys(choice.cost.energy_source for choice in finding.best.choices if choice.cost.time_s > 0)
    axes.set_xlabel(f"time per call in {second}s")
    axes.set_ylabel(f"energy per call in {joule}J ({', '.join(map(str, sources))})")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _svg(figure, f"frontier-{finding.batch}")


def _scale(values: Iterable[float]) -> tuple[float, str]:
    """What to multiply SI values with so that the largest is readable, and the prefix of the unit then."""
    largest = max(values, default=1.0)
    return next(((1 / size, prefix) for size, prefix in _PREFIXES if largest >= size), (1e9, "n"))


def _sources(entries: Mapping[str, Any], field: str) -> str:
    """The sources of the figures that a plot shows, each once."""
    name = {"time_s": "time_source", "energy_j": "energy_source"}[field]
    found = (entry[kind][name] for entry in entries.values() for kind in _COLOURS)
    return ", ".join(dict.fromkeys(source for source in found if source))


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Any, name: str) -> str:
    """The figure as an ``svg`` element; names within it begin with ``name``, so that two of them do not meet."""
    import matplotlib

    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    whole = text.getvalue()
    drawn = whole[whole.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
