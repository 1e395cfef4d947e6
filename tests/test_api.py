"""The Python API: from any kind of program, with any kind of tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import joulec
from joulec.runtime.inputs import InputError

sys.path.append(str(Path(__file__).parent / "cli" / "support"))

from cli_support import Command, product_model, reference, small_model

ROOT = Path(__file__).parents[1]

PROGRAM = """
with open("runs.txt", "a") as file:
    file.write("run\\n")

import numpy as np

import joulec

model = joulec.compile("product.onnx", objective="time", threads=1)
x = np.random.default_rng(1).standard_normal((1, 16)).astype("float32")
np.savez("done.npz", x=x, y=model(x))
"""
"""Not guarded by a test of __name__: a worker that imported it would run it again."""


@pytest.fixture
def program(tmp_path):
    product_model(tmp_path / "product.onnx")
    return Command(tmp_path, tmp_path / "costs.db")


def from_file(command):
    (command.folder / "program.py").write_text(PROGRAM)
    return command.python(["program.py"])


def from_standard_input(command):
    return command.python(["-"], PROGRAM)


def from_a_cell(command):
    """As a notebook does: the text is nowhere on disk, and runs in the namespace of __main__."""
    return command.python(["-c", f"exec(compile({PROGRAM!r}, '<cell 1>', 'exec'), globals())"])


@pytest.mark.parametrize("start", [from_file, from_standard_input, from_a_cell])
def test_candidates_are_measured_from_any_program(program, start):
    done = start(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (program.folder / "runs.txt").read_text() == "run\n"
    assert program.json("db", "info")["rows"] == 2
    with np.load(program.folder / "done.npz") as found:
        np.testing.assert_allclose(found["y"], reference(program.folder / "product.onnx", found["x"]), rtol=1e-4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("api") / "small.onnx")


@pytest.fixture(scope="module")
def model(path):
    """The small model at two batch sizes, priced by the roofline."""
    with joulec.compile(path, batch_sizes=[4, 1], costs="model", threads=2) as model:
        yield model


@pytest.fixture
def x():
    return np.random.default_rng(2).standard_normal((7, 3, 8, 8)).astype("float32")


def test_what_was_chosen_is_told(model):
    assert model.batch_sizes == (1, 4)
    assert (model.input_names, model.output_names) == (("x",), ("y",))
    for entry in model.manifest.entries:
        assert entry.predicted.time_source == "estimated"
        assert entry.measured.time_source == "measured"
        assert [one.operator for one in entry.assignment][:2] == ["conv2d", "pooled_conv2d"]


def test_progress_is_told_where_it_is_asked_for(path, capsys):
    with joulec.compile(path, costs="model", measure=False, budget=0, progress=True):
        told = capsys.readouterr().err
    assert "batch 1: 0 graphs expanded" in told
    with joulec.compile(path, costs="model", measure=False, budget=0):
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 7])
def test_any_number_of_rows(model, path, x, rows):
    y = model(x[:rows])
    assert y.dtype == np.float32
    assert y.shape == (rows, 10)
    if rows:
        np.testing.assert_allclose(y, reference(path, x[:rows]), rtol=1e-4, atol=1e-4)


def test_inputs_by_name(model, x):
    np.testing.assert_array_equal(model(x=x), model(x))
    with pytest.raises(InputError, match="no input 'image'; it takes x"):
        model(image=x)
    with pytest.raises(InputError, match="by position and by name"):
        model(x, x=x)
    with pytest.raises(InputError, match=r"must be float32\[rows,3,8,8\], not float64"):
        model(x.astype("float64"))


def test_outputs_are_the_callers(model, x):
    first = model(x[:1])
    kept = first.copy()
    model(x[1:2])
    np.testing.assert_array_equal(first, kept)


class Exported:
    """A tensor of some other library: nothing but DLPack."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_dlpack(model, x):
    np.testing.assert_array_equal(model(Exported(x)), model(x))
    import tvm

    np.testing.assert_array_equal(model(tvm.runtime.tensor(x)), model(x))


def test_saved_and_loaded(model, x, tmp_path):
    path = model.save(tmp_path / "model.joulec")
    with joulec.load(path, threads=1) as loaded:
        assert loaded.manifest == model.manifest
        np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_session_on_a_model(model, x):
    with model.session(power_cap_w=150, latency_slo_s=0.5) as session:
        futures = [session.submit(x[row : row + 1]) for row in range(7)]
        y = np.concatenate([future.result(60) for future in futures])
        assert session.power_cap_w == 150
    np.testing.assert_allclose(y, model(x), rtol=1e-5, atol=1e-6)


def test_a_session_on_any_callable(x):
    sizes = []

    def executor(batch):
        sizes.append(len(batch))
        return batch.sum(axis=(1, 2, 3))

    with joulec.Session(executor, batch_sizes=[1, 2, 4]) as session:
        futures = [session.submit(x), session.submit(x[:1])]
        np.testing.assert_allclose(futures[0].result(60), x.sum(axis=(1, 2, 3)), rtol=1e-5, atol=1e-5)
        assert futures[1].result(60).shape == (1,)
    assert set(sizes) <= {1, 2, 4}


def test_options_out_of_range_are_refused_before_any_work(path):
    for options, told in (
        ({"inner": "magic"}, "inner must be one of exact, neighbourhood, none"),
        ({"alpha": float("nan")}, "alpha must be at least 1"),
        ({"threads": 0}, "threads must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"protocol": "guess"}, "protocol must be one of adaptive, paper"),
    ):
        with pytest.raises(ValueError, match=told):
            joulec.compile(path, costs="model", **options)


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="a model is the path of an ONNX file"):
        joulec.compile(3, costs="model")


def test_importing_joulec_loads_next_to_nothing():
    heavy = ("tvm", "onnx", "onnxruntime", "sqlalchemy", "numpy", "rich", "typer")
    code = f"import sys, joulec; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_pass_is_found_under_joulec(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import joulec; print(joulec.passes.relax.EnergyAwareOptimize.__name__)"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "EnergyAwareOptimize\n"


@pytest.mark.parametrize("folder", ["passes", "profiler", "costdb", "runtime"])
def test_the_folders_are_not_imported_under_their_bare_names(folder):
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert f"joulec.{folder}" in error
