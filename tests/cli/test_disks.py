"""Full disks, files that cannot be written or are lost: one message, exit code 2, and nothing measured is lost."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_support import FEW, LIMIT_S, Command

from joulec.costdb.exchange import read
from joulec.costdb.open import open_store


@dataclass(frozen=True)
class HomedCommand(Command):
    """The command with its journals in a folder of its own."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "XDG_DATA_HOME": str(self.folder / "data")}

    def journaled(self):
        (journal,) = (self.folder / "data").rglob("*.jsonl")
        return list(read(journal))


@pytest.fixture
def homed(tmp_path):
    return HomedCommand(tmp_path, tmp_path / "costs.db")


@pytest.fixture
def mounting():
    """Runs a shell script in which file systems can be mounted without anybody else seeing them."""
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1) to mount file systems for a test alone")
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount file systems for a test alone")

    def run(script, *arguments, environment):
        words = [*alone, "sh", "-c", script, "sh", sys.executable, *map(str, arguments)]
        return subprocess.run(
            words, env=environment, capture_output=True, encoding="utf-8", timeout=LIMIT_S, check=False
        )

    return run


def complaint(done):
    """The one line of a command that ends on an error of the user's."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("joulec: error: ")
    return last.removeprefix("joulec: error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_recording_on_a_full_disk(joulec, model):
    done = joulec("profile", model, "--meter", "record:/dev/full")
    assert complaint(done).startswith("cannot record to /dev/full: No space left on device")


def test_a_database_that_cannot_grow(homed, model):
    """A limit on the size of files stands for the full disk."""
    command = [sys.executable, "-m", "joulec", "profile", str(model), "--costs", str(homed.costs)]
    done = subprocess.run(
        command,
        cwd=homed.folder,
        env=homed.environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, 100 << 10)),
    )
    message = complaint(done)
    assert message.startswith(f"cost database {homed.costs}")
    assert "check the disk and its free space" in message
    if "is kept in" in message:
        assert len(homed.journaled()) == 1


@pytest.mark.parametrize("words", [("profile", "{model}"), ("db", "info")])
def test_a_read_only_folder(joulec, model, mounting, words):
    script = (
        'python=$1; mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" && shift 2 && exec "$python" -m joulec "$@"'
    )
    words = [word.format(model=model) for word in words]
    done = mounting(script, joulec.folder, *words, environment=joulec.environment())
    message = complaint(done)
    assert message.startswith(f"the cost database {joulec.costs} cannot be kept there: ")
    assert message.endswith("get the permission, or give another with --costs")


FILL = """
import os, sqlite3, sys, time
database, filler = sys.argv[1:]
deadline = time.monotonic() + 120
rows = 0
while rows < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
    try:
        rows = sqlite3.connect(database).execute("SELECT count(*) FROM joulec_costs").fetchone()[0]
    except sqlite3.OperationalError:
        continue
with open(filler, "wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
"""
LAST = r"(the last measurement is|\d+ measurements are)"
FULL = """
python=$1; folder=$2; model=$3; kept=$4; fill=$5
mount -t tmpfs -o size=4m tmpfs "$folder" || exit 70
"$python" -c "$fill" "$folder/costs.db" "$folder/filler" 2>/dev/null &
"$python" -m joulec profile "$model"; code=$?
cp "$folder/costs.db" "$kept" && if [ -e "$folder/costs.db-wal" ]; then cp "$folder/costs.db-wal" "$kept"; fi
exit $code
"""


@pytest.mark.parametrize("journal_too", [False, True])
def test_a_disk_that_is_full_in_mid_run(homed, model, mounting, tmp_path, journal_too):
    """A real one, of 4 MB, which something else fills; the journal is on it too, or on another."""
    (full := tmp_path / "full").mkdir()
    (kept := tmp_path / "kept").mkdir()
    home = full / "data" if journal_too else homed.folder / "data"
    environment = homed.environment() | {"JOULEC_COSTS": str(full / "costs.db"), "XDG_DATA_HOME": str(home)}
    done = mounting(FULL, full, model, kept, FILL, environment=environment)
    message = complaint(done)
    assert message.startswith(f"cost database {full / 'costs.db'} cannot grow: the disk is full")
    with open_store(str(kept / "costs.db")) as store:
        rows = list(store.rows())
    assert rows, "nothing was stored before the disk was full"
    if journal_too:
        assert f"nor can the journal {home}/" in message
        assert re.search(rf"\(No space left on device\): {LAST} lost", message)
    else:
        assert re.search(rf"{LAST} kept in", message)
        assert (kept_apart := homed.journaled())
        assert not [one for one in kept_apart if one in rows]  # though a key measured again may be in both


def wait_for_rows(command, running, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()[1]
        if command.costs.exists():
            with open_store(str(command.costs)) as store:
                if store.info().rows >= count:
                    return {m.key for m in store.rows()}
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows in 120 s")


def deleted(path):
    path.unlink()


def overwritten(path):
    path.write_bytes(b"garbage" * 20_000)


@pytest.mark.parametrize(("command", "how"), [("profile", overwritten), ("compile", deleted)])
def test_a_database_that_is_lost_in_mid_run(homed, model, command, how):
    output = ("-o", "out.joulec") if command == "compile" else ()
    running = homed.start(command, model, *output, *FEW)
    try:
        stored = wait_for_rows(homed, running, 2)
        how(homed.costs)
        out, err = running.communicate(timeout=LIMIT_S)
    finally:
        running.kill()
    message = complaint(subprocess.CompletedProcess((), running.returncode, out, err))
    assert message.startswith(f"cost database {homed.costs} was ")
    assert "while it was in use" in message
    assert f"joulec db merge {homed.folder}/data/" in message
    assert stored <= {m.key for m in homed.journaled()}
    assert not (homed.folder / "out.joulec").exists()
    for file in homed.folder.glob("costs.db*"):
        file.unlink() if file.is_file() else file.rmdir()
    assert homed.json("db", "merge")["new"] >= len(stored)
    with open_store(str(homed.costs)) as store:
        assert stored <= {m.key for m in store.rows()}
