"""``joulec simulate``: policies on simulated devices, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulec.arguments import AsJson, Seed, catch, print_json, quantity
from joulec.completion import simulated_policies
from joulec.options import OptionError

if TYPE_CHECKING:
    from joulec.runtime.simulator.simulation import Step
    from joulec.runtime.simulator.suite import Result

_ROWS = 40  # of a timeline's table
_POINTS = 400  # of a line in a plot
_LONGEST_S = 86400


@catch
def simulate(
    device: Annotated[Path | None, typer.Option(help="The device (.toml).", show_default=False)] = None,
    jobs: Annotated[str | None, typer.Option(help="Instead: paper (Table 2) or generated:N devices.")] = None,
    cap_trace: Annotated[Path | None, typer.Option(help="The cap over time: CSV t_s,cap_w.")] = None,
    power_cap: Annotated[
        float | None, typer.Option("--power-cap", parser=quantity("W"), help="A constant cap.")
    ] = None,
    request_trace: Annotated[
        Path | None, typer.Option(help="The load over time: CSV t_s,rows_per_s; without it rows always wait.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="paper, windowed, frontier or dvfs; all when left out.", autocompletion=simulated_policies),
    ] = None,
    latency_slo: Annotated[
        float | None, typer.Option("--latency-slo", parser=quantity("s"), help="Slower batches are not allowed.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", parser=quantity("s"), help="Device time; 600 s when left out.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline into this file (.svg, .png).")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run batch-size policies on a simulated device, or on many, in virtual time.

    Example: joulec simulate --device p40.toml --power-cap 150W --policy frontier --seed 1
    """
    from joulec.plot_sweep import check_plot
    from joulec.render import Display
    from joulec.runtime.simulator.suite import JOB_SECONDS, SIMULATED_POLICIES, run_job

    if policy is not None and policy not in SIMULATED_POLICIES:
        raise OptionError(f"unknown policy {policy!r}; there are {', '.join(SIMULATED_POLICIES)}")
    if duration is not None and not 0 < duration <= _LONGEST_S:
        raise OptionError(f"--duration must be above 0 and at most {_LONGEST_S} s (a day), not {duration:g} s")
    names = SIMULATED_POLICIES if policy is None else (policy,)
    if (device is None) == (jobs is None):
        raise OptionError("name either --device FILE or --jobs paper")
    if plot is not None:
        check_plot(plot)
    if jobs is not None:
        given = {
            "--cap-trace": cap_trace, "--power-cap": power_cap, "--request-trace": request_trace,
            "--latency-slo": latency_slo, "--duration": duration,
        }  # fmt: skip
        for option, value in given.items():
            if value is not None:
                raise OptionError(f"{option} goes with --device; the jobs bring caps, loads and 600 s of their own")
        report_jobs(jobs, names, seed, as_json=as_json, plot=plot)
        return
    job = _job(device, cap_trace, power_cap, request_trace)
    with Display() as display:
        display.stage(f"simulating {', '.join(names)}")
        results = run_job(job, names, seed=seed, duration_s=duration or JOB_SECONDS, latency_slo_s=latency_slo)
    if plot is not None:
        _plot(results, plot)
    if as_json:
        timelines = {result.policy: [_step_json(step) for step in result.outcome.timeline] for result in results}
        print_json({"results": [result.to_json() for result in results], "timelines": timelines})
        return
    _show_results(results)
    for result in results:
        _show_timeline(result)


def report_jobs(jobs: str, policies: Sequence[str], seed: int, *, as_json: bool, plot: Path | None = None) -> None:
    """Run the paper's jobs, or generated ones, and print what was reached."""
    from joulec.render import Display
    from joulec.runtime.simulator.generator import draw_job
    from joulec.runtime.simulator.jobs import paper_jobs
    from joulec.runtime.simulator.suite import run_jobs

    kind, _, count = jobs.partition(":")
    if jobs == "paper":
        chosen = paper_jobs()
    elif kind == "generated" and count.isdigit() and int(count) > 0:
        chosen = [draw_job(seed * 100_000 + number) for number in range(int(count))]
    else:
        raise OptionError(f"--jobs must be paper or generated:N, not {jobs!r}")
    results = []
    with Display() as display:
        for result in run_jobs(chosen, policies, seed=seed):
            display.stage(f"job {result.job}")
            results.append(result)
    if plot is not None:
        _plot(results, plot)
    if as_json:
        print_json({"results": [result.to_json() for result in results]})
        return
    _show_jobs(results)


def _job(device: Path | None, cap_trace: Path | None, power_cap: float | None, request_trace: Path | None) -> Any:
    from joulec.runtime.simulator.device import read_device
    from joulec.runtime.simulator.jobs import Job
    from joulec.runtime.simulator.traces import Trace, read_trace

    assert device is not None
    described = read_device(device)
    if (cap_trace is None) == (power_cap is None):
        raise OptionError("name either --cap-trace FILE or --power-cap POWER")
    cap = Trace.constant(power_cap) if power_cap is not None else read_trace(cap_trace or Path(), "cap_w")
    arrivals = None if request_trace is None else read_trace(request_trace, "rows_per_s")
    return Job(described.name, described, cap, arrivals)


def _step_json(step: Any) -> dict[str, Any]:
    configuration = step.configuration
    return {
        "t_s": step.t_s,
        "seconds": step.seconds,
        "batch": configuration.batch,
        "variant": configuration.variant,
        "clock_hz": configuration.clock_hz,
        "rows": step.rows,
        "reading_w": step.reading_w,
        "true_w": step.true_w,
        "cap_w": step.cap_w,
    }


def _show_jobs(results: Sequence[Result]) -> None:
    """Throughput and mean batch size, a line per job and a column per policy (second paper, Figures 5 and 6)."""
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, width=120)
    policies = list(dict.fromkeys(result.policy for result in results))
    by_job: dict[str, dict[str, Result]] = {}
    for result in results:
        by_job.setdefault(result.job, {})[result.policy] = result
    speed = Table("job", *policies, "oracle", title="Rows per second (a model of each device)", title_justify="left")
    batch = Table("job", *policies, title="Mean batch size", title_justify="left")
    for job, mine in by_job.items():
        best = next(iter(mine.values())).oracle_throughput
        speed.add_row(job, *(f"{mine[name].outcome.throughput:.1f}" for name in policies), f"{best:.1f}")
        batch.add_row(job, *(f"{mine[name].outcome.mean_batch:.1f}" for name in policies))
    for grid in (speed, batch):
        for column in grid.columns[1:]:
            column.justify = "right"
        out.print(grid)
    _show_means(results)


def _show_results(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, width=120)
    heads = ("job", "policy", "rows/s", "of oracle", "s above cap", "mean batch", "changes")
    grid = Table(*heads, title="Simulated: a model of each device, not a measurement", title_justify="left")
    for result in results:
        outcome = result.outcome
        share = outcome.throughput / result.oracle_throughput if result.oracle_throughput else 0.0
        grid.add_row(
            result.job, result.policy, f"{outcome.throughput:.1f}", f"{share:.3f}",
            f"{outcome.seconds_above_cap:.2f}", f"{outcome.mean_batch:.1f}", str(outcome.batch_changes),
        )  # fmt: skip
    out.print(grid)
    _show_means(results)


def _show_means(results: Sequence[Result]) -> None:
    """A line per policy, and its warnings."""
    from rich.console import Console

    out = Console(highlight=False, width=120)
    for name in dict.fromkeys(result.policy for result in results):
        mine = [result for result in results if result.policy == name]
        mean = sum(result.outcome.throughput for result in mine) / len(mine)
        shares = [r.outcome.throughput / r.oracle_throughput for r in mine if r.oracle_throughput]
        if shares:
            out.print(
                f"{name}: mean {mean:.1f} rows/s, of the oracle's {sum(shares) / len(shares):.3f} "
                f"(least {min(shares):.3f}), above the cap {sum(r.outcome.seconds_above_cap for r in mine):.1f} s of "
                f"{sum(r.outcome.seconds for r in mine):.0f} s"
            )
        for warning in dict.fromkeys(text for result in mine for text in result.outcome.warnings):
            out.print(f"{name}: warned once: {warning}", markup=False)


def _show_timeline(result: Result) -> None:
    """About forty stretches of the timeline."""
    from rich.console import Console
    from rich.table import Table

    steps = result.outcome.timeline
    size = max(1, -(-len(steps) // _ROWS))
    grid = Table("t (s)", "ran", "rows/s", "true W", "cap W", title=f"{result.policy} over time", title_justify="left")
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        seconds = sum(step.seconds for step in part)
        watts = sum(step.true_w * step.seconds for step in part) / seconds
        rate = sum(step.rows for step in part) / seconds
        grid.add_row(
            f"{part[0].t_s:.1f}", str(part[-1].configuration), f"{rate:.1f}", f"{watts:.1f}", f"{part[-1].cap_w:.1f}"
        )
    Console(highlight=False, width=120).print(grid)


def _plot(results: Sequence[Result], path: Path) -> None:
    """Power (Figure 7's axes) above batch size (Figure 8's), a column per job, a colour per policy.

    Raises:
        OptionError: the file cannot be written, or its kind is unknown.
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'joulec[report]'") from error
    jobs = list(dict.fromkeys(result.job for result in results))[:5]
    figure = Figure(figsize=(3.2 * max(len(jobs), 2), 5), layout="constrained")
    grid = figure.subplots(2, len(jobs), sharex=True, squeeze=False)
    for column, job in enumerate(jobs):
        upper, lower = grid[0][column], grid[1][column]
        shown = [result for result in results if result.job == job]
        for result in shown:
            upper.plot(*_thinned(result.outcome.timeline), linewidth=0.6, label=result.policy)
            batches = _changes([(step.t_s, step.configuration.batch) for step in result.outcome.timeline])
            lower.step(*batches, where="post", linewidth=0.9, label=result.policy)
        caps = _changes([(step.t_s, step.cap_w) for step in shown[0].outcome.timeline])
        upper.step(*caps, "k--", where="post", linewidth=1, label="cap")
        upper.set_title(job, fontsize=9)
        lower.set_yscale("log", base=2)
        lower.set_xlabel("time (s)")
    grid[0][0].set_ylabel("power (W)")
    grid[1][0].set_ylabel("batch size")
    grid[0][0].legend(fontsize=7)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot draw into {path}: {error}") from error


def _thinned(steps: Sequence[Step]) -> tuple[list[float], list[float]]:
    """Times and mean watts of at most so many stretches as a plot can show."""
    size = max(1, -(-len(steps) // _POINTS))
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    watts = [sum(s.true_w * s.seconds for s in part) / sum(s.seconds for s in part) for part in parts]
    return [part[0].t_s for part in parts], watts


def _changes(values: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Times and values where a value changes, and the last."""
    kept = [now for before, now in pairwise([(0.0, math.nan), *values]) if now[1] != before[1]]
    return [t_s for t_s, _ in [*kept, values[-1]]], [value for _, value in [*kept, values[-1]]]
