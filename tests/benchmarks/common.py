"""What the benchmarks share: models, compilation by the command line, and engines that are timed turn by turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "benchmarks"
COSTS = FOLDER / "costs.db"
ENGINE = Path(__file__).with_name("engine.py")
sys.path.insert(0, str(ROOT / "examples"))

from light_models import example_input, prepare  # noqa: E402

REST_S = 0.4
"""Pause between turns, in which threads of the engine before end their spinning."""


@dataclass(frozen=True)
class Subject:
    """A network on disk with inputs of pixel magnitude."""

    name: str
    model: Path
    inputs: Path


def threads() -> int:
    """CPUs that this process may use; every engine gets as many threads."""
    return len(os.sched_getaffinity(0))


def write_subject(name: str, batch: int = 1) -> Subject:
    """Write a network of `light_models` with seeded weights, for a batch size."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    stem = name if batch == 1 else f"{name}-b{batch}"
    subject = Subject(stem, FOLDER / f"{stem}.onnx", FOLDER / f"{stem}.npz")
    model = prepare(name)
    if batch != 1:
        from joulec.passes.onnx.importer import import_onnx

        model = import_onnx(model, batch=batch).model
    onnx.save(model, subject.model)
    feeds: dict[str, Any] = dict(example_input(model))
    np.savez(subject.inputs, **feeds)
    return subject


def compile_subject(subject: Subject, objective: str) -> tuple[Path, dict[str, Any]]:
    """Compile by ``joulec compile``.

    Returns:
        The artifact and the report of its only entry.
    """
    artifact = subject.model.with_suffix(".joulec")
    command = [sys.executable, "-m", "joulec", "compile", str(subject.model), "-o", str(artifact)]
    command += ["--objective", objective, "--costs", str(COSTS), "--threads", str(threads()), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    (entry,) = json.loads(done.stdout)["entries"].values()
    return artifact, entry


class Engine:
    """An engine in a process of its own that answers one order at a time; a context manager.

    Args:
        kind: ``joulec``, ``onnxruntime`` or ``tvm-default`` (see ``engine.py``).
        path: what it loads.
        inputs: file with the inputs.
    """

    def __init__(self, kind: str, path: Path, inputs: Path) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, str(ENGINE), kind, str(path), str(inputs), str(threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "TVM_NUM_THREADS": str(threads())},
        )
        self._answer()

    def seconds(self, span_s: float) -> list[float]:
        """Seconds of each call, for at least so long and three calls."""
        return list(self._order({"time": span_s}))

    def cpu_s(self) -> float:
        """Processor seconds that the engine has used; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int | None:
        """By how much resident memory peaked above that after importing the engine."""
        found = self._order({"memory": None})
        return None if found is None else int(found)

    def profile(self, calls: int) -> list[dict[str, Any]]:
        """The steps of a call with their seconds; of joulec alone."""
        return list(self._order({"profile": calls}))

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        """What it computes from the inputs."""
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            self._order({"run": file.name})
            with np.load(file.name) as stored:
                return [stored[f"arr_{index}"] for index in range(len(stored.files))]

    def _order(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine {self.kind} ended with exit code {self._process.wait()}; see above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def by_turns(engines: Sequence[Engine], turns: int, span_s: float) -> list[list[list[float]]]:
    """Seconds of each call of each turn of each engine; they take turns, so that a disturbance meets all alike."""
    seconds: list[list[list[float]]] = [[] for _ in engines]
    for _ in range(turns):
        for found, engine in zip(seconds, engines, strict=True):
            time.sleep(REST_S)
            found.append(engine.seconds(span_s))
    return seconds


def busy_cpu_s() -> float:
    """Processor seconds in which any process of the machine ran, or the hypervisor kept it waiting; 0 if unknown."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def medians_by_turns(engines: Sequence[Engine], turns: int, span_s: float) -> list[float]:
    """Median seconds per call of each engine over all its turns."""
    return [statistics.median(chain.from_iterable(found)) for found in by_turns(engines, turns, span_s)]


def relative_norm(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Norm of the difference over the norm of the wanted."""
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))
