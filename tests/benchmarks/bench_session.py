"""What a session costs: throughput beside the bare module's on SqueezeNet at batch 8, and time per request on a no-op.

python tests/benchmarks/bench_session.py [--latency]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from common import COSTS, threads, write_subject
from rich.console import Console
from rich.table import Table

import joulec

BATCH = 8
BATCHES, TURNS = 4, 36
"""Short turns, one after another: what else the machine does then weighs on all three alike."""
FORMS = ("{:.1f}", "{:.1f}", "{:+.1%}", "{:+.1%}")
REQUESTS, ROUNDS = 2000, 15


def compile_squeezenet() -> Any:
    subject = write_subject("squeezenet")
    artifact = subject.model.with_name("squeezenet_b8.joulec")
    command = [sys.executable, "-m", "joulec", "compile", str(subject.model), "-o", str(artifact)]
    command += ["--objective", "time", "--costs", str(COSTS), "--threads", str(threads()), "--json"]
    if not artifact.exists():
        done = subprocess.run(
            [*command, "--batch-sizes", str(BATCH)], stdout=subprocess.PIPE, encoding="utf-8", check=True
        )
        json.loads(done.stdout)
    return joulec.load(artifact)


def bare_rate(model: Any, inputs: list[Any]) -> float:
    """Images per second of plain calls."""
    start_s = time.perf_counter()
    for _ in range(BATCHES):
        model.run_batch(BATCH, inputs)
    return BATCHES * BATCH / (time.perf_counter() - start_s)


def session_rate(session: Any, request: list[Any]) -> float:
    """Images per second of as many rows in requests, from the first submission to the last answer."""
    rows = len(request[0])
    start_s = time.perf_counter()
    for future in [session.submit(*request) for _ in range(BATCHES * BATCH // rows)]:
        future.result()
    return BATCHES * BATCH / (time.perf_counter() - start_s)


def throughput(model: Any) -> None:
    inputs = model.random_inputs(BATCH)
    row = [array[:1].copy() for array in inputs]
    found: dict[str, list[float]] = {"bare module": [], "requests of 1 row": [], "requests of 8": []}
    with model.session() as session:
        turns = {
            "bare module": lambda: bare_rate(model, inputs),
            "requests of 1 row": lambda: session_rate(session, row),
            "requests of 8": lambda: session_rate(session, inputs),
        }
        for turn in range(TURNS):
            for name in list(turns)[turn % 3 :] + list(turns)[: turn % 3]:
                found[name].append(turns[name]())
    table = Table("SqueezeNet, batch 8", "images/s: median", "best", "beside the bare module: median of turns", "best")
    best = max(found["bare module"])
    for name, rates in found.items():
        ratios = [rate / bare for rate, bare in zip(rates, found["bare module"], strict=True)]
        shown = (statistics.median(rates), max(rates), statistics.median(ratios) - 1, max(rates) / best - 1)
        table.add_row(name, *(form.format(value) for form, value in zip(FORMS, shown, strict=True)))
    Console().print(table)


def latency(name: str, executor: Any, table: Table) -> None:
    x = np.ones((1, 8), "float32")
    with joulec.Session(executor, batch_sizes=[1], max_wait_s=0.0) as session:
        for one_by_one in (True, False):
            seconds, cpu = [], []
            for _ in range(ROUNDS):
                start_s, start_cpu_s = time.perf_counter(), time.process_time()
                if one_by_one:
                    for _ in range(REQUESTS):
                        session.submit(x).result()
                else:
                    for future in [session.submit(x) for _ in range(REQUESTS)]:
                        future.result()
                seconds.append((time.perf_counter() - start_s) / REQUESTS)
                cpu.append((time.process_time() - start_cpu_s) / REQUESTS)
            how = "each answered before the next" if one_by_one else "all at once"
            figures = (min(seconds), statistics.median(seconds), max(seconds), min(cpu))
            table.add_row(name, how, *(f"{figure * 1e6:.1f}" for figure in figures))


def main() -> None:
    """Both tables; the second alone with ``--latency``."""
    if "--latency" not in sys.argv:
        with compile_squeezenet() as model:
            throughput(model)
    title = f"no-op, batch 1: µs per request, {ROUNDS} rounds of {REQUESTS}"
    table = Table("executor", "requests", "best", "median", "worst", "processor time", title=title)
    latency("callable", lambda x: x, table)
    Console().print(table)


if __name__ == "__main__":
    main()
