"""What goes wrong by the user's doing: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_support import Command, forked

GOOD = ("compile", "{model}", "-o", "out.joulec")
"""A compilation that each case spoils in one point; what is given later counts."""
SESSION = ("run", "{artifact}", "--duration", "1s", "--meter", "scripted:watts.json")

CASES = {
    "truncated model": (("compile", "cut.onnx", "-o", "out.joulec"), "cut.onnx: not an ONNX model, or cut short"),
    "random bytes": (("optimize", "random"), "random: not an ONNX model"),
    "empty model": (("optimize", "empty"), "empty: no ONNX model"),
    "missing model": (("compile", "missing.onnx", "-o", "out.joulec"), "missing.onnx: no such file"),
    "folder as model": (("profile", "folder"), "folder: cannot be read: Is a directory"),
    "model to run": (("run", "{model}"), "is an ONNX model: compile it first, e.g. joulec compile"),
    "model to sweep": (("sweep", "{model}"), "is an ONNX model: compile it first, e.g. joulec compile"),
    "missing output folder": ((*GOOD, "-o", "none/out.joulec"), "/none does not exist; create it"),
    "output in /proc": ((*GOOD, "-o", "/proc/out.joulec"), "cannot write /proc/out.joulec"),
    "folder as output": ((*GOOD, "-o", "folder"), "it exists and is not a file"),
    "unknown objective": ((*GOOD, "--objective", "speed"), "'speed'"),
    "broken objective": ((*GOOD, "--objective", "energy +"), "'energy +'"),
    "code as objective": ((*GOOD, "--objective", "__import__('os').getpid()"), "objective"),
    "unknown unit": ((*GOOD, "--max-time", "2parsecs"), "'2parsecs' is not a time"),
    "negative quantity": ((*GOOD, "--max-power", "-3W"), "'-3W' is not a power: it must be greater than zero"),
    "wrong kind of unit": ((*GOOD, "--max-energy", "3W"), "'3W' is not an energy"),
    "alpha below one": ((*GOOD, "--alpha", "0.5"), "--alpha"),
    "alpha no number": ((*GOOD, "--alpha", "nan"), "--alpha"),
    "negative seed": ((*GOOD, "--seed", "-1"), "--seed"),
    "tolerance of zero": ((*GOOD, "--max-error", "0"), "max_error must be above 0"),
    "unknown inner search": ((*GOOD, "--inner", "magic"), "'magic' is not one of 'exact', 'neighbourhood', 'none'"),
    "no threads": ((*GOOD, "--threads", "0"), "--threads"),
    "unknown option": ((*GOOD, "--speed"), "error: no such option: --speed"),
    "value of a wrong kind": ((*GOOD, "--alpha", "much"), "error: --alpha: "),
    "unknown command": (("compil",), "error: no such command 'compil'"),
    "no output named": (("compile", "{model}"), "error: missing option '-o' / '--output' (see joulec compile --help)"),
    "unknown processor": ((*GOOD, "--target", "llvm -mcpu=bogus"), "LLVM knows no mcpu 'bogus'"),
    "target that is no CPU": ((*GOOD, "--target", "toaster"), "toaster"),
    "shapes unreadable": ((*GOOD, "--input-shapes", "x:1,3"), "--input-shapes 'x:1,3': write name:[1,3,224,224]"),
    "two shapes for an input": (
        (*GOOD, "--input-shapes", "x:[1,3,8,8]", "--input-shapes", "x:[1,3,9,9]"),
        "--input-shapes gives 'x' both [1, 3, 8, 8] and [1, 3, 9, 9]; give one",
    ),
    "shapes of another input": ((*GOOD, "--input-shapes", "q:[1,3,8,8]"), "no input 'q'; its inputs are x"),
    "batch sizes unreadable": ((*GOOD, "--batch-sizes", "1,two"), "--batch-sizes '1,two': write whole numbers"),
    "batch of none": ((*GOOD, "--batch-sizes", "0,1"), "a batch has at least one row"),
    "TVM's own lowering left out": ((*GOOD, "--exclude-algorithm", "tvm"), "tvm cannot be left out"),
    "meter not there": ((*GOOD, "--meter", "rapl"), "RAPL is not there"),
    "meter of another device": ((*GOOD, "--meter", "nvml"), "nvml does not measure a cpu target"),
    "unknown meter": ((*GOOD, "--meter", "psychic"), "there is no meter `psychic`; choose auto"),
    "database cut short": (("db", "info", "--costs", "cut.db"), "cut.db is damaged"),
    "random bytes as database": (("db", "info", "--costs", "random"), "random is not a cost database"),
    "optimize on a random database": (("optimize", "{model}", "--costs", "random"), "random is not a cost database"),
    "folder as database": (("db", "info", "--costs", "folder"), "folder is a folder; give a file in it"),
    "database in a missing folder": (("db", "info", "--costs", "none/costs.db"), "/none of the cost database"),
    "unknown kind of database": (("db", "info", "--costs", "abacus://here"), "abacus"),
    "database of a newer joulec": (("db", "info", "--costs", "newer.db"), "newer"),
    "truncated artifact": (("run", "cut.joulec"), "cut.joulec: it is truncated"),
    "bit flipped in the library": (("run", "library.joulec"), "library.joulec: it is truncated, damaged"),
    "bit flipped in the weights": (("run", "weights.joulec"), "weights.joulec: it is truncated, damaged"),
    "artifact that is no zip": (("run", "random"), "cannot read random"),
    "missing artifact": (
        ("run", "missing.joulec"),
        "does not exist; name an artifact that joulec compile wrote",
    ),
    "folder as artifact": (("run", "folder"), "cannot read folder: Is a directory"),
    "inputs of another name": (("run", "{artifact}", "--inputs", "name.npz", "--outputs", "out.npz"), "'other'"),
    "one input too many": (("run", "{artifact}", "--inputs", "more.npz", "--outputs", "out.npz"), "'more'"),
    "inputs of another shape": (
        ("run", "{artifact}", "--inputs", "shape.npz", "--outputs", "out.npz"),
        "input 'x' must be float32[rows,3,8,8], not float32[1,3,8,9]",
    ),
    "inputs of another dtype": (
        ("run", "{artifact}", "--inputs", "dtype.npz", "--outputs", "out.npz"),
        "input 'x' must be float32[rows,3,8,8], not float64[1,3,8,8]",
    ),
    "objects as inputs": (("run", "{artifact}", "--inputs", "objects.npz"), "objects.npz: Object arrays"),
    "one array as inputs": (("run", "{artifact}", "--inputs", "single.npy"), "single.npy: it is no .npz file"),
    "missing inputs": (("run", "{artifact}", "--inputs", "missing.npz"), "missing.npz: No such file"),
    "outputs in a missing folder": (("run", "{artifact}", "--outputs", "none/out.npz"), "none/out.npz"),
    "outputs in /proc": (("run", "{artifact}", "--outputs", "/proc/out.npz"), "/proc/out.npz"),
    "folder as outputs": (("run", "{artifact}", "--outputs", "folder"), "folder: it exists and is not a file"),
    "cap without a duration": (("run", "{artifact}", "--power-cap", "10W"), "a power cap needs --duration"),
    "cap file without a duration": (("run", "{artifact}", "--cap-file", "random"), "a power cap needs --duration"),
    "meter that would be ignored": (("run", "{artifact}", "--meter", "rapl"), "--meter needs --print-time"),
    "timing without its meter": (("run", "{artifact}", "--print-time", "--meter", "rapl"), "RAPL is not there"),
    "missing cap file": ((*SESSION, "--cap-file", "missing.cap"), "missing.cap"),
    "absurd cap": ((*SESSION, "--cap-file", "absurd.cap"), "'a lot' is not a power"),
    "cap below zero": ((*SESSION, "--cap-file", "negative.cap"), "'-5W' is not a power"),
    "cap trace with words": ((*SESSION, "--cap-file", "words.csv"), "words.csv, line 2: expected t_s,cap_w"),
    "cap trace that goes back": ((*SESSION, "--cap-file", "back.csv"), "back.csv, line 3: times must ascend"),
    "unknown policy": ((*SESSION, "--power-cap", "10W", "--policy", "luck"), "unknown policy 'luck'"),
    "margin of zero": ((*SESSION, "--power-cap", "10W", "--cap-margin", "0"), "--cap-margin must lie in (0, 1]"),
    "meter script missing": ((*SESSION, "--meter", "scripted:missing.json"), "missing.json"),
    "meter script unreadable": ((*SESSION, "--meter", "scripted:absurd.cap"), "absurd.cap"),
    "session on one cap too small": ((*SESSION, "--power-cap", "0W"), "greater than zero"),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory, compiled):
    """Files that are spoilt in one way each."""
    folder = tmp_path_factory.mktemp("spoilt")
    (folder / "folder").mkdir()
    rng = np.random.default_rng(11)
    (folder / "random").write_bytes(rng.bytes(9000))
    (folder / "empty").touch()
    model = compiled.model.read_bytes()
    (folder / "cut.onnx").write_bytes(model[: len(model) // 2])
    with sqlite3.connect(compiled.joulec.costs) as source, sqlite3.connect(folder / "whole.db") as copy:
        source.backup(copy)
    source.close()
    copy.close()
    whole = (folder / "whole.db").read_bytes()
    (folder / "cut.db").write_bytes(whole[: len(whole) // 3])
    (folder / "newer.db").write_bytes(whole)
    with sqlite3.connect(folder / "newer.db") as newer:
        newer.execute("update joulec_schema set version_num = '9999'")
    newer.close()
    artifact = compiled.artifact.read_bytes()
    (folder / "cut.joulec").write_bytes(artifact[: len(artifact) // 2])
    for name in ("library", "weights"):
        flipped = bytearray(artifact)
        flipped[artifact.index(name.encode()) + 200] ^= 0x10
        (folder / f"{name}.joulec").write_bytes(flipped)
    x = np.ones((1, 3, 8, 8), "float32")
    np.savez(folder / "name.npz", other=x)
    np.savez(folder / "more.npz", x=x, more=x)
    np.savez(folder / "shape.npz", x=np.ones((1, 3, 8, 9), "float32"))
    np.savez(folder / "dtype.npz", x=x.astype("float64"))
    np.savez(folder / "objects.npz", x=np.array([{}], dtype=object))
    np.save(folder / "single.npy", x)
    (folder / "watts.json").write_text('{"1": 40}')
    (folder / "absurd.cap").write_text("a lot")
    (folder / "negative.cap").write_text("-5W")
    (folder / "words.csv").write_text("t_s,cap_w\n0,much\n")
    (folder / "back.csv").write_text("t_s,cap_w\n1,50\n0,60\n")
    return folder


def words(name, compiled):
    return [word.format(model=compiled.model, artifact=compiled.artifact) for word in CASES[name][0]]


def own_folder(folder, name):
    """A folder of the case's own with links to the spoilt files, so that what it leaves is seen."""
    own = folder.parent / f"{folder.name}-{name.replace(' ', '-').replace('/', '-')}"
    own.mkdir()
    for file in folder.iterdir():
        (own / file.name).symlink_to(file)
    return own


@pytest.fixture(scope="session")
def failures(folder, compiled):
    """What came of each case, and what lay in its folder before and after."""
    folders = {name: own_folder(folder, name) for name in CASES}
    before = {name: set(os.listdir(own)) for name, own in folders.items()}
    done = forked([(Command(own, Path(f"{own}.db")), words(name, compiled)) for name, own in folders.items()])
    outcomes = dict(zip(CASES, done, strict=True))
    return {name: (outcomes[name], before[name], set(os.listdir(own))) for name, own in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(failures, name):
    done, before, after = failures[name]
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("joulec: error: ")
    assert CASES[name][1] in line
    assert after == before


@pytest.mark.parametrize("name", ["truncated model", "unknown unit", "database cut short", "inputs of another shape"])
def test_one_clear_line_of_a_fresh_process(folder, compiled, tmp_path, name):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    done = Command(tmp_path, tmp_path.with_suffix(".db"))(*words(name, compiled))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("joulec: error: ")
    assert CASES[name][1] in line
    assert set(os.listdir(tmp_path)) == set(os.listdir(folder))


def test_what_stood_in_the_place_of_the_output_stays(compiled, tmp_path):
    command = Command(tmp_path, compiled.joulec.costs)
    (tmp_path / "out.joulec").write_bytes(b"precious")
    done = command("compile", compiled.model, "-o", "out.joulec", "--objective", "speed")
    assert done.returncode == 2
    assert (tmp_path / "out.joulec").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["out.joulec"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(joulec, model):
    shut = joulec.folder / "shut"
    shut.mkdir(mode=0o555)
    done = joulec("compile", model, "-o", "shut/out.joulec")
    assert done.returncode == 2
    assert done.stderr.startswith("joulec: error: cannot write ")
    assert done.stderr.count("\n") == 1


OURS = """
import sys
import joulec.runtime.artifact as artifact
def broken(path):
    raise AssertionError("two and two\\nmake five")
artifact.check_writable = broken
from joulec.cli import main
sys.argv = ["joulec", "compile", "model.onnx", "-o", "out.joulec"]
main()
"""


def test_an_error_of_ours_ends_with_one(joulec, monkeypatch):
    done = joulec.python(["-c", OURS])
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("joulec: error: AssertionError: two and two make five")
    assert "JOULEC_TRACEBACK=1" in line


def test_the_traceback_is_shown_on_request(joulec):
    done = subprocess.run(
        [sys.executable, "-c", OURS],
        cwd=joulec.folder,
        env={**joulec.environment(), "JOULEC_TRACEBACK": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "two and two" in done.stderr


def test_results_may_be_cut_off_by_their_reader(joulec):
    running = joulec.start("devices", "--json")
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == ""
    assert running.wait(60) == 1
    running.stderr.close()
