"""Models from anywhere: whether they compile, agree with ONNX Runtime, how fast they are, and what runs natively.

Each argument is a file, with the shapes of its inputs where it leaves them open, and values of inputs that decide what
the model does:

    python tests/benchmarks/bench_models.py 'det.onnx x:[1,3,320,320]' 'vad.onnx input:[1,512] state:[2,1,128] sr=16000'
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from common import COSTS, FOLDER, Engine, by_turns, relative_norm, threads
from rich.console import Console
from rich.table import Table

from joulec.passes.onnx.importer import import_onnx
from joulec.passes.verification import random_inputs

ENGINES = ("onnxruntime", "onnx.reference")
PROFILED_CALLS = 15


@dataclass(frozen=True)
class Wanted:
    """A model and what its user says of its inputs."""

    path: Path
    shapes: Mapping[str, Sequence[int]]
    values: Mapping[str, float]

    @staticmethod
    def parse(text: str) -> Wanted:
        """A file, then ``NAME:[SIZE,...]`` and ``NAME=VALUE``, parted by spaces."""
        path, *rest = text.split()
        shapes = {name: json.loads(shape) for name, shape in re.findall(r"(\S+):(\[[\d,]*\])", " ".join(rest))}
        values = {name: float(value) for name, value in re.findall(r"([^\s:=]+)=([-+.\deE]+)", " ".join(rest))}
        return Wanted(Path(path), shapes, values)

    def inputs(self, scale: float) -> dict[str, np.ndarray[Any, Any]]:
        """Seeded random inputs, those excepted whose value is given."""
        graph = import_onnx(str(self.path), self.shapes).graph
        given = random_inputs(graph.inputs, 0)[0]
        for name, array in given.items():
            if name in self.values:
                given[name] = np.full_like(array, self.values[name])
            elif array.dtype.kind == "f":
                given[name] = (array * scale).astype(array.dtype)
        return given


@dataclass(frozen=True)
class Tried:
    """How a model fared.

    Attributes:
        said: why it was refused, empty where it compiled.
        error: largest norm of the difference to ONNX Runtime's output over that output's norm.
        seconds: median per call by engine.
        native: share of joulec's time outside of other engines.
    """

    name: str
    said: str = ""
    compile_s: float = 0.0
    error: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    native: float = 1.0


def attempt(wanted: Wanted, arguments: argparse.Namespace, folder: Path) -> Tried:
    """Compile a model by the command, and run it beside ONNX Runtime."""
    name = f"{wanted.path.parent.name}/{wanted.path.stem}"
    artifact = (arguments.reuse or folder) / f"{wanted.path.parent.name}-{wanted.path.stem}.joulec"
    command = [sys.executable, "-m", "joulec", "compile", str(wanted.path), "-o", str(artifact), "--json"]
    command += ["--objective", "time", "--costs", arguments.costs, "--threads", str(threads())]
    command += arguments.options.split()
    shapes = [f"{one}:{json.dumps(list(shape))}".replace(" ", "") for one, shape in wanted.shapes.items()]
    command += ["--input-shapes", " ".join(shapes)] if shapes else []
    begun_s = time.perf_counter()
    if not artifact.exists():
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            said = f"{done.returncode}: {lines[-1] if lines else 'nothing said'}"
            return Tried(name, said, time.perf_counter() - begun_s)
    compile_s = time.perf_counter() - begun_s
    inputs = folder / "inputs.npz"
    np.savez(inputs, **wanted.inputs(arguments.scale))  # type: ignore[arg-type]
    kinds = ("joulec", "onnxruntime")
    with ExitStack() as stack:
        paths = (artifact, wanted.path)
        engines = [stack.enter_context(Engine(kind, path, inputs)) for kind, path in zip(kinds, paths, strict=True)]
        ours, theirs = (engine.outputs() for engine in engines)
        error = max(relative_norm(one, other) for one, other in zip(ours, theirs, strict=True))
        turns = by_turns(engines, arguments.turns, arguments.span)
        seconds = {
            kind: statistics.median(chain.from_iterable(found)) for kind, found in zip(kinds, turns, strict=True)
        }
        steps = engines[0].profile(PROFILED_CALLS)
    if arguments.heaviest:
        for step in sorted(steps, key=lambda step: -step["time_s"])[: arguments.heaviest]:
            print(f"{step['time_s'] * 1e6:9.0f} µs  {step['node']}  {step['algorithm']}")
    whole_s = sum(step["time_s"] for step in steps) or 1.0
    foreign_s = sum(step["time_s"] for step in steps if step["algorithm"].startswith(ENGINES))
    return Tried(name, "", compile_s, error, seconds, 1 - foreign_s / whole_s)


def table(tried: Sequence[Tried]) -> Table:
    """One line per model."""
    made = Table("model", "joulec", "ONNX Runtime", "/ ONNX Runtime", "error", "native", "compiled in", "said")
    for one in tried:
        if one.said:
            made.add_row(one.name, *[""] * 5, f"{one.compile_s:.0f} s", one.said)
            continue
        ours, theirs = one.seconds["joulec"], one.seconds["onnxruntime"]
        made.add_row(
            one.name,
            f"{ours * 1e3:.2f} ms",
            f"{theirs * 1e3:.2f} ms",
            f"{ours / theirs:.2f}",
            f"{one.error:.0e}",
            f"{one.native:.0%}",
            f"{one.compile_s:.0f} s",
        )
    return made


def main() -> None:
    """Parse the command line, try each model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Wanted.parse, help="file, shapes and values, as one argument")
    parser.add_argument("--costs", default=str(COSTS), help="cost source; default: the benchmarks' database")
    parser.add_argument("--options", default="", help="further options of joulec compile, as one argument")
    parser.add_argument("--scale", type=float, default=1.0, help="standard deviation of random inputs")
    parser.add_argument("--reuse", type=Path, help="folder of artifacts: those that are there are timed as they are")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--span", type=float, default=1.0, help="seconds of each turn")
    parser.add_argument("--heaviest", type=int, default=0, help="print so many of the steps that take longest")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="joulec-models-") as folder:
        tried = [attempt(wanted, arguments, Path(folder)) for wanted in arguments.models]
    Console(width=180).print(table(tried))


if __name__ == "__main__":
    main()
