"""Databases to test against: in memory, SQLite files, and a PostgreSQL server started from the machine's binaries."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))

from postgres_server import Server, server_or_skip

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.open import open_store
from joulec.costdb.store import CostStore

_numbers = itertools.count()


def _row(
    index: int, outcome: Cost | Failure | None = None, operator: str = "conv2d", device: str = "cpu-a"
) -> Measurement:
    """A measurement with every field filled, and figures that no float format shortens."""
    key = CostKey(
        operator=operator,
        attributes=f"groups=1 index={index}",
        epilogue="bias+relu",
        shapes="(1,64,56,56)f32 (64,64,3,3)f32! -> (1,64,56,56)f32",
        layouts="NCHW16c OIHW16i16o -> NCHW16c",
        placement="own",
        algorithm="direct_conv",
        parameters="columns=14",
        digest="5d41402a",
        device=device,
        compiler="tvm-0.27.0",
        energy_source="rapl",
        protocol="adaptive-1",
    )
    cost = Cost((index + 1) / 3e5, (index + 1) / 7, "measured", "rapl", spread=1 / 61, samples=30 + index)
    return Measurement(key, outcome or cost, {"host": "bench-1", "date": "2026-03-01T12:00:00+00:00"})


@pytest.fixture
def row() -> Callable[..., Measurement]:
    """Makes measurements: of an index (rows of one index share a key), an outcome, an operator and a device."""
    return _row


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    """The folder of a running server's Unix socket."""
    with server_or_skip() as server:
        yield server.root


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A running server that the test may stop and start."""
    with server_or_skip() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_socket: Path) -> str:
    """The URL of a new, empty schema, which is made faster than a database."""
    import psycopg

    name = f"costs_{next(_numbers)}"
    with psycopg.connect(host=str(postgres_socket), user="joulec", dbname="postgres") as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql://joulec@/postgres?host={postgres_socket}&options=-csearch_path%3D{name}"


@pytest.fixture(autouse=True)
def _own_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals go to the test's folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database of each kind that outlives its process."""
    if request.param == "sqlite":
        return str(tmp_path / "costs.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_new(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], CostStore]:
    """Opens a new store of each kind."""
    if request.param == "memory":
        return lambda: open_store("memory:")
    if request.param == "sqlite":
        return lambda: open_store(str(tmp_path / "costs.db"))
    url = str(request.getfixturevalue("postgres_url"))
    return lambda: open_store(url)


@pytest.fixture
def store(open_new: Callable[[], CostStore]) -> Iterator[CostStore]:
    """A new, empty store of each kind."""
    with open_new() as opened:
        yield opened
