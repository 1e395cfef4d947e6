"""Fixtures: the command with a cost database of its own, and artifacts that are compiled once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "support"))
sys.path.append(str(Path(__file__).parents[1] / "support"))

from cli_support import FEW, ROWS, Command, Compiled, small_model
from postgres_server import Server, server_or_skip


@pytest.fixture
def joulec(tmp_path: Path) -> Command:
    """The command with an empty cost database."""
    return Command(tmp_path, tmp_path / "costs.db")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joulec")


@pytest.fixture(scope="session")
def model(home: Path) -> Path:
    return small_model(home / "small.onnx")


@pytest.fixture(scope="session")
def compiled(home: Path, model: Path) -> Compiled:
    """The small model, its candidates measured in this run."""
    command = Command(home, home / "costs.db")
    artifact = home / "small.joulec"
    done = command("compile", model, "-o", artifact, *FEW, "--json")
    assert done.returncode == 0, done.stderr
    return Compiled(model, artifact, done, command)


@pytest.fixture(scope="session")
def batches(home: Path, model: Path) -> Compiled:
    """The small model at four batch sizes, priced by the roofline; weights stay as they are in the model."""
    command = Command(home, home / "unused.db")
    artifact = home / "batches.joulec"
    sizes = ",".join(map(str, ROWS))
    every = (*FEW, "--exclude-algorithm", "packed_matmul")
    done = command("compile", model, "-o", artifact, "--batch-sizes", sizes, "--costs", "model", *every, "--json")
    assert done.returncode == 0, done.stderr
    return Compiled(model, artifact, done, command)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A running PostgreSQL server that the test may stop and start."""
    with server_or_skip() as server:
        yield server
