"""``joulec sweep``: throughput, power and energy against the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from joulec.arguments import AsJson, BatchSizes, Seed, Threads, catch, print_json, quantity
from joulec.completion import session_meters

_DURATION_S = 3.0


@catch
def sweep(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A compiled model.", show_default=False)],
    batch_sizes: BatchSizes = None,
    trace: Annotated[
        str | None, typer.Option(help="Batch sizes whose power and utilisation over time are kept, e.g. 1,8.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", parser=quantity("s"), help="How long each size runs; 3s when left out."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it to this file (.png, .svg or .pdf).")] = None,
    meter: Annotated[
        str, typer.Option(help="As of compile; or scripted:FILE.", autocompletion=session_meters)
    ] = "auto",
    variants: Annotated[
        str | None, typer.Option(help="Variants to run, e.g. fast,frugal; all that were compiled when left out.")
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run ARTIFACT's batch sizes: throughput, maximum and mean power, energy per item.

    Example: joulec sweep model.joulec --trace 1,8 --plot sweep.svg
    """
    from joulec.options import parse_batch_sizes
    from joulec.plot_sweep import check_plot, draw_sweep
    from joulec.render import Display
    from joulec.sweeping import SweepOptions, sweep_artifact

    if plot is not None:
        check_plot(plot)
    options = SweepOptions(
        variants=None if variants is None else [name.strip() for name in variants.split(",")],
        batch_sizes=None if batch_sizes is None else parse_batch_sizes(batch_sizes),
        trace=() if trace is None else parse_batch_sizes(trace),
        duration_s=duration or _DURATION_S, meter=meter, threads=threads, seed=seed,
    )  # fmt: skip
    with Display() as display:
        report = sweep_artifact(artifact, options, display.stage)
    if plot is not None:
        draw_sweep(report, plot)
    if as_json:
        print_json(report)
    _show(report, plot)


def _show(report: Mapping[str, Any], plot: Path | None) -> None:
    from rich.table import Table

    from joulec.render import console

    source = report["power_source"]
    table = Table(title=f"Energy: {report['meter']}", title_justify="left")
    several = any(row["variant"] is not None for row in report["sizes"])
    columns = (
        "batch",
        *(["variant"] if several else []),
        "items/s",
        "ms/call",
        f"max W\n({source})",
        f"mean W\n({source})",
        f"mJ/item\n({source})",
        "used",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for row in report["sizes"]:
        table.add_row(
            str(row["batch"]), *([row["variant"]] if several else []),
            f"{row['throughput']:.1f}", f"{row['latency_s'] * 1e3:.3g}",
            _number(row["max_power_w"]), _number(row["mean_power_w"]),
            _number(row["energy_per_item_j"], 1e3), _number(row["utilization"], 100, " %"),
        )  # fmt: skip
    out = console()
    out.print(table)
    if report["idle_power_w"] is not None:
        out.print(f"idle: {report['idle_power_w']:.3g} W ({source}), not subtracted")
    if plot is not None:
        out.print(f"drawn: {plot}")


def _number(value: float | None, factor: float = 1.0, unit: str = "") -> str:
    return "-" if value is None else f"{value * factor:.4g}{unit}"
