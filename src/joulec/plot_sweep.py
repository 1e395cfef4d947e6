"""The picture of a sweep: the second paper's Figure 1, and for traced batch sizes its Figure 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulec.options import OptionError

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a place or form before anything runs.

    Raises:
        OptionError: the form is unknown or the folder missing.
        ImportError: matplotlib is not installed; the message names the extra.
    """
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"--plot {path}: name a file that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise OptionError(f"--plot {path}: there is no folder {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--plot needs matplotlib ({error}): pip install 'joulec[report]'") from error


def draw_sweep(report: Mapping[str, Any], path: Path) -> None:
    """Draw throughput, power and energy per item against the batch size; below, traced sizes over time.

    Raises:
        OptionError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes, traces = report["sizes"], report["traces"]
    batches = sorted({row["batch"] for row in sizes})
    lines = {name: [row for row in sizes if row["variant"] == name] for name in {row["variant"]: 0 for row in sizes}}
    figure = Figure(figsize=(11, 3.2 * (1 + bool(traces))), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(1 + bool(traces), 1, squeeze=False)[:, 0]
    throughput, power, energy = rows[0].subplots(1, 3)
    source = report["power_source"]
    for variant, ours in lines.items():
        at, suffix = [row["batch"] for row in ours], "" if variant is None else f" ({variant})"
        throughput.plot(at, [row["throughput"] for row in ours], "o-", label=variant)
        for name, label in (("max_power_w", "maximum"), ("mean_power_w", "mean")):
            power.plot(at, _known(row[name] for row in ours), "o-", label=label + suffix)
        energy.plot(at, _known(row["energy_per_item_j"] for row in ours), "o-")
    throughput.set_ylabel("throughput in items/s")
    if len(lines) > 1:
        throughput.legend()
    if report["idle_power_w"] is not None:
        power.axhline(report["idle_power_w"], linestyle=":", label="idle")
    power.set_ylabel(f"power in W ({source})")
    power.legend()
    energy.set_ylabel(f"energy in J/item ({source})")
    for axes in (throughput, power, energy):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xlabel("batch size")
        axes.set_ylim(bottom=0)
    if traces:
        _draw_traces(rows[1], traces, source)
    try:
        figure.savefig(path)
    except OSError as error:
        raise OptionError(f"cannot write the plot to {path}: {error.strerror or error}") from error


def _draw_traces(row: Any, traces: Mapping[str, Any], source: str) -> None:
    for column, (batch, slots) in zip(row.subplots(1, len(traces), squeeze=False)[0], traces.items(), strict=True):
        moments = [slot["t_s"] for slot in slots]
        column.plot(moments, _known(slot["power_w"] for slot in slots), drawstyle="steps-post")
        column.set(title=f"batch size {batch}", xlabel="time in s", ylabel=f"power in W ({source})")
        column.set_ylim(bottom=0)
        used = column.twinx()
        percent = [100 * share for share in _known(slot["utilization"] for slot in slots)]
        used.plot(moments, percent, color="tab:orange", drawstyle="steps-post")
        used.set(ylabel="utilisation in %", ylim=(0, 105))


def _known(values: Any) -> list[float]:
    return [float("nan") if value is None else value for value in values]
