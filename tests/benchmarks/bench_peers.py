"""joulec beside OpenVINO and ONNX Runtime on nine networks: latency, memory, agreement, and where the time goes.

Each engine runs in a process of its own with as many threads, turn by turn. Every network is compiled by
``joulec compile --objective time`` (costs that are known are used; delete ``build/benchmarks`` for a cold start).

    python tests/benchmarks/bench_peers.py --networks squeezenet,resnet50 --batch 1
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

from common import (
    Engine,
    Subject,
    busy_cpu_s,
    by_turns,
    compile_subject,
    relative_norm,
    threads,
    write_subject,
)
from light_models import FILES
from machine_probe import Machine, probe
from rich.console import Console
from rich.table import Table

PEERS = ("openvino", "onnxruntime")
TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
HEAVIEST = 10
PROFILED_CALLS = 15


@dataclass(frozen=True)
class Ratio:
    """joulec's time over a peer's: of the medians over all turns, and the least and largest of single turns."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Result:
    """One network at one batch size.

    Attributes:
        name: of the network.
        batch: rows of a call.
        seconds: median per call by engine.
        ratios: joulec over each peer.
        errors: joulec's outputs against each peer's, norm of the difference over norm.
        peak_bytes: resident memory above that after the import by engine; None where the system does not tell.
        predicted_s: what the search expected.
        fastest_s: median per call of joulec's fastest turn, the one that other work disturbed least.
        compile_s: seconds of the compilation.
        operators: joulec's operators as they run in the compiled model, with the work of each.
        others: processors that anything but the engines took, on average while they were timed: 0 on a quiet machine.
    """

    name: str
    batch: int
    seconds: Mapping[str, float]
    ratios: Mapping[str, Ratio]
    errors: Mapping[str, float]
    peak_bytes: Mapping[str, int | None]
    predicted_s: float
    fastest_s: float
    compile_s: float
    operators: Sequence[Mapping[str, Any]]
    others: float


def compiled(name: str, batch: int, reuse: bool) -> tuple[Subject, Mapping[str, Any]]:
    """A network, compiled now or in an earlier run, with the report of its entry and the seconds that it took."""
    subject = write_subject(name, batch)
    kept = subject.model.with_suffix(".json")
    if not (reuse and kept.exists()):
        begun_s = time.perf_counter()
        _, entry = compile_subject(subject, "time")
        kept.write_text(json.dumps({**entry, "compile_s": time.perf_counter() - begun_s}))
    return subject, json.loads(kept.read_text())


def measure(name: str, batch: int, turns: int, span_s: float, reuse: bool) -> Result:
    """Compile a network, and time it beside its peers, which read the model that it was compiled from."""
    subject, entry = compiled(name, batch, reuse)
    kinds = ("joulec", *PEERS)
    paths = {"joulec": subject.model.with_suffix(".joulec"), **dict.fromkeys(PEERS, subject.model)}
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(kind, paths[kind], subject.inputs)) for kind in kinds]
        outputs = [engine.outputs() for engine in engines]
        begun_s, busy_s = time.perf_counter(), busy_cpu_s() - sum(engine.cpu_s() for engine in engines)
        seconds = dict(zip(kinds, by_turns(engines, turns, span_s), strict=True))
        busy_s = busy_cpu_s() - sum(engine.cpu_s() for engine in engines) - busy_s
        others = max(0.0, busy_s / (time.perf_counter() - begun_s))
        operators = engines[0].profile(PROFILED_CALLS)
        peaks = {kind: engine.peak_bytes() for kind, engine in zip(kinds, engines, strict=True)}
    errors = {
        peer: max(relative_norm(ours, theirs) for ours, theirs in zip(outputs[0], found, strict=True))
        for peer, found in zip(PEERS, outputs[1:], strict=True)
    }
    medians = {kind: statistics.median(chain.from_iterable(found)) for kind, found in seconds.items()}
    ratios = {peer: _ratio(seconds["joulec"], seconds[peer]) for peer in PEERS}
    fastest_s = min(statistics.median(turn) for turn in seconds["joulec"])
    predicted_s, compile_s = entry["predicted"]["time_s"], entry["compile_s"]
    return Result(name, batch, medians, ratios, errors, peaks, predicted_s, fastest_s, compile_s, operators, others)


def _ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Ratio:
    turns = [statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=True)]
    whole = statistics.median(chain.from_iterable(ours)) / statistics.median(chain.from_iterable(theirs))
    return Ratio(whole, min(turns), max(turns))


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def latency_table(results: Sequence[Result]) -> Table:
    """One line per network, then the geometric means."""
    columns = ("network", "joulec", *(TITLES[peer] for peer in PEERS), *(f"/ {TITLES[peer]}" for peer in PEERS))
    table = Table(*columns, "better peer", "error", "predicted/measured", "… fastest turn", "compiled in", "others")
    for one in results:
        table.add_row(
            one.name,
            *(f"{one.seconds[kind] * 1e3:.2f} ms" for kind in ("joulec", *PEERS)),
            *(str(one.ratios[peer]) for peer in PEERS),
            f"{max(one.ratios[peer].value for peer in PEERS):.2f}",
            f"{max(one.errors.values()):.0e}",
            f"{one.predicted_s / one.seconds['joulec']:.2f}",
            f"{one.predicted_s / one.fastest_s:.2f}",
            f"{one.compile_s:.0f} s",
            f"{one.others:.2f}",
        )
    means = (f"{geometric_mean([one.ratios[peer].value for one in results]):.2f}" for peer in PEERS)
    table.add_section()
    table.add_row("geometric mean", "", "", "", *means)
    return table


def memory_table(results: Sequence[Result]) -> Table:
    """Peak resident memory above that after importing the engine."""
    table = Table("network", "joulec", *(TITLES[peer] for peer in PEERS), "joulec / ONNX Runtime")
    for one in results:
        ours, reference = one.peak_bytes["joulec"], one.peak_bytes["onnxruntime"]
        shown = [one.peak_bytes[kind] for kind in ("joulec", *PEERS)]
        ratio = f"{ours / reference:.2f}" if ours and reference else "unknown"
        table.add_row(one.name, *("unknown" if b is None else f"{b / 2**20:.0f} MiB" for b in shown), ratio)
    return table


def operator_table(result: Result, machine: Machine) -> Table:
    """The operators that take longest in the compiled model, and what of the machine each uses."""
    table = Table("operator", "algorithm", "time", "of all", "of peak arithmetic", "of memory bandwidth")
    whole_s = sum(one["time_s"] for one in result.operators)
    for one in sorted(result.operators, key=lambda one: -one["time_s"])[:HEAVIEST]:
        time_s = one["time_s"]
        table.add_row(
            one["node"],
            one["algorithm"],
            f"{time_s * 1e6:.0f} µs",
            f"{time_s / whole_s:.1%}",
            f"{one['flops'] / time_s / machine.flops_per_s:.0%}" if one["flops"] else "",
            f"{one['dram_bytes'] / time_s / machine.bytes_per_s:.0%}" if one["dram_bytes"] else "",
        )
    families: dict[str, float] = {}
    for one in result.operators:
        family = one["algorithm"].partition("(")[0] or one["node"]
        families[family] = families.get(family, 0.0) + one["time_s"]
    shares = sorted(families.items(), key=lambda item: -item[1])
    table.caption = ", ".join(f"{family} {time_s / whole_s:.0%}" for family, time_s in shares[:8])
    return table


def main() -> None:
    """Parse the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(FILES), help="comma-separated; default: all nine")
    parser.add_argument("--batch", default="1,8", help="batch sizes; default: 1,8")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--span", type=float, default=1.0, help="seconds of each turn")
    parser.add_argument("--reuse", action="store_true", help="time what an earlier run compiled, where there is one")
    arguments = parser.parse_args()
    networks = arguments.networks.split(",")
    unknown = sorted(set(networks) - set(FILES))
    if unknown:
        sys.exit(f"no network is called {unknown[0]!r}; there are {', '.join(FILES)}")
    console = Console(width=200)
    machine = probe()
    console.print(
        f"{machine.threads} threads: {machine.flops_per_s / 1e9:.0f} GFLOP/s of multiply-adds, "
        f"{machine.bytes_per_s / 1e9:.1f} GB/s read from memory"
    )
    for batch in map(int, arguments.batch.split(",")):
        results = []
        for name in networks:
            console.print(f"compiling and timing {name} at batch {batch}")
            results.append(measure(name, batch, arguments.turns, arguments.span, arguments.reuse))
            console.print(operator_table(results[-1], machine))
        console.print(
            f"batch {batch}, {threads()} threads; medians of {arguments.turns} turns, spread over turns; "
            "others: processors that other processes took meanwhile"
        )
        console.print(latency_table(results))
        console.print("peak resident memory above that after importing the engine")
        console.print(memory_table(results))


if __name__ == "__main__":
    main()
