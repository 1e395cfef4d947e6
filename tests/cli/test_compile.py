"""``joulec compile``, ``optimize`` and ``profile``: what they print, write and keep."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import onnx
import pytest
import safetensors.numpy
from cli_support import FEW, ROWS, Command, forked, small_model
from onnx import numpy_helper

BUDGET = {"time_s": float, "time_source": str, "energy_j": float, "energy_source": str, "power_w": float}
SEARCH = {
    "graphs_expanded": int,
    "graphs_generated": int,
    "duplicates": int,
    "seconds": float,
    "optimal": bool,
    "gap": (int, float, type(None)),
    "cut": bool,
    "substitutions": list,
}
ASSIGNED = {
    "node": str,
    "operator": str,
    "algorithm": str,
    "time_s": (int, float, type(None)),
    "energy_j": (int, float, type(None)),
}
PROFILING = {"measured": int, "reused": int, "failed": int, "seconds": (int, float)}


POOLED = (["conv2d", "max_pool2d"], ["pooled_conv2d"])
"""The second convolution and the pooling behind it, apart and in one."""


def has_shape(found, shape):
    """These fields, of just these types (a bool is no number)."""
    assert set(found) >= set(shape)
    for name, kind in shape.items():
        value = found[name]
        assert isinstance(value, kind), (name, value)
        assert isinstance(value, bool) == (kind is bool), (name, value)


def check_entry(entry, measured):
    assert set(entry) >= {"origin", "predicted", "measured", "search", "assignment"}
    for row in ("origin", "predicted"):
        has_shape(entry[row], BUDGET)
        assert entry[row]["power_w"] == pytest.approx(entry[row]["energy_j"] / entry[row]["time_s"])
    if measured:
        has_shape(entry["measured"], BUDGET)
        assert entry["measured"]["time_source"] == "measured"
        assert entry["measured"]["time_s"] > 0
    else:
        assert entry["measured"] == dict.fromkeys(BUDGET)
    has_shape(entry["search"], SEARCH)
    for substitution in entry["search"]["substitutions"]:
        has_shape(substitution, {"rule": str, "count": int})
    operators = [one["operator"] for one in entry["assignment"]]
    assert operators in (["conv2d", *pooled, "reshape", "matmul"] for pooled in POOLED)
    for one in entry["assignment"]:
        has_shape(one, ASSIGNED)


def families(report, batch="1"):
    return {one["algorithm"].split("(")[0] for one in report["entries"][batch]["assignment"]}


def test_the_table_goes_to_standard_error_and_one_object_to_standard_output(compiled):
    report = compiled.report  # json.loads refuses anything beside one object
    assert set(report) >= {"entries", "profiling", "verified"}
    assert list(report["entries"]) == ["1"]
    check_entry(report["entries"]["1"], measured=True)
    has_shape(report["profiling"], PROFILING)
    assert report["profiling"]["measured"] >= 6
    assert (report["profiling"]["reused"], report["profiling"]["failed"]) == (0, 0)
    has_shape(report["verified"], {"inputs": int, "max_relative_error": float, "reference": str})
    assert report["verified"]["reference"].startswith("onnxruntime")
    assert 0 <= report["verified"]["max_relative_error"] < 1e-3
    lines = compiled.done.stderr.splitlines()
    for row in ("original", "predicted", "measured"):
        shown = next(line for line in lines if f" {row} " in line)
        assert "measured" in shown.split("│")[-3]
        assert report["entries"]["1"]["predicted"]["energy_source"] in shown.split("│")[-2]
    assert any(str(compiled.artifact) in line for line in lines)


def test_the_sum_of_the_assignment_is_the_prediction(compiled):
    entry = compiled.report["entries"]["1"]
    for figure in ("time_s", "energy_j"):
        parts = sum(one[figure] for one in entry["assignment"]) + entry["conversions"][figure]
        assert parts == pytest.approx(entry["predicted"][figure])
    assert entry["predicted"]["energy_j"] <= entry["origin"]["energy_j"] * (1 + 1e-9)


def test_a_second_compilation_measures_nothing(compiled, tmp_path):
    report = compiled.joulec.json("compile", compiled.model, "-o", tmp_path / "again.joulec", *FEW)
    assert report["profiling"]["measured"] == 0
    assert report["profiling"]["reused"] == compiled.report["profiling"]["measured"]
    assert report["entries"]["1"]["predicted"] == compiled.report["entries"]["1"]["predicted"]


def test_a_second_model_reuses_the_rows_of_operators_that_it_shares(compiled, tmp_path):
    other = small_model(tmp_path / "other.onnx", classes=12)
    report = compiled.joulec.json("profile", other, *FEW)
    assert set(report) == {"profiling"}
    has_shape(report["profiling"], {**PROFILING, "unknown": int})
    assert report["profiling"]["reused"] >= 4  # two convolutions, and the pooling by two algorithms
    assert report["profiling"]["measured"] >= 2  # the product by two algorithms
    both = report["profiling"]["reused"] + report["profiling"]["measured"]
    assert both == compiled.report["profiling"]["measured"]
    assert report["profiling"]["unknown"] == 0


def test_batch_sizes_share_each_weight(batches):
    report = batches.report
    assert list(report["entries"]) == [str(size) for size in ROWS]
    for entry in report["entries"].values():
        check_entry(entry, measured=True)
        assert entry["predicted"]["time_source"] == "estimated"
    with zipfile.ZipFile(batches.artifact) as archive:
        assert sorted(archive.namelist()) == ["library.so", "manifest.json", "weights.safetensors"]
        weights = safetensors.numpy.load(archive.read("weights.safetensors"))
        manifest = json.loads(archive.read("manifest.json"))["manifest"]
    assert [entry["batch"] for entry in manifest["entries"]] == list(ROWS)
    assert all(set(entry["weights"]) == set(weights) for entry in manifest["entries"])
    kept = sorted(np.sort(array, axis=None).tobytes() for array in weights.values())
    stored = onnx.load(batches.model).graph.initializer
    assert kept == sorted(np.sort(numpy_helper.to_array(tensor), axis=None).tobytes() for tensor in stored)


OPTIMIZED = {
    "energy": (),
    "sum": ("--objective", "0.5*energy + 0.5*time", "--budget", "0", "--inner", "none"),
    "product": ("--objective", "energy**0.3 * time**0.7", "--inner", "neighbourhood", "--distance", "2"),
    "haswell": ("--objective", "1e3*energy_j + time_s", "--threads", "1", "--target", "llvm -mcpu=haswell"),
    "bounds": ("--objective", "power", "--max-time", "1s", "--max-power", "1kW", "--max-energy", "1kJ"),
    "excluded": ("--exclude-algorithm", "winograd", "--exclude-algorithm", "nosuch"),
}


@pytest.fixture(scope="module")
def optimized(tmp_path_factory, model):
    """``joulec optimize --costs model`` under each of the options."""
    command = Command(folder := tmp_path_factory.mktemp("optimized"), folder / "costs.db")
    cases = [(command, ("optimize", model, "--costs", "model", "--json", *options)) for options in OPTIMIZED.values()]
    return command, dict(zip(OPTIMIZED, forked(cases), strict=True))


@pytest.mark.parametrize("name", OPTIMIZED)
def test_optimize_prices_by_the_roofline(optimized, name):
    command, runs = optimized
    assert runs[name].returncode == 0, runs[name].stderr
    report = json.loads(runs[name].stdout)
    assert report["verified"] is None
    assert report["profiling"] == {"measured": 0, "reused": 0, "failed": 0, "seconds": 0.0}
    entry = report["entries"]["1"]
    check_entry(entry, measured=False)
    for row in ("origin", "predicted"):
        assert (entry[row]["time_source"], entry[row]["energy_source"]) == ("estimated", "estimated")
    assert not command.costs.exists()


def test_searches_can_be_turned_off(optimized):
    entry = json.loads(optimized[1]["sum"].stdout)["entries"]["1"]
    assert entry["search"]["graphs_expanded"] == 0
    assert entry["search"]["substitutions"] == []
    assert entry["predicted"]["time_s"] == pytest.approx(entry["origin"]["time_s"])
    assert json.loads(optimized[1]["energy"].stdout)["entries"]["1"]["search"]["graphs_expanded"] > 0


def test_an_excluded_algorithm_is_not_assigned(optimized):
    assert "winograd" in families(json.loads(optimized[1]["energy"].stdout))
    assert "winograd" not in families(json.loads(optimized[1]["excluded"].stdout))
    assert "no algorithm is called nosuch" in optimized[1]["excluded"].stderr


def test_threads_and_target_change_the_price(optimized):
    free, haswell = (
        json.loads(optimized[1][name].stdout)["entries"]["1"]["predicted"] for name in ("energy", "haswell")
    )
    assert haswell != free


def test_a_target_other_than_this_machine_is_compiled_for(joulec, model):
    options = ("--costs", "model", "--target", "llvm -mcpu=haswell")
    (done,) = forked([(joulec, ("compile", model, "-o", "out.joulec", *options))])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    with zipfile.ZipFile(joulec.folder / "out.joulec") as archive:
        assert "haswell" in json.loads(archive.read("manifest.json"))["manifest"]["target"]


def test_bounds_that_cannot_be_kept_name_the_nearest_point(compiled, tmp_path):
    out = tmp_path / "out.joulec"
    words = ("compile", compiled.model, "-o", out, *FEW, "--max-time", "1ns", "--json")
    (done,) = forked([(compiled.joulec, words)])
    assert done.returncode == 2
    assert done.stdout == ""
    error = done.stderr.splitlines()[-1]
    assert error.startswith("joulec: error: ")
    assert "time ≤ 1 ns" in error
    assert "the nearest takes" in error
    assert "µs" in error
    assert not out.exists()


def test_profiling_ends_in_its_time(joulec, model):
    (done,) = forked([(joulec, ("profile", model, "--time-budget", "1ms", "--json"))])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["profiling"]["measured"] == 0
    assert report["profiling"]["unknown"] > 0
    assert joulec.json("db", "info")["rows"] == 0
