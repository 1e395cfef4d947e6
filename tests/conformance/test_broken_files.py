"""A few files of each kind of damage; ``broken_files.py`` tries a thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_broken_files_end_in_one_line():
    command = [sys.executable, str(HERE / "broken_files.py"), "--count", "36", "--limit", "120", "--json"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 36
    refused = [text for _, _, kind, text in found if kind == "refused"]
    assert len(refused) >= 24
    assert all(text.startswith("joulec: error: ") and len(text) < 1000 for text in refused)
