"""Networks through the Relay pass beside `relay.build` at opt_level 3, turn by turn in one process.

Run by ``make bench-relay``, in the environment with TVM 0.19; ``make test-relay`` runs it with ``--quick``, which
searches for 120 s per network and times fewer calls. Predicted is the search's sum; it is compared with the turn that
the machine disturbed least, as candidates are measured while it is quiet. Times are judged in the table and never end
the run; outputs that differ do (exit code 1).
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

THREADS = len(os.sched_getaffinity(0))
os.environ.update(TVM_NUM_THREADS=str(THREADS), TVM_BIND_THREADS="0", TVM_THREAD_POOL_SPIN_COUNT="100")
os.environ.setdefault("TOPHUB_LOCATION", "NONE")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import numpy as np  # noqa: E402
import tvm  # noqa: E402
from light_models import example_input, prepare  # noqa: E402
from tvm import relay  # noqa: E402
from tvm.contrib import graph_executor  # noqa: E402

from joulec.passes.relay import EnergyAwareOptimize  # noqa: E402
from joulec.passes.search.results import SearchOptions  # noqa: E402
from joulec.passes.workbench import Setup  # noqa: E402

NETWORKS = ("squeezenet", "inception_v1", "resnet50")
CALLS = 15
DIFFERENCE, NOISE, PREDICTION = 1e-4, 0.02, 0.15
"""Largest relative difference of outputs; slower by less is no slower; largest relative error of a prediction."""


def main() -> int:
    """Print one row per network; 1 where outputs differ."""
    quick = "--quick" in sys.argv
    turns = 4 if quick else 8
    search = SearchOptions(budget=0, time_limit_s=120.0) if quick else SearchOptions(budget=10)
    folder = ROOT / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    setup = Setup(costs=str(folder / "relay-costs.db"), threads=THREADS)
    print(f"{turns * CALLS} calls each, turn by turn, {THREADS} threads; ms: median of the best turn / of all\n")
    print("| network | joulec | relay.build -O3 | no slower | predicted | within 15% | difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    worst = 0.0
    for name in [one for one in sys.argv[1:] if not one.startswith("-")] or NETWORKS:
        model = prepare(name)
        inputs = example_input(model)
        module, params = relay.frontend.from_onnx(model)
        optimise = EnergyAwareOptimize("time", setup=setup, params=params, search=search, verify=False)
        optimised = optimise(module)
        if optimise.result is None:
            print(f"| {name} | not searched: too little was measured within the search's time | | | | | |", flush=True)
            continue
        ours, theirs = _machine(optimised, inputs), _machine(module, inputs, params)
        seconds: list[list[list[float]]] = [[], []]
        for _ in range(turns):
            for found, machine in zip(seconds, (ours, theirs), strict=True):
                found.append(list(machine.benchmark(tvm.cpu(), number=1, repeat=CALLS).results))
        wanted = theirs.get_output(0).numpy()
        difference = float(np.linalg.norm(ours.get_output(0).numpy() - wanted) / np.linalg.norm(wanted))
        worst = max(worst, difference)
        predicted = float(optimise.result.best.totals.time_s)
        print(_row(name, seconds, predicted, difference), flush=True)
    if worst > DIFFERENCE:
        print(f"outputs differ by {worst:.1e}, more than {DIFFERENCE:.0e}", file=sys.stderr)
    return int(worst > DIFFERENCE)


def _row(name: str, seconds: list[list[list[float]]], predicted_s: float, difference: float) -> str:
    """A row; ``seconds`` are calls in turns of both engines. Turns that follow each other are compared in pairs."""
    ours, theirs = ([statistics.median(turn) for turn in turns] for turns in seconds)
    slower = statistics.median(our / their for our, their in zip(ours, theirs, strict=True)) - 1
    error = predicted_s / min(ours) - 1
    shown = [f"{1e3 * min(turns):.2f} / {1e3 * statistics.median(turns):.2f}" for turns in (ours, theirs)]
    return (
        f"| {name} | {shown[0]} | {shown[1]} | {_bar(slower <= NOISE)} ({slower:+.1%}) | {1e3 * predicted_s:.2f} "
        f"| {_bar(abs(error) <= PREDICTION)} ({error:+.1%}) | {difference:.1e} |"
    )


def _bar(met: bool) -> str:
    return "met" if met else "NOT MET"


def _machine(module: Any, inputs: Any, params: Any = None) -> Any:
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with tvm.transform.PassContext(opt_level=3):
        factory = relay.build(module, target=target, params=params)
    machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    machine.set_input(**inputs)
    return machine


if __name__ == "__main__":
    sys.exit(main())
