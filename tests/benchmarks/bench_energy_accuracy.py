"""How far energies are off on scripted GPUs, and what the adaptive protocol saves beside the paper's. Virtual time.

    python tests/benchmarks/bench_energy_accuracy.py [--seeds 400]

The GPUs are scripted (tests/support/nvml_stand_in.c) and read through the unmodified pynvml: the figures are those of
joulec's protocols, and of no card.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "support"), str(TESTS / "profiler/support")]

from nvml_device import Device, load_library  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scripted_kernels import ROWS, SENSORS, decided, tried  # noqa: E402

from joulec.profiler.protocol import Adaptive, Paper  # noqa: E402


def accuracy(gpu: Device, seeds: int) -> Table:
    """Errors over drawn kernels of 5 µs to 50 ms."""
    table = Table(title=f"Energy of {seeds} kernels, 5 us to 50 ms, 25-of-100-ms sampling", title_justify="left")
    for column in ("sensor", "worst error", "mean error", "within 3%", "worst call", "measuring per kernel"):
        table.add_column(column, justify="left" if column == "sensor" else "right")
    for sensor in SENSORS:
        found = [tried(gpu, seed, sensor) for seed in range(seeds)]
        worst = max(found, key=lambda one: abs(one.error))
        table.add_row(
            sensor,
            f"{abs(worst.error):.2%}",
            f"{statistics.fmean(abs(one.error) for one in found):.2%}",
            f"{sum(abs(one.error) <= 0.03 for one in found)} of {seeds}",
            f"{worst.call_s * 1e3:.3g} ms",
            f"{statistics.fmean(one.spent_s for one in found):.2f} s",
        )
    return table


def saving(gpu: Device) -> Table:
    """Measuring time for the convolutions of the paper's SqueezeNet."""
    table = Table(title="SqueezeNet of the paper, each convolution", title_justify="left")
    for column in ("sensor", "paper", "adaptive", "saving", "same decisions"):
        table.add_column(column, justify="left" if column == "sensor" else "right")
    for sensor in SENSORS:
        paper, adaptive = decided(gpu, Paper(), sensor), decided(gpu, Adaptive(), sensor)
        same = sum(paper.layers[layer] == adaptive.layers[layer] for layer in paper.layers)
        table.add_row(
            sensor,
            f"{paper.spent_s:.1f} s",
            f"{adaptive.spent_s:.1f} s",
            f"{paper.spent_s / adaptive.spent_s:.1f} x",
            f"{same} of {len(paper.layers)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=400, help="How many kernels to draw.")
    seeds = parser.parse_args().seeds
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        load_library(Path(folder))
        gpu = Device(Path(folder))
        os.environ.update(gpu.environment)
        if ROWS.exists():
            console.print(saving(gpu))
        else:
            console.print(f"no saving: the first paper's measurements are not at {ROWS}")
        console.print(accuracy(gpu, seeds))


if __name__ == "__main__":
    main()
