"""``joulec compile --variants``: points of the frontier in one artifact, compared, measured, and run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_support import BARE, FEW, Command, reference, small_model

import joulec as package
from joulec.runtime.manifest import Budget
from joulec.variants import Variant, Variants, names_of, settle_names

NAMES = ["fast", "balanced", "frugal"]


@pytest.fixture(scope="module")
def priced(tmp_path_factory) -> Command:
    """A small model of 2 MB whose costs are known: TVM's own lowering is quick and hungry, our kernels the reverse."""
    folder = tmp_path_factory.mktemp("variants")
    command = Command(folder, folder / "costs.db")
    small_model(folder / "small.onnx", classes=2000)
    for _ in range(2):  # what costs so much leaves nothing out: the second time measures the rest
        done = command("optimize", "small.onnx", *FEW, "--batch-sizes", "1,4", "--frontier")
        assert done.returncode == 0, done.stderr
        with sqlite3.connect(folder / "costs.db") as database:
            database.execute("UPDATE joulec_costs SET time_s = 1e-3, energy_j = 20e-3 WHERE algorithm LIKE 'tvm%'")
            database.execute("UPDATE joulec_costs SET time_s = 2e-3, energy_j = 10e-3 WHERE algorithm NOT LIKE 'tvm%'")
    return command


@pytest.fixture(scope="module")
def report(priced):
    options = ("--variants", "frontier:3", "--batch-sizes", "1,4", *FEW, "--json")
    done = priced("compile", "small.onnx", "-o", "three.joulec", *options)
    assert done.returncode == 0, done.stderr
    assert "best under the objective" in done.stderr
    return json.loads(done.stdout)


def test_points_from_fast_to_frugal_each_measured(report):
    assert report["profiling"]["measured"] == 0
    assert report["verified"]["inputs"] == 3 * 3 * 2  # for each variant and batch size
    for entry in report["entries"].values():
        assert [one["variant"] for one in entry["variants"]] == NAMES
        times = [one["measured"]["time_s"] for one in entry["variants"]]
        assert times == sorted(times)  # whatever was predicted
        points = sorted((one["predicted"]["time_s"], one["predicted"]["energy_j"]) for one in entry["variants"])
        assert [energy_j for _, energy_j in points] == sorted((energy_j for _, energy_j in points), reverse=True)
        best = min(entry["variants"], key=lambda one: one["predicted"]["energy_j"])  # the objective is energy
        assert entry["variant"] == best["variant"]
        assert entry["predicted"] == best["predicted"]
        for one in entry["variants"]:
            assert one["measured"]["time_source"] == "measured"
            assert one["measured"]["energy_source"] in ("estimated", "rapl")


def test_one_artifact_is_smaller_than_three_and_runs_each(priced, report):
    single = priced("compile", "small.onnx", "-o", "one.joulec", "--batch-sizes", "1,4", *FEW)
    assert single.returncode == 0, single.stderr
    sizes = [Path(priced.folder, name).stat().st_size for name in ("three.joulec", "one.joulec")]
    assert sizes[0] < 1.2 * sizes[1]  # other layouts of the same weights take next to no room
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype("float32")
    wanted = reference(priced.folder / "small.onnx", x)
    with package.load(priced.folder / "three.joulec") as model:
        assert model.variants == tuple(NAMES)
        for name in (None, *NAMES):
            np.testing.assert_allclose(model.run([x], name)[0], wanted, rtol=1e-3, atol=1e-3)
        algorithms = {name: {a.algorithm for a in model.entry(1, name).assignment} for name in NAMES}
    assert algorithms["fast"] != algorithms["balanced"] != algorithms["frugal"]


def test_run_and_sweep_tell_the_variant(priced, report):
    timed = priced.json("run", "three.joulec", "--print-time", "--repeat", "3", "--variant", "fast")
    assert timed["time"]["variant"] == "fast"
    options = ("--duration", "0.5s", "--power-cap", "100W", "--meter", "estimate", "--plot", "run.svg")
    session = priced.json("run", "three.joulec", *options)["session"]
    assert session["variant"] in NAMES
    assert {sample["variant"] for sample in session["timeline"]} <= set(NAMES)
    assert "fast" in (priced.folder / "run.svg").read_text() or len({s["variant"] for s in session["timeline"]}) == 1
    swept = priced.json("sweep", "three.joulec", "--duration", "0.1s", "--meter", "estimate", "--batch-sizes", "4")
    assert [(row["batch"], row["variant"]) for row in swept["sizes"]] == [(4, name) for name in NAMES]
    wrong = priced("run", "three.joulec", "--variant", "green")
    assert wrong.returncode == 2
    assert "variant 'green' was not compiled; there are fast, balanced, frugal" in wrong.stderr


def test_variants_run_without_onnx_and_without_a_compiler(priced, report):
    """As any artifact: no onnx, no onnxruntime, no program on the path."""
    words = ["three.joulec", "--duration", "0.5s", "--power-cap", "100W", "--meter", "estimate", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BARE, "run", *words],
        cwd=priced.folder,
        env={**priced.environment(), "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["session"]["variant"] in NAMES


def test_what_was_measured_gives_the_names():
    def variant(name, batch=1):
        return Variant(SimpleNamespace(source=SimpleNamespace(batch=batch)), None, name)

    variants = Variants(("fast", "balanced", "frugal"), tuple(map(variant, ("frugal", "fast", "balanced"))))
    told = []
    progress = SimpleNamespace(warn=told.append)
    budgets = {"fast": (3e-3, 5e-3), "balanced": (1e-3, 6e-3), "frugal": (2e-3, 4e-3)}
    measured = {(1, name): Budget(t, "measured", e, "rapl") for name, (t, e) in budgets.items()}
    names = settle_names(variants, measured, progress)
    assert names == {(1, "balanced"): "fast", (1, "frugal"): "balanced", (1, "fast"): "frugal"}
    assert len(told) == 1
    assert "batch 1: a variant faster than frugal takes no more energy" in told[0]
    assert settle_names(Variants((), (variant(None),)), {}, progress) == {}


def test_words_that_are_no_variants(priced):
    for words, message in (("pareto:3", "write frontier:3"), ("frontier:0", "from 1 to 16"), ("frontier:99", "16")):
        done = priced("compile", "small.onnx", "-o", "x.joulec", "--variants", words)
        assert done.returncode == 2
        assert message in done.stderr


def test_names():
    assert [names_of(count) for count in (1, 2, 4)] == [
        ("fast",), ("fast", "frugal"), ("fast", "balanced-1", "balanced-2", "frugal"),
    ]  # fmt: skip


def test_a_frontier_of_fewer_points_is_said(priced, tmp_path):
    done = priced("compile", "small.onnx", "-o", tmp_path / "m", *FEW, "--variants", "frontier:3", "--costs", "model")
    assert done.returncode == 0, done.stderr
    assert "at least 1% apart, and 3 were asked for" in done.stderr
