"""A PostgreSQL server of one's own, from the machine's binaries."""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Self


class NoServerError(RuntimeError):
    """Why none can be had on this machine."""


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
    raise NoServerError("PostgreSQL refuses to run as root, and there is neither a postgres nor a nobody to run it as")


@cache
def _new_data(binaries: Path, as_user: tuple[str, ...], uid: int | None) -> Path:
    """The data of a server that nobody has used, made once per process: copying them is quicker."""
    root = Path(tempfile.mkdtemp(prefix="joulec-pg-new-", dir="/tmp"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    if uid is not None:
        os.chown(root, uid, -1)
    make = ["-D", root / "data", "-U", "joulec", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    subprocess.run([*as_user, binaries / "initdb", *make], check=True, stdout=subprocess.DEVNULL, cwd=root)
    return root / "data"


class Server:
    """A PostgreSQL server with its data in a folder of its own; user ``joulec``, no password, no TCP."""

    def __init__(self) -> None:
        """Make its data.

        Raises:
            NoServerError: no server is installed, or none may run.
        """
        binaries = _postgres_binaries()
        if binaries is None:
            raise NoServerError("no PostgreSQL server is installed: apt install postgresql")
        self.binaries = binaries
        self.as_user, uid = _unprivileged()
        if self.as_user and shutil.which(self.as_user[0]) is None:
            raise NoServerError("PostgreSQL refuses to run as root, and there is no setpriv to run it as another user")
        self.process: subprocess.Popen[bytes] | None = None
        self.root = Path(tempfile.mkdtemp(prefix="joulec-pg-", dir="/tmp"))  # a socket's path must be short
        if uid is not None:
            os.chown(self.root, uid, -1)
        data = _new_data(binaries, tuple(self.as_user), uid)
        subprocess.run(["cp", "-a", data, self.root / "data"], check=True)

    @property
    def url(self) -> str:
        """Its database, as ``--costs`` takes it."""
        return f"postgresql://joulec@/postgres?host={self.root}"

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
                    raise RuntimeError(f"PostgreSQL did not start:\n{(self.root / 'log').read_text()}") from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: at once (SIGQUIT), or hanging up on all who are connected (SIGINT)."""
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, if it runs, and remove its data."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.root)


def server_or_skip() -> Server:
    """A server that runs, as a context; skips the test where none can be had."""
    import pytest

    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'joulec[postgres]'")
    try:
        server = Server()
    except NoServerError as error:
        pytest.skip(str(error))
    server.start()
    return server
