"""Tables and progress for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from joulec.costdb.cost import Cost, Measurement
from joulec.externals import outside
from joulec.quantities import show_energy, show_time

if TYPE_CHECKING:
    from joulec.passes.search.results import SearchResult, SearchStatistics
    from joulec.profiler.candidate import Candidate


def console() -> Console:
    """Standard error: standard output belongs to results that programs read."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


_LINE_EVERY_S = 10.0


class Display:
    """Shows progress while work is under way; a context manager (see `joulec.progress.Progress`).

    The moving line is for terminals alone: a file or a pipe gets whole lines only.
    """

    def __init__(self, time_budget_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; ``time_budget_s`` from now on is counted down."""
        self._clock = clock
        self._end_s = None if time_budget_s is None else clock() + time_budget_s
        self._batch_left = 0
        self._measuring_s = 0.0
        self._begun_s: float | None = None
        self._printed_s = clock()
        self._console = console()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,  # seldom enough not to disturb what is measured meanwhile
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._stage = ""
        self._measured = 0
        self._failed = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, what: str) -> None:
        """Begin a stage."""
        self._stage = what
        self._show(what)

    def batch(self, count: int) -> None:
        """So many are about to be measured."""
        self._batch_left = count

    def candidate(self, candidate: Candidate) -> None:
        """Say what is being measured, and how much is left; a line every ten seconds where no terminal shows it."""
        now_s = self._clock()
        self._begun_s = now_s if self._begun_s is None else self._begun_s
        text = f"{self._stage}: {self._remaining()}; measuring {candidate.label}"
        self._show(text)
        if not self._console.is_terminal and now_s - self._printed_s >= _LINE_EVERY_S:
            self._printed_s = now_s
            self._console.print(text, markup=False)

    def _remaining(self) -> str:
        """What is done, and how long the rest may take: at the pace so far, and by the time budget."""
        done = self._measured + self._failed
        parts = [f"{self._measured} measured" + (f", {self._failed} failed" if self._failed else "")]
        if done and self._batch_left:
            parts.append(f"up to {self._batch_left} left, {self._batch_left * self._measuring_s / done:.0f} s")
        if self._end_s is not None:
            parts.append(f"{max(self._end_s - self._clock(), 0.0):.0f} s of the time budget left")
        return "; ".join(parts)

    def result(self, measurement: Measurement) -> None:
        """Count an outcome."""
        if isinstance(measurement.outcome, Cost):
            self._measured += 1
        else:
            self._failed += 1
        self._batch_left = max(self._batch_left - 1, 0)
        if self._begun_s is not None:
            self._measuring_s += self._clock() - self._begun_s
            self._begun_s = None  # those that were measured in turns come together

    def search(self, statistics: SearchStatistics, value: float) -> None:
        """Say how far the search is."""
        self._show(f"{self._stage}: {statistics.expanded} graphs expanded, best {value:.4g}")

    def searched(self, batch: int, result: SearchResult) -> None:
        """Say how the search ended."""
        statistics = result.statistics
        cut = ", cut by the time limit" if statistics.cut else ""
        self._console.print(
            f"batch {batch}: {statistics.expanded} graphs expanded, {statistics.generated} generated "
            f"({statistics.duplicates} duplicates) in {statistics.seconds:.1f} s{cut}",
            markup=False,
        )

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", markup=False)

    def _show(self, text: str) -> None:
        width = max(self._console.width - 20, 20)
        self._bar.update(self._task, description=text if len(text) <= width else text[: width - 1] + "…")


def show_variants(out: Console, report: Mapping[str, Any]) -> None:
    """Print the variants of each batch size, the objective's best marked."""
    if not any("variants" in entry for entry in report["entries"].values()):
        return
    table = Table("batch", "variant", "predicted", "", "measured", "", "power", title="Variants", title_justify="left")
    for batch, entry in report["entries"].items():
        for place, one in enumerate(entry["variants"]):
            figures = [
                _shown(one[kind][name], show)
                for kind in ("predicted", "measured")
                for name, show in (("time_s", show_time), ("energy_j", show_energy))
            ]
            mark = " *" if one["variant"] == entry["variant"] else ""
            power = _shown(one["measured"]["power_w"], lambda watts: f"{watts:.3g} W")
            table.add_row("" if place else batch, one["variant"] + mark, *figures, power)
        table.add_section()
    out.print(table)
    out.print("* best under the objective: what a plain call runs", markup=False)


def show_compiled(report: Mapping[str, Any], meter: str, outputs: Sequence[Path]) -> None:
    """Print what a compilation found."""
    out = console()
    _show_entries(out, report, ("origin", "predicted", "measured"))
    show_variants(out, report)
    show_verified(out, report["verified"])
    _show_profiling_line(out, report["profiling"])
    out.print(f"energy by {meter}", markup=False)
    for output in outputs:
        out.print(f"wrote {output}", markup=False)


def show_verified(out: Console, verified: Mapping[str, Any]) -> None:
    """Print how the comparison with the original went."""
    if not verified["inputs"]:
        out.print(f"not compared with {verified['reference']}: the model gives no steady results on random inputs")
        return
    line = (
        f"verified on {verified['inputs']} random inputs against {verified['reference']}: "
        f"largest relative error {verified['max_relative_error']:.2g}"
    )
    if verified["own_error"]:
        line += (
            f" (it is quantised: against itself, with inputs changed by rounding, the original differs by "
            f"{verified['own_error']:.2g})"
        )
    out.print(line, markup=False)


def show_optimized(report: Mapping[str, Any], meter: str) -> None:
    """Print what a search found."""
    out = console()
    _show_entries(out, report, ("origin", "predicted"))
    _show_profiling_line(out, report["profiling"])
    out.print(f"energy by {meter}", markup=False)


def show_profiling(report: Mapping[str, Any]) -> None:
    """Print what is known of what a search would need."""
    of = report["profiling"]
    out = console()
    out.print(
        f"known: {of['measured'] + of['reused']} ({of['measured']} measured now, {of['reused']} before or by others); "
        f"failed: {of['failed'] + of['failed_before']} ({of['failed']} now); unknown: {of['unknown']}; "
        f"{of['seconds']:.1f} s of measuring",
        markup=False,
    )
    if of["unknown"]:
        out.print("the time was up before all was measured: the same command goes on from here", markup=False)


_ROWS = {"origin": "original", "predicted": "predicted", "measured": "measured"}


def _show_entries(out: Console, report: Mapping[str, Any], rows: Sequence[str]) -> None:
    table = Table("batch", "", "time", "energy", "power", "time source", "energy source")
    for batch, entry in report["entries"].items():
        for row in rows:
            figures = entry[row]
            table.add_row(
                batch if row == rows[0] else "",
                _ROWS[row],
                _shown(figures["time_s"], show_time),
                _shown(figures["energy_j"], show_energy),
                _shown(figures["power_w"], lambda watts: f"{watts:.3g} W"),
                figures["time_source"] or "",
                figures["energy_source"] or "",
            )
        table.add_section()
    out.print(table)
    for batch, entry in report["entries"].items():
        rules = ", ".join(f"{one['rule']} ×{one['count']}" for one in entry["search"]["substitutions"]) or "none"
        out.print(f"batch {batch}: substitutions {rules}", markup=False)
        out.print(f"batch {batch}: algorithms {_algorithms(entry)}", markup=False)
        for line in outside(entry["assignment"]):
            out.print(f"batch {batch}: {line}", markup=False)


def _algorithms(entry: Mapping[str, Any]) -> str:
    """How much of the time each algorithm family takes, and conversions between layouts."""
    seconds: dict[str, float] = {}
    count: dict[str, int] = {}
    for one in entry["assignment"]:
        family = one["algorithm"].split("(")[0]
        seconds[family] = seconds.get(family, 0.0) + (one["time_s"] or 0.0)
        count[family] = count.get(family, 0) + 1
    converting = entry["conversions"]["time_s"]
    total = sum(seconds.values()) + converting or 1.0
    order = sorted(seconds, key=lambda family: -seconds[family])
    shown = [f"{family} ×{count[family]} ({seconds[family] / total:.0%})" for family in order]
    return ", ".join([*shown, f"conversions of layouts ({converting / total:.0%})"] if converting else shown)


def _shown(value: float | None, show: Any) -> str:
    return "–" if value is None else str(show(value))


def _show_profiling_line(out: Console, profiling: Mapping[str, Any]) -> None:
    out.print(
        f"cost database: {profiling['measured']} measured in {profiling['seconds']:.1f} s, "
        f"{profiling['reused']} reused, {profiling['failed']} failed",
        markup=False,
    )
    if "journal" in profiling:
        out.print(f"the cost database went away: what was measured since is in {profiling['journal']}", markup=False)


def show_devices(devices: Sequence[Mapping[str, Any]]) -> None:
    """Print the devices."""
    table = Table("id", "kind", "name", "meters", "note")
    for device in devices:
        table.add_row(device["id"], device["kind"], device["name"], ", ".join(device["meters"]), device["note"])
    Console(highlight=False).print(table)


def show_run(report: Mapping[str, Any]) -> None:
    """Print what a run gave."""
    out = console()
    for name, tensor in report.get("outputs", {}).items():
        out.print(f"output {name}: {tensor['dtype']}{tensor['shape']}", markup=False)
    if "time" in report:
        time = report["time"]
        energy = "" if time["energy_j"] is None else f", {show_energy(time['energy_j'])} ({time['energy_source']})"
        name = "" if time["variant"] is None else f" ({time['variant']})"
        out.print(
            f"batch {time['batch']}{name}: {show_time(time['time_s'])}{energy}; "
            f"{time['calls']} calls in {time['windows']} windows, the three fastest within {time['spread']:.1%}; "
            f"over all calls mean {show_time(time['mean_s'])}, median {show_time(time['median_s'])}, "
            f"fastest {show_time(time['min_s'])}",
            markup=False,
        )
    if "profile" in report:
        _show_profile(out, report["profile"])
    if "session" in report:
        _show_session(out, report["session"])


def _show_profile(out: Console, profile: Mapping[str, Any]) -> None:
    """Time per operator, in the order in which they run."""
    algorithm = Column("algorithm", overflow="fold")
    table = Table("operator", algorithm, "time", "of all", "predicted", "GFLOP/s", "GB/s")
    for step in profile["steps"]:
        time_s = step["time_s"]
        table.add_row(
            step["node"] or step["function"],
            step["algorithm"],
            show_time(time_s),
            f"{time_s / profile['time_s']:.1%}",
            _shown(step["predicted_s"], show_time),
            _shown(step["flops"], lambda flops, time_s=time_s: f"{flops / time_s / 1e9:.1f}"),
            _shown(step["dram_bytes"], lambda moved, time_s=time_s: f"{moved / time_s / 1e9:.1f}"),
        )
    out.print(table)
    out.print(
        f"batch {profile['batch']}: {show_time(profile['time_s'])} in {len(profile['steps'])} steps, "
        f"medians of {profile['calls']} calls",
        markup=False,
    )


_TIMELINE_ROWS = 24
_BAR = 24


def _show_session(out: Console, session: Mapping[str, Any]) -> None:
    timeline = _coarser(session["timeline"], _TIMELINE_ROWS)
    fastest = max((row["throughput"] for row in timeline), default=0.0) or 1.0
    several = any(row["variant"] is not None for row in timeline)
    clocked = any(row["clock_hz"] is not None for row in timeline)
    more = [name for name, there in (("variant", several), ("clock", clocked)) if there]
    table = Table("time", "batch", *more, "power", "cap", "throughput", "")
    for row in timeline:
        table.add_row(
            f"{row['t_s']:.1f} s",
            str(row["batch"]),
            *([row["variant"] or ""] if several else []),
            *([_shown(row["clock_hz"], lambda hertz: f"{hertz / 1e6:.0f} MHz")] if clocked else []),
            _shown(row["power_w"], lambda watts: f"{watts:.1f} W"),
            _shown(row["cap_w"], lambda watts: f"{watts:.1f} W"),
            f"{row['throughput']:.1f} /s",
            "█" * round(_BAR * row["throughput"] / fastest),
        )
    out.print(table)
    variant = "" if session["variant"] is None else f", variant {session['variant']}"
    by = "" if session["policy"] is None else f"policy {session['policy']}: "
    power = _shown(session["power_w"], lambda watts: f"{watts:.1f} W")
    out.print(
        f"{session['items']} items in {session['duration_s']:.1f} s: {session['throughput']:.1f} per second, "
        f"mean power {power} ({session['power_source'] or 'no source'}), "
        f"p95 latency {_shown(session['latency_p95_s'], show_time)}",
        markup=False,
    )
    out.print(
        f"{by}batch {session['batch']}{variant} at the end: {session['reason']}; "
        f"{session['violations']} stretches above the cap, {session['above_cap_s']:.2f} s in all",
        markup=False,
    )
    for notice in session["notices"]:
        out.print(f"note: {notice}", markup=False)


def _coarser(timeline: Sequence[Mapping[str, Any]], rows: int) -> list[Mapping[str, Any]]:
    """At most so many stretches of the timeline; each shows its longest sample's batch and cap, and means."""
    size = -(-len(timeline) // rows) or 1
    coarse: list[Mapping[str, Any]] = []
    for begin in range(0, len(timeline), size):
        part = timeline[begin : begin + size]
        longest = max(part, key=lambda sample: sample["seconds"])
        seconds = sum(sample["seconds"] for sample in part)
        metered = [sample for sample in part if sample["power_w"] is not None]
        span = sum(sample["seconds"] for sample in metered)
        joules = sum(sample["power_w"] * sample["seconds"] for sample in metered)
        coarse.append(
            {
                "t_s": part[0]["t_s"],
                "batch": longest["batch"],
                "variant": longest["variant"],
                "clock_hz": longest["clock_hz"],
                "cap_w": longest["cap_w"],
                "power_w": joules / span if span else None,
                "throughput": sum(sample["items"] for sample in part) / seconds if seconds else 0.0,
            }
        )
    return coarse
