"""Networks through the Relay pass beside `relay.build` at opt_level 3, turn by turn in one process.

Run by ``make bench-relay``, in the environment with TVM 0.19. Outputs are compared; predicted is the search's sum.
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
TURNS, CALLS = 8, 15


def main() -> None:
    """Print one row per network."""
    folder = ROOT / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    setup = Setup(costs=str(folder / "relay-costs.db"), threads=THREADS)
    print("| network | joulec (ms, fastest / median) | relay.build -O3 | predicted | error |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or NETWORKS:
        model = prepare(name)
        inputs = example_input(model)
        module, params = relay.frontend.from_onnx(model)
        optimise = EnergyAwareOptimize("time", setup=setup, params=params, search=SearchOptions(budget=10))
        ours, theirs = _machine(optimise(module), inputs), _machine(module, inputs, params)
        seconds: list[list[float]] = [[], []]
        for _ in range(TURNS):
            for found, machine in zip(seconds, (ours, theirs), strict=True):
                found += machine.benchmark(tvm.cpu(), number=1, repeat=CALLS).results
        wanted = theirs.get_output(0).numpy()
        error = np.linalg.norm(ours.get_output(0).numpy() - wanted) / np.linalg.norm(wanted)
        shown = [f"{1e3 * min(one):.2f} / {1e3 * statistics.median(one):.2f}" for one in seconds]
        predicted = 1e3 * float(optimise.result.best.totals.time_s)
        print(f"| {name} | {shown[0]} | {shown[1]} | {predicted:.2f} | {error:.1e} |", flush=True)


def _machine(module: Any, inputs: Any, params: Any = None) -> Any:
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with tvm.transform.PassContext(opt_level=3):
        factory = relay.build(module, target=target, params=params)
    machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    machine.set_input(**inputs)
    return machine


if __name__ == "__main__":
    main()
