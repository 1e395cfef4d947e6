"""The picture of a session: power with its cap, batch size and throughput over time (second paper, Figures 7 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulec.options import OptionError


def draw_run(session: Mapping[str, Any], path: Path) -> None:
    """Draw the timeline of ``joulec run --duration``.

    Args:
        session: the object ``session`` of the report.
        path: where to; its ending decides the form.

    Raises:
        OptionError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    timeline = session["timeline"]
    variants = list(dict.fromkeys(sample["variant"] for sample in timeline if sample["variant"] is not None))
    power, batch, throughput, *more = figure.subplots(3 + (len(variants) > 1), 1, sharex=True)
    moments = [sample["t_s"] for sample in timeline]
    for axes, field, style in (
        (power, "power_w", {"label": "power"}),
        (power, "cap_w", {"label": "cap", "color": "tab:red"}),
        (batch, "batch", {"color": "tab:green"}),
        (throughput, "throughput", {"color": "tab:purple"}),
    ):
        values = [float("nan") if sample[field] is None else sample[field] for sample in timeline]
        axes.plot(moments, values, drawstyle="steps-post", **style)
        axes.set_ylim(bottom=0)
    power.set_ylabel(f"power in W ({session['power_source'] or 'unknown'})")
    power.legend()
    batch.set_ylabel("batch size")
    throughput.set_ylabel("items/s")
    for axes in more:
        axes.plot(moments, [variants.index(sample["variant"]) for sample in timeline], drawstyle="steps-post")
        axes.set_yticks(range(len(variants)), variants)
    figure.axes[-1].set_xlabel("time in s")
    try:
        figure.savefig(path)
    except OSError as error:
        raise OptionError(f"cannot write the plot to {path}: {error.strerror or error}") from error
