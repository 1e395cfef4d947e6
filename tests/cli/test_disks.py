"""Full disks and files that cannot be written, through the real command: one message, exit code 2, no traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_recording_on_a_full_disk(joulec, model):
    done = joulec("profile", model, "--meter", "record:/dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("joulec: error: cannot record to /dev/full: No space left on device")
    assert "Traceback" not in done.stderr


def test_a_database_that_cannot_grow(joulec, model):
    """A limit on the size of files stands for the full disk."""
    command = [sys.executable, "-m", "joulec", "profile", str(model), "--costs", str(joulec.costs)]
    environment = {**joulec.environment(), "HOME": str(joulec.folder), "XDG_DATA_HOME": str(joulec.folder)}
    done = subprocess.run(
        command,
        cwd=joulec.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60 << 10, 60 << 10)),
    )
    assert done.returncode == 2, done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"joulec: error: cost database {joulec.costs}")
    assert "check the disk and its free space" in message
    assert "Traceback" not in done.stderr
