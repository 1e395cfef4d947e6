"""Programs that measure: killed ones leave no worker behind; unguarded scripts and standard input work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SUPPORT = Path(__file__).parent / "support"

SCRIPT = """
import sys
from joulec.costdb.cost import CostKey
from joulec.costdb.memory import MemoryStore
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.harness import Harness
from joulec.profiler.protocol import Adaptive
sys.path.append({support!r})
import fake_workloads
MARKER = "a module-level effect of the script: run again in the worker, it would start workers without end"
protocol = Adaptive(least_s=0.002, warmup_s=0.001, budget_s=0.05)
def candidate(function, payload):
    key = CostKey("test", "", "", "", "", "own", function, repr(payload), "", "test", "none", "estimated",
                  protocol.version)
    return Candidate(key, "fake_workloads:" + function, payload, Work(1.0, 1.0), function)
harness = Harness(MemoryStore(), fake_workloads.meter, protocol=protocol, threads=1)
for described in {candidates!r}:
    (measurement,) = harness.measure([candidate(*described)])
    sys.stdout.write(repr(measurement.outcome) + "\\n")
    sys.stdout.flush()
harness.close()
"""


def _script(*candidates):
    return SCRIPT.format(support=str(SUPPORT), candidates=candidates)


def _check(result):
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2, result.stdout
    assert lines[0].startswith("Cost(time_s=")
    assert "worker.py, marker False" in lines[1]


def test_an_unguarded_script_measures(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(_script(("busy", 1e-4), ("reports_main", None)))
    _check(subprocess.run([sys.executable, str(file)], capture_output=True, encoding="utf-8", timeout=60))


def test_a_script_on_standard_input_measures(tmp_path):
    script = _script(("busy", 1e-4), ("reports_main", None))
    _check(
        subprocess.run(
            [sys.executable, "-"], input=script, capture_output=True, encoding="utf-8", timeout=60, cwd=tmp_path
        )
    )


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_the_worker_dies_with_a_killed_parent_though_it_never_reads_its_pipe_again(tmp_path):
    file, script = tmp_path / "pid", tmp_path / "script.py"
    script.write_text(_script(("runs_forever", str(file))))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        assert _wait_until(lambda: file.exists() and file.read_text())
        worker = int(file.read_text())
        assert _is_running(worker)
        parent.kill()
        assert _wait_until(lambda: not _is_running(worker), 5.0)
    finally:
        parent.kill()
        parent.wait()


def test_the_worker_ends_at_the_end_of_its_pipe(tmp_path):
    """The second way, where the kernel does not tell: a worker whose pipe closes while its parent lives."""
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    command = [sys.executable, "-m", "joulec.profiler.worker", str(theirs_read), str(theirs_write), str(os.getpid())]
    worker = subprocess.Popen(command, pass_fds=(theirs_read, theirs_write))
    os.close(theirs_read)
    os.close(theirs_write)
    os.close(ours_write)
    try:
        assert worker.wait(timeout=20) == 0
    finally:
        os.close(ours_read)
        worker.kill()


def test_what_was_measured_before_a_kill_is_on_disk(tmp_path):
    database, file = tmp_path / "costs.sqlite", tmp_path / "pid"
    script = tmp_path / "script.py"
    text = _script(("busy", 1e-4), ("fails_to_build", "no"), ("runs_forever", str(file)))
    text = text.replace("from joulec.costdb.memory import MemoryStore", "from joulec.costdb.open import open_store")
    script.write_text(text.replace("MemoryStore()", f"open_store('sqlite:///{database}')"))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        assert _wait_until(lambda: file.exists() and file.read_text())
        parent.send_signal(signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()
    from joulec.costdb.open import open_store

    with open_store(f"sqlite:///{database}") as store:
        assert (store.info().rows, store.info().failures) == (2, 1)
