"""Search time against the size of the graph: chains of fire modules, residual blocks and transformer layers.

Every size is searched by ``joulec optimize --costs model --json`` in a process of its own; nothing is measured or
compiled. ``seconds`` is the search alone, ``whole`` the command from start to end.

    python tests/benchmarks/bench_search_size.py [--blocks 100,500,1000,2000] [--kinds fire,residual]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from joulec.passes.replay.networks import Layers

CHANNELS = 16
SIZE = 14


def fire(count: int) -> onnx.ModelProto:
    """SqueezeNet's module, again and again: squeeze, two parallel convolutions, concat."""
    net = Layers(CHANNELS)
    x = "data"
    for _ in range(count):
        x = net.relu(net.conv(x, CHANNELS // 2, (1, 1)))
        parts = [net.relu(net.conv(x, CHANNELS // 2, kernel)) for kernel in ((1, 1), (3, 3))]
        x = net.concat(*parts)
    return net.model("fire", (1, CHANNELS, SIZE, SIZE), x)


def residual(count: int) -> onnx.ModelProto:
    """ResNet's block, again and again: two convolutions, and the input added to their result."""
    net = Layers(CHANNELS)
    x = net.relu(net.conv("data", CHANNELS, (3, 3)))
    for _ in range(count):
        inner = net.conv(net.relu(net.conv(x, CHANNELS, (3, 3))), CHANNELS, (3, 3))
        x = net.relu(net.emit("Add", [x, inner], CHANNELS))
    return net.model("residual", (1, CHANNELS, SIZE, SIZE), x)


KINDS = {"fire": fire, "residual": residual}


def searched(path: Path) -> tuple[float, float, int]:
    """(seconds of the whole command, seconds of the search, graphs expanded)."""
    command = [sys.executable, "-m", "joulec", "optimize", str(path), "--costs", "model", "--json"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    (entry,) = json.loads(done.stdout)["entries"].values()
    return time.monotonic() - began, entry["search"]["seconds"], entry["search"]["graphs_expanded"]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--blocks", default="100,500,1000,2000")
    arguments.add_argument("--kinds", default=",".join(KINDS))
    asked = arguments.parse_args()
    table = Table("chain", "blocks", "ONNX nodes", "seconds", "ms per block", "whole", "expanded")
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.kinds.split(","):
            for count in map(int, asked.blocks.split(",")):
                model = KINDS[kind](count)
                path = Path(folder) / f"{kind}{count}.onnx"
                onnx.save(model, path)
                whole, seconds, expanded = searched(path)
                per_block = f"{1e3 * seconds / count:.1f}"
                row = (kind, str(count), str(len(model.graph.node)), f"{seconds:.1f}", per_block, f"{whole:.1f}")
                table.add_row(*row, str(expanded))
    Console().print(table)


if __name__ == "__main__":
    main()
