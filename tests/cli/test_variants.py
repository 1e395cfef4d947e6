"""``joulec compile --variants``: points of the frontier in one artifact, compared, measured, and run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_support import BARE, FEW, Command, product_model, reference, small_model

import joulec as package
from joulec.compiler import compile_model
from joulec.options import CompileOptions, OptionError
from joulec.passes.search.frontier import FrontierSearch
from joulec.passes.search.results import Plan
from joulec.passes.search.totals import Totals
from joulec.runtime.manifest import Budget
from joulec.variants import Variant, Variants, names_of, parse_variants, settle_names

NAMES = ["fast", "balanced", "frugal"]


def three_points(search, graph, bounds=None) -> list[Plan]:
    """A frontier: TVM's own lowering is quick and hungry; where there are kernels of ours, they are less so."""
    search.costs.prepare({node.spec for node in graph.nodes})
    options = [search.costs.options(node.spec) for node in graph.nodes]
    time_s, energy_j = (sum(of.cheapest_point(*line)[part] for of in options) for part, line in enumerate(LINES))
    plans = []
    for place, (slower, thriftier) in zip((-1, 0), ((0.5, 2.0), (0.7, 1.5)), strict=True):
        choices = tuple(of.choices[place] for of in options)
        plans.append(Plan(graph, choices, Totals(time_s * slower, energy_j * thriftier)))
    return plans


LINES = ((1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True)
class Made:
    """An artifact of three variants and one of a single one, with the report of the first."""

    command: Command
    report: Mapping[str, Any]

    def path(self, name: str) -> Path:
        return self.command.folder / name


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("variants")
    command = Command(folder, folder / "costs.db")
    model = small_model(folder / "small.onnx", classes=2000)  # 2 MB
    options = CompileOptions(costs="model", budget=0, threads=2, batch_sizes=[4], variants="frontier:3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrontierSearch, "run", three_points)
        three = compile_model(model, options)
    with three.model, compile_model(model, replace(options, variants=None)).model as one:
        three.model.save(folder / "three.joulec")
        one.save(folder / "one.joulec")
    return Made(command, three.report)


def test_points_from_fast_to_frugal_each_measured(made):
    assert made.report["verified"]["inputs"] == 3 * 3  # for each variant
    for entry in made.report["entries"].values():
        assert [one["variant"] for one in entry["variants"]] == NAMES
        times = [one["measured"]["time_s"] for one in entry["variants"]]
        assert times == sorted(times)  # whatever was predicted
        best = min(entry["variants"], key=lambda one: one["predicted"]["energy_j"])  # the objective is energy
        assert entry["variant"] == best["variant"]
        assert entry["predicted"] == best["predicted"]
        for one in entry["variants"]:
            assert one["measured"]["time_source"] == "measured"
            assert one["measured"]["energy_source"] in ("estimated", "rapl")


def test_one_artifact_is_smaller_than_three_and_runs_each(made):
    three, one = (made.path(name).stat().st_size for name in ("three.joulec", "one.joulec"))
    assert three < 1.2 * one  # other layouts of the same weights take next to no room
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype("float32")
    wanted = reference(made.path("small.onnx"), x)
    with package.load(made.path("three.joulec")) as model:
        assert model.variants == tuple(NAMES)
        for name in (None, *NAMES):
            np.testing.assert_allclose(model.run([x], name)[0], wanted, rtol=1e-3, atol=1e-3)
        chosen = {tuple(a.algorithm for a in model.entry(4, name).assignment) for name in NAMES}
    assert len(chosen) > 1


def test_run_and_sweep_tell_the_variant(made):
    run = made.command
    timed = run.json("run", "three.joulec", "--print-time", "--repeat", "3", "--variant", "fast")
    assert timed["time"]["variant"] == "fast"
    options = ("--duration", "0.5s", "--power-cap", "100W", "--meter", "estimate", "--plot", "run.svg")
    session = run.json("run", "three.joulec", *options)["session"]
    assert session["variant"] in NAMES
    assert {sample["variant"] for sample in session["timeline"]} <= set(NAMES)
    assert "fast" in made.path("run.svg").read_text() or len({s["variant"] for s in session["timeline"]}) == 1
    swept = run.json("sweep", "three.joulec", "--duration", "0.1s", "--meter", "estimate", "--batch-sizes", "4")
    assert [(row["batch"], row["variant"]) for row in swept["sizes"]] == [(4, name) for name in NAMES]
    wrong = run("run", "three.joulec", "--variant", "green")
    assert wrong.returncode == 2
    assert "variant 'green' was not compiled; there are fast, balanced, frugal" in wrong.stderr


def test_variants_run_without_onnx_and_without_a_compiler(made):
    """As any artifact: no onnx, no onnxruntime, no program on the path."""
    words = ["three.joulec", "--duration", "0.5s", "--power-cap", "100W", "--meter", "estimate", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BARE, "run", *words],
        cwd=made.command.folder,
        env={**made.command.environment(), "PATH": ""},
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
    same = {one.key: one.name for one in variants.items}
    for unknown in ({}, {**measured, (1, "fast"): Budget()}):
        assert settle_names(variants, unknown, progress) == same


def test_words_that_are_no_variants():
    for words, message in (("pareto:3", "write frontier:3"), ("frontier:0", "from 1 to 16"), (99, "from 1 to 16")):
        with pytest.raises(OptionError, match=message):
            parse_variants(words)
    assert [parse_variants(words) for words in (None, 2, "3", "frontier:4")] == [1, 2, 3, 4]


def test_names():
    assert [names_of(count) for count in (1, 2, 4)] == [
        ("fast",), ("fast", "frugal"), ("fast", "balanced-1", "balanced-2", "frugal"),
    ]  # fmt: skip


def test_a_frontier_of_fewer_points_is_said(tmp_path):
    command = Command(tmp_path, tmp_path / "costs.db")
    product_model(tmp_path / "small.onnx")
    words = ("--variants", "frontier:3", "--costs", "model", *FEW)
    done = command("compile", "small.onnx", "-o", "m.joulec", *words)
    assert done.returncode == 0, done.stderr
    assert "at least 1% apart, and 3 were asked for" in done.stderr
    done = command("compile", "small.onnx", "-o", "m.joulec", "--variants", "pareto:3")
    assert done.returncode == 2
    assert "write frontier:3" in done.stderr
