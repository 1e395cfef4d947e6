"""``joulec reproduce``: the papers' tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joulec.arguments import AsJson, Seed, catch, print_json
from joulec.completion import simulated_policies

if TYPE_CHECKING:
    from joulec.paper_tables import Figures
    from joulec.reproduce import Table

reproduce = typer.Typer(help="Regenerate the tables of the papers that joulec follows.", no_args_is_help=True)


@reproduce.callback()
def _group() -> None:
    """Regenerate the tables of the papers that joulec follows."""


@reproduce.command("energy-aware")
@catch
def energy_aware(
    costs: Annotated[str, typer.Option(help="The authors' measured rows: mlsys20:FILE.", show_default=False)],
    networks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of graph_*.json; default: that of the rows.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tables 1 to 5 of the paper on energy-aware graph optimization, predicted from its authors' rows.

    Example: joulec reproduce energy-aware --costs mlsys20:mlsys20_costs.txt
    """
    from joulec.render import Display
    from joulec.reproduce import Reproduction, tables_json

    with Display() as display:
        tables = Reproduction.open(costs, networks, display.stage).tables()
    if as_json:
        print_json(tables_json(tables))
        return
    _show(tables)


@reproduce.command("batchsizer")
@catch
def batchsizer(
    policy: Annotated[
        str | None,
        typer.Option(help="paper, windowed, frontier or dvfs; all when left out.", autocompletion=simulated_policies),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw timelines on the axes of Figures 7 and 8 (.svg, .png).")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The twenty jobs of the paper on batch sizes (Table 2) on a model of its card, as in its Figures 5 to 8.

    Example: joulec reproduce batchsizer --json
    """
    from joulec.commands_simulate import report_jobs
    from joulec.options import OptionError
    from joulec.plot_sweep import check_plot
    from joulec.runtime.simulator.suite import SIMULATED_POLICIES

    if policy is not None and policy not in SIMULATED_POLICIES:
        raise OptionError(f"unknown policy {policy!r}; there are {', '.join(SIMULATED_POLICIES)}")
    if plot is not None:
        check_plot(plot)
    report_jobs("paper", SIMULATED_POLICIES if policy is None else (policy,), seed, as_json=as_json, plot=plot)


def _show(tables: Sequence[Table]) -> None:
    """Print the tables on standard output, wide enough for a page."""
    from rich.console import Console
    from rich.table import Table as Grid

    out = Console(highlight=False, width=110)
    for table in tables:
        grid = Grid(
            "", "ms", "W", "mJ", "ms", "W", "mJ", title=f"Table {table.number}: {table.title}", title_justify="left"
        )
        for column in grid.columns[1:]:
            column.justify = "right"
        grid.add_row("", "predicted", "", "", "paper", "", "")
        grid.add_section()
        for line in table.lines:
            grid.add_row(line.label, *_cells(line.predicted), *_cells(line.paper))
        out.print(grid)
        if table.number in (1, 2):
            for line in table.lines:
                out.print(f"  {line.label}: {line.detail}", markup=False)
        for note in table.notes:
            out.print(f"Note: {note}", markup=False)
        out.print()


def _cells(figures: Figures | None) -> tuple[str, str, str]:
    if figures is None:
        return ("–", "–", "–")
    return (f"{figures.time_ms:.4g}", f"{figures.power_w:.4g}", f"{figures.energy_mj:.4g}")
