"""``joulec run``: outputs, timing, and a session under a cap that changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from cli_support import BARE, ROWS, Command, reference

import joulec as package
from joulec.runtime.manifest import Budget

WATTS = {1: 40.0, 2: 60.0, 4: 80.0, 8: 150.0}
MARGIN = 0.8
PHASE_S = 3.0


@pytest.fixture
def here(tmp_path):
    return Command(tmp_path, tmp_path / "costs.db")


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_outputs_are_those_of_onnxruntime(here, batches, rows):
    x = np.random.default_rng(rows).standard_normal((rows, 3, 8, 8)).astype("float32")
    np.savez(here.folder / "in.npz", x=x)
    done = here("run", batches.artifact, "--inputs", "in.npz", "--outputs", "out.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert f"output y: float32[{rows}, 10]" in done.stderr
    with np.load(here.folder / "out.npz", allow_pickle=False) as found:
        assert found.files == ["y"]
        np.testing.assert_allclose(found["y"], reference(batches.model, x), rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in here.folder.iterdir()) == ["in.npz", "out.npz"]


def test_timing(here, batches):
    x = np.random.default_rng(5).standard_normal((4, 3, 8, 8)).astype("float32")
    np.savez(here.folder / "in.npz", x=x)
    report = here.json("run", batches.artifact, "--inputs", "in.npz", "--print-time", "--repeat", "5", "--threads", "1")
    assert report["outputs"] == {"y": {"shape": [4, 10], "dtype": "float32"}}
    time = report["time"]
    assert time["batch"] == 4
    assert time["calls"] >= 5
    assert 0 < time["min_s"] <= time["median_s"]
    assert time["min_s"] <= time["mean_s"]
    assert time["energy_j"] > 0
    assert time["energy_source"] in ("estimated", "rapl")


def test_profile_gives_the_time_of_every_operator(here, compiled):
    report = here.json("run", compiled.artifact, "--profile", "--repeat", "3")
    profile = report["profile"]
    entry = compiled.report["entries"]["1"]
    kernels = [one for one in entry["assignment"] if one["algorithm"] != "tvm" and one["time_s"] > 0]
    found = [step["node"] for step in profile["steps"] if step["node"]]
    assert found == [one["node"] for one in kernels]
    assert profile["time_s"] == pytest.approx(sum(step["time_s"] for step in profile["steps"]))
    assert all(step["time_s"] > 0 for step in profile["steps"])
    assert all(step["predicted_s"] > 0 and step["dram_bytes"] > 0 for step in profile["steps"] if step["node"])
    shown = here("run", compiled.artifact, "--profile", "--repeat", "3")
    assert f"in {len(profile['steps'])} steps" in shown.stderr


@pytest.fixture
def every_size_pays(batches, tmp_path):
    """The artifact, with times in it that make each batch size worth choosing: a session leaves out the others."""
    path = tmp_path / "every.joulec"
    with package.load(batches.artifact) as model:
        model.annotate({(rows, None): Budget(1e-3 * rows**0.5, "measured") for rows in ROWS})
        assert model.useful_batch_sizes == ROWS
        model.save(path)
    return path


def settled_size(cap_w):
    """The one batch size that draws [0.8 cap, cap]."""
    (size,) = [size for size, watts in WATTS.items() if MARGIN * cap_w <= watts <= cap_w]
    return size


@pytest.mark.paced
def test_the_batch_size_follows_a_cap_that_halves_and_returns(here, every_size_pays):
    caps = {0.0: 180.0, PHASE_S: 90.0, 2 * PHASE_S: 180.0}
    (here.folder / "watts.json").write_text(json.dumps({str(size): watts for size, watts in WATTS.items()}))
    trace = "".join(f"{t_s},{cap_w}\n" for t_s, cap_w in caps.items())
    (here.folder / "cap.csv").write_text(f"t_s,cap_w\n{trace}")
    session = here.json(
        "run",
        every_size_pays,
        "--cap-file",
        "cap.csv",
        "--duration",
        f"{3 * PHASE_S}s",
        "--meter",
        "scripted:watts.json",
        "--policy",
        "paper",
        "--plot",
        "run.svg",
    )["session"]
    assert "power in W (simulated)" in (here.folder / "run.svg").read_text()
    assert session["power_source"] == "simulated"
    timeline = session["timeline"]
    for begin_s, cap_w in caps.items():
        late = [one for one in timeline if begin_s + PHASE_S / 2 <= one["t_s"] <= begin_s + PHASE_S - 0.2]
        seconds = Counter()
        for one in late:
            seconds[one["batch"]] += one["seconds"]
        assert seconds.most_common(1)[0][0] == settled_size(cap_w)  # on a busy machine it may settle late
        assert {one["cap_w"] for one in late} == {cap_w}
        assert all(one["power_w"] == pytest.approx(WATTS[one["batch"]]) for one in late)
        assert sum(one["items"] for one in late) > 0
    assert [change["after"] for change in session["batch_changes"]][-1] == session["batch"] == 8
    assert session["above_cap_s"] < PHASE_S
    assert session["items"] == pytest.approx(sum(one["items"] for one in timeline))
    assert session["power_cap_w"] == caps[2 * PHASE_S]


def test_an_artifact_runs_without_onnx_and_without_a_compiler(here, batches):
    """No onnx, no onnxruntime, and no program on the path: neither a C compiler nor a linker."""
    x = np.random.default_rng(5).standard_normal((3, 3, 8, 8)).astype("float32")
    np.savez(here.folder / "in.npz", x=x)
    environment = {**here.environment(), "PATH": ""}
    for words in (
        ["--inputs", "in.npz", "--outputs", "out.npz"],
        ["--duration", "0.5s", "--power-cap", "20W", "--meter", "estimate"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", BARE, "run", str(batches.artifact), *words, "--json"],
            cwd=here.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with np.load(here.folder / "out.npz", allow_pickle=False) as found:
        np.testing.assert_allclose(found["y"], reference(batches.model, x), rtol=1e-4, atol=1e-4)
    session = json.loads(done.stdout)["session"]
    assert session["items"] > 0
    assert session["power_source"] == "estimated"
