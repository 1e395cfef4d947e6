"""What a session costs: throughput beside the bare module's on SqueezeNet at batch 8, and time per request on a no-op.

python tests/benchmarks/bench_session.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from common import COSTS, threads, write_subject
from rich.console import Console
from rich.table import Table

import joulec

BATCH = 8
SPAN_S, TURNS = 2.0, 12
REQUESTS = 5000


def rows_per_second(turn: Callable[[], int], span_s: float) -> float:
    rows, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < span_s:
        rows += turn()
    return rows / elapsed_s


def compile_squeezenet() -> Any:
    subject = write_subject("squeezenet")
    artifact = subject.model.with_name("squeezenet_b8.joulec")
    command = [sys.executable, "-m", "joulec", "compile", str(subject.model), "-o", str(artifact)]
    command += ["--objective", "time", "--costs", str(COSTS), "--threads", str(threads()), "--json"]
    if not artifact.exists():
        done = subprocess.run([*command, "--batch-sizes", str(BATCH)], stdout=subprocess.PIPE, text=True, check=True)
        json.loads(done.stdout)
    return joulec.load(artifact)


def fed(session: Any, request: list[Any], rows: int) -> Callable[[], int]:
    """Keeps the queue filled; a turn waits for one answer."""
    pending = deque(session.submit(*request) for _ in range(4 * BATCH // rows))

    def turn() -> int:
        pending.popleft().result()
        pending.append(session.submit(*request))
        return rows

    return turn


def throughput(model: Any) -> None:
    inputs = model.random_inputs(BATCH)
    row = [array[:1].copy() for array in inputs]

    def bare() -> int:
        model.run_batch(BATCH, inputs)
        return BATCH

    with model.session() as single, model.session() as whole:
        ways: dict[str, Callable[[], int]] = {"bare module": bare}
        found: dict[str, list[float]] = {name: [] for name in ("bare module", "requests of 1 row", "requests of 8")}
        for _ in range(TURNS):
            found["bare module"].append(rows_per_second(ways["bare module"], SPAN_S))
            for name, session, request, rows in (
                ("requests of 1 row", single, row, 1), ("requests of 8", whole, inputs, BATCH),
            ):  # fmt: skip
                turn = fed(session, request, rows)
                found[name].append(rows_per_second(turn, SPAN_S))
                while session.queued_rows:
                    time.sleep(0.01)
                time.sleep(0.1)
    table = Table("SqueezeNet, batch 8", "images/s (median)", "to the bare module (median of turns)")
    for name, rates in found.items():
        ratios = [rate / bare_rate for rate, bare_rate in zip(rates, found["bare module"], strict=True)]
        table.add_row(name, f"{statistics.median(rates):.1f}", f"{statistics.median(ratios) - 1:+.1%}")
    Console().print(table)


def latency(name: str, executor: Any, table: Table) -> None:
    x = np.ones((1, 8), "float32")
    with joulec.Session(executor, batch_sizes=[1], max_wait_s=0.0) as session:
        for one_by_one in (True, False):
            seconds = []
            for _ in range(5):
                start_s = time.perf_counter()
                if one_by_one:
                    for _ in range(REQUESTS):
                        session.submit(x).result()
                else:
                    for future in [session.submit(x) for _ in range(REQUESTS)]:
                        future.result()
                seconds.append((time.perf_counter() - start_s) / REQUESTS)
            how = "each answered before the next" if one_by_one else "all at once"
            table.add_row(name, how, f"{statistics.median(seconds) * 1e6:.1f} µs")


def main() -> None:
    with compile_squeezenet() as model:
        throughput(model)
    table = Table("no-op model, batch 1", f"{REQUESTS} requests", "per request")
    latency("callable", lambda x: x, table)
    Console().print(table)


if __name__ == "__main__":
    main()
