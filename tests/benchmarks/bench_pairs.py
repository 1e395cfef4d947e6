"""Does the sum of operators' costs order assignments as the machine does?

Draws seeded pairs of assignments of one graph whose predicted times differ by a tenth or more, compiles all into
one library, and times each pair turn by turn. Costs are those that ``bench_peers.py`` left in ``build/benchmarks``;
operators that it did not measure are measured first.

    python tests/benchmarks/bench_pairs.py --network squeezenet
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import COSTS, threads, write_subject
from rich.console import Console
from rich.table import Table

from joulec.passes.graph import Graph, Node
from joulec.passes.relax.build import build_library
from joulec.passes.relax.export import Exporter
from joulec.passes.relax.workbench import Setup, Workbench
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.objective import as_objective
from joulec.runtime.executor import Executor
from joulec.runtime.manifest import Entry, TensorInfo
from joulec.sources import read_sources

LEAST_DIFFERENCE = 0.1
NEAR = 3.0
"""Algorithms that take more than so many times the best are not drawn: they would decide every pair alone."""

Picked = Mapping[Node, Choice]


@dataclass(frozen=True)
class Drawn:
    """An assignment with its predicted seconds."""

    assignment: Picked
    predicted_s: float


def draw(graph: Graph, options: Mapping[Node, Options], rng: random.Random) -> Drawn:
    """Each operator keeps its fastest algorithm with a probability that is drawn first, so that sums differ."""
    keeps = rng.random()
    picked = {}
    for node in graph.nodes:
        ranked = sorted(options[node].choices, key=lambda choice: choice.time_s)
        near = [choice for choice in ranked if choice.time_s <= NEAR * ranked[0].time_s]
        picked[node] = near[0] if rng.random() < keeps else rng.choice(near)
    return Drawn(picked, sum(choice.time_s for choice in picked.values()))


def draw_pairs(graph: Graph, options: Mapping[Node, Options], count: int, seed: int) -> list[tuple[Drawn, Drawn]]:
    """Pairs whose predictions differ by at least a tenth, the slower first."""
    rng = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        slow, fast = sorted((draw(graph, options, rng) for _ in range(2)), key=lambda one: -one.predicted_s)
        if slow.predicted_s >= (1 + LEAST_DIFFERENCE) * fast.predicted_s:
            pairs.append((slow, fast))
    return pairs


def build(graph: Graph, drawn: Sequence[Drawn], bench: Workbench, folder: Path) -> Executor:
    """One library with a function per assignment; kernels and weights that they share are there once."""
    exporter = Exporter()
    for index, one in enumerate(drawn):
        exporter.add(f"main_{index}", graph, one.assignment)
    exported = exporter.finish()
    library = folder / "library.so"
    build_library(exported.module, bench.target, library)
    inputs = tuple(TensorInfo(value.name, value.type.shape, value.type.dtype) for value in graph.inputs)
    outputs = tuple(TensorInfo(f"y{i}", value.type.shape, value.type.dtype) for i, value in enumerate(graph.outputs))
    entries = [
        Entry(1, f"main_{index}", inputs, outputs, point.weights, variant=str(index))
        for index, point in enumerate(exported.entries)
    ]
    return Executor(library, entries, exported.weights, exported.externals, bench.target.threads)


def measure(executor: Executor, pairs: int, arrays: Sequence[Any], turns: int) -> list[tuple[float, float]]:
    """Medians over turns of each assignment of each pair, the two of a pair taking turns."""
    found = []
    for pair in range(pairs):
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(turns):
            for side in (0, 1):
                name = f"main_{2 * pair + side}"
                timing = executor.time(name, arrays, repeats=5, window_s=0.03, most_windows=3, warmup=2, meter=None)
                seconds[side].append(timing.min_s)
        found.append((statistics.median(seconds[0]), statistics.median(seconds[1])))
    return found


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="squeezenet")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    subject = write_subject(arguments.network)
    with np.load(subject.inputs) as stored:
        arrays = [np.ascontiguousarray(stored[name]) for name in stored.files]
    console = Console(width=100)
    setup = Setup(costs=str(COSTS), meter="estimate", threads=threads())
    with Workbench.open(setup) as bench, tempfile.TemporaryDirectory() as folder:
        (source,) = read_sources(str(subject.model), bench.tidy)
        costs = bench.costs(as_objective("time"))
        costs.prepare([node.spec for node in source.graph.nodes])
        options = {node: costs.options(node.spec) for node in source.graph.nodes}
        bench.pause()
        pairs = draw_pairs(source.graph, options, arguments.pairs, arguments.seed)
        executor = build(source.graph, [one for pair in pairs for one in pair], bench, Path(folder))
        found = measure(executor, len(pairs), arrays, arguments.turns)
        executor.close()
    table = Table("pair", "predicted", "measured", "ratio predicted", "ratio measured", "ordered rightly")
    for index, ((slow, fast), (slow_s, fast_s)) in enumerate(zip(pairs, found, strict=True)):
        table.add_row(
            str(index),
            f"{slow.predicted_s * 1e3:.2f}, {fast.predicted_s * 1e3:.2f} ms",
            f"{slow_s * 1e3:.2f}, {fast_s * 1e3:.2f} ms",
            f"{slow.predicted_s / fast.predicted_s:.2f}",
            f"{slow_s / fast_s:.2f}",
            "yes" if slow_s > fast_s else "no",
        )
    console.print(table)
    right = sum(slow_s > fast_s for slow_s, fast_s in found)
    console.print(f"{arguments.network}: {right} of {len(found)} pairs ordered rightly")


if __name__ == "__main__":
    main()
