"""Databases to test against: in memory, SQLite files, and a PostgreSQL server started from the machine's binaries."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


def _postgres_binaries() -> Path | None:
    """The folder of the newest PostgreSQL server on this machine."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


def _unprivileged() -> tuple[list[str], int | None]:
    """How to run a command as somebody else than root, whom PostgreSQL refuses, and that user's id."""
    if os.geteuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a postgres nor a nobody to run it as")


class Server:
    """A PostgreSQL server with its data in a folder of its own; user ``joulec``, no password, no TCP."""

    def __init__(self) -> None:
        """Make its data; skips the test where no server is installed or none may run."""
        pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'joulec[postgres]'")
        binaries = _postgres_binaries()
        if binaries is None:
            pytest.skip("no PostgreSQL server is installed: apt install postgresql")
        self.binaries = binaries
        self.as_user, uid = _unprivileged()
        if self.as_user and shutil.which(self.as_user[0]) is None:
            pytest.skip("PostgreSQL refuses to run as root, and there is no setpriv to run it as another user")
        self.root = Path(tempfile.mkdtemp(prefix="joulec-pg-", dir="/tmp"))  # a socket's path must be short
        if uid is not None:
            os.chown(self.root, uid, -1)
        make = ["-D", self.root / "data", "-U", "joulec", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        command = [*self.as_user, binaries / "initdb", *make]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.root)

    def start(self) -> None:
        """Start it and wait until it answers."""
        import psycopg

        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        command = [*self.as_user, self.binaries / "postgres", "-D", self.root / "data", "-k", self.root, *options]
        with (self.root / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.root)
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(host=str(self.root), user="joulec", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start:\n{(self.root / 'log').read_text()}")
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: at once (SIGQUIT), or hanging up on all who are connected (SIGINT)."""
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    """The folder of a running server's Unix socket."""
    server = Server()
    server.start()
    yield server.root
    server.stop()
    shutil.rmtree(server.root)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A running server that the test may stop and start."""
    server = Server()
    server.start()
    yield server
    if server.process.poll() is None:
        server.stop()
    shutil.rmtree(server.root)


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
