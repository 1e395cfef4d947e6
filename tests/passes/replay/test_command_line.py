"""``joulec optimize`` and ``joulec reproduce`` on replayed rows, as users run them, TVM hidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from .networks import COSTS, DATA, ROWS, needs_rows, network

WITHOUT_TVM = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tvm", "tvm_ffi"):
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
from joulec.cli import main
try:
    main()
finally:
    assert "tvm" not in sys.modules
"""


def joulec(*arguments: object, home: Path, program: str = WITHOUT_TVM) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "JOULEC_COSTS": str(home / "costs.db"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120)


def entry(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["entries"]["1"]


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    path = tmp_path / "resnet.onnx"
    onnx.save(network("resnet50"), path)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows for two parallel convolutions and for what merges them."""
    path = tmp_path / "rows.txt"
    path.write_text(
        "conv,1,4,8,8,4,3,3,1,1,1,1,0,<0>|0.02|100\n"
        "conv,1,4,8,8,4,3,3,1,1,1,1,0,<1>|0.03|50\n"
        "conv,1,4,8,8,8,3,3,1,1,1,1,0,<0>|0.025|70\n"
        "conv,1,4,8,8,4,1,1,1,1,0,0,0,<0>|0.01|100\n"
    )
    return path


def parallel(path: Path, kernels: tuple[int, int] = (3, 3), batch: int | str = 1) -> Path:
    """Two convolutions of one input."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index, size in enumerate(kernels):
        weights.append(numpy_helper.from_array(rng.standard_normal((4, 4, size, size)).astype("f"), f"w{index}"))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", ["x", f"w{index}"], [f"y{index}"], name=f"conv{index}", pads=pads))
    types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4, 8, 8]) for name in ("x", "y0", "y1")]
    graph = helper.make_graph(nodes, "parallel", types[:1], types[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@needs_rows
def test_the_better_graph_is_written_and_verified(resnet, tmp_path):
    out = tmp_path / "better.onnx"
    done = joulec("optimize", resnet, "--costs", COSTS, "-o", out, "--explain", "--frontier", "--json", home=tmp_path)
    found = entry(done)
    assert {found[row]["time_source"] for row in ("origin", "predicted")} == {"replay"}
    assert {found[row]["energy_source"] for row in ("origin", "predicted")} == {"replay"}
    assert set(found["measured"].values()) == {None}
    assert found["predicted"]["energy_j"] == pytest.approx(0.14381, rel=1e-4)
    report = json.loads(done.stdout)
    assert report["verified"]["inputs"] >= 3
    assert report["verified"]["max_relative_error"] <= 1e-5
    assert report["profiling"]["measured"] == 0
    steps = found["explain"]["steps"]
    assert [step["rule"] for step in steps] == ["algorithms", *["merge-convolutions"] * 3]
    saved = sum(step["saved_energy_j"] for step in steps)
    assert saved == pytest.approx(found["origin"]["energy_j"] - found["predicted"]["energy_j"], rel=1e-9)
    assert steps[-1]["time_s"] == pytest.approx(found["predicted"]["time_s"], rel=1e-9)
    assert found["frontier"][-1]["energy_j"] == pytest.approx(found["predicted"]["energy_j"], rel=1e-9)
    written = onnx.load(out)
    onnx.checker.check_model(written, full_check=True)
    feeds = {"data": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f")}
    assert [value.name for value in written.graph.input] == ["data"]
    names = {value.name for value in written.graph.output}
    assert names == {value.name for value in network("resnet50").graph.output}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["better.onnx", "resnet.onnx"]
    assert len(onnxruntime.InferenceSession(out).get_inputs()) == len(feeds)


def test_graphs_without_rows_are_reported(tmp_path, rows):
    model = parallel(tmp_path / "model.onnx", (3, 1))
    kept = entry(joulec("optimize", model, "--costs", f"mlsys20:{rows}", "--json", home=tmp_path))
    assert [one["rule"] for one in kept["search"]["substitutions"]] == ["merge-enlarged-convolutions"]
    rows.write_text("".join(line for line in rows.read_text().splitlines(True) if ",8,8,8,3" not in line))
    lost = entry(joulec("optimize", model, "--costs", f"mlsys20:{rows}", "--json", home=tmp_path))
    assert lost["search"]["inadmissible"] > kept["search"]["inadmissible"]
    assert lost["search"]["substitutions"] == []


def test_near_matches_are_explained(tmp_path, rows):
    model = parallel(tmp_path / "model.onnx", (3, 1))
    done = joulec(
        "optimize", model, "--costs", f"mlsys20:{rows}", "--explain", "merge-convolutions", "--json", home=tmp_path
    )
    explained = entry(done)["explain"]
    assert explained["rule"] == "merge-convolutions"
    (place,) = explained["original"]
    assert set(place["nodes"]) == {"conv0", "conv1"}
    assert not place["applies"]
    assert "3" in place["reason"]
    assert "1" in place["reason"]
    assert explained["best"] == []


def fails(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    for part in parts:
        assert part in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_users_get_wrong_ends_with_one_line(tmp_path, rows):
    model = parallel(tmp_path / "model.onnx")
    costs = f"mlsys20:{rows}"
    out = tmp_path / "out.onnx"

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return joulec(*arguments, home=tmp_path)

    with_tvm = "from joulec.cli import main; main()"
    compiling = joulec("compile", model, "-o", tmp_path / "a.joulec", "--costs", costs, home=tmp_path, program=with_tvm)
    fails(compiling, "joulec optimize", costs)
    fails(run("profile", model, "--costs", costs), "joulec optimize", costs)
    fails(run("optimize", model, "--costs", f"mlsys20:{tmp_path}/none.txt"), "none.txt", "No such file")
    fails(run("optimize", model, "--costs", costs, "--meter", "rapl"), "--meter rapl")
    fails(run("optimize", model, "--costs", costs, "--explain", "merge-everything"), "merge-everything", "place-concat")
    fails(run("optimize", model, "--costs", costs, "-o", tmp_path / "none" / "out.onnx"), "does not exist")
    fails(run("optimize", model, "--costs", costs, "-o", tmp_path), "not a file")
    broken = tmp_path / "broken.txt"
    broken.write_text(rows.read_text() + "conv,1,2|fast|100\n")
    fails(run("optimize", model, "--costs", f"mlsys20:{broken}"), "line 5")
    several = parallel(tmp_path / "several.onnx", batch="n")
    fails(run("optimize", several, "--costs", costs, "--batch-sizes", "1,2", "-o", out), "--batch-sizes", "one")
    assert not out.exists()


def test_an_original_without_rows_is_named(tmp_path, rows):
    model = parallel(tmp_path / "model.onnx", (3, 5))
    fails(joulec("optimize", model, "--costs", f"mlsys20:{rows}", home=tmp_path), "conv1")


@needs_rows
def test_the_papers_tables_are_regenerated(tmp_path):
    done = joulec("reproduce", "energy-aware", "--costs", COSTS, "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    tables = {table["number"]: table for table in json.loads(done.stdout)["tables"]}
    assert sorted(tables) == [1, 2, 3, 4, 5]
    for line in tables[1]["lines"]:
        assert line["predicted"]["time_ms"] == pytest.approx(line["paper"]["time_ms"], rel=0.02), line
        assert line["predicted"]["power_w"] == pytest.approx(line["paper"]["power_w"], rel=0.001), line
    for line in tables[2]["lines"]:
        assert line["predicted"]["energy_mj"] == pytest.approx(line["paper"]["energy_mj"], rel=0.01), line
    exact = [tables[2]["lines"][index] for index in (0, 1, 3, 4, 7)]
    for line in exact:
        assert line["predicted"]["energy_mj"] == pytest.approx(line["paper"]["energy_mj"], abs=0.011), line
    predicted = {line["label"]: line["predicted"] for table in tables.values() for line in table["lines"]}
    assert predicted["SqueezeNet: best energy"]["energy_mj"] == pytest.approx(62.12, rel=1e-3)
    assert predicted["SqueezeNet: MetaFlow best time"] is None
    times = [line["predicted"]["time_ms"] for line in tables[4]["lines"]]
    joules = [line["predicted"]["energy_mj"] for line in tables[4]["lines"]]
    assert times == sorted(times)
    assert joules == sorted(joules, reverse=True)
    by = {line["label"]: line["predicted"]["energy_mj"] for line in tables[5]["lines"]}
    assert by["both"] < min(by["outer search only"], by["inner search only"])
    assert max(by["outer search only"], by["inner search only"]) < by["origin"]


@needs_rows
def test_networks_may_lie_elsewhere(tmp_path):
    done = joulec("reproduce", "energy-aware", "--costs", COSTS, "--networks", tmp_path, home=tmp_path)
    fails(done, "graph_squeezenet.json", "No such file")
    fails(joulec("reproduce", "energy-aware", "--costs", "model", home=tmp_path), "mlsys20:FILE")
    (tmp_path / "graph_squeezenet.json").write_text(ROWS.read_text())
    fails(
        joulec("reproduce", "energy-aware", "--costs", COSTS, "--networks", tmp_path, home=tmp_path),
        "does not describe",
    )
    assert (DATA / "graph_squeezenet.json").exists()
