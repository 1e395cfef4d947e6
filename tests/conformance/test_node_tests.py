"""A tenth of ONNX's node tests, through the command that `make test-onnx` runs over all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent


def test_a_tenth_of_the_node_tests_is_right():
    command = [sys.executable, str(HERE / "node_tests.py"), "--every", "10", "--json", "--limit", "120"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert done.stdout, done.stderr
    outcomes = json.loads(done.stdout)["joulec"]
    counts = Counter(kind for kind, _ in outcomes.values())
    flawed = {name: outcome for name, outcome in outcomes.items() if outcome[0] in ("wrong", "crashed", "hung")}
    assert flawed == {}
    assert len(outcomes) >= 150
    assert counts["native"] >= 0.85 * len(outcomes)
    assert counts["native"] + counts["external"] >= 0.95 * len(outcomes)
