"""What the command tells of itself and of the machine."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer

import joulec as package
from joulec.cli import app
from joulec.runtime.policies import POLICIES


def every_command(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = tuple(every_command(typer.main.get_command(app)))


def test_version(joulec):
    done = joulec("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"joulec {package.__version__}\n", "")


def test_without_a_command_help_is_shown(joulec):
    done = joulec()
    assert done.returncode == 2
    assert len(COMMANDS) >= 6
    listed = re.findall(r"^  (\w+)  ", (done.stdout + done.stderr).partition("Commands:")[2], re.MULTILINE)
    assert listed[:4] == ["compile", "optimize", "profile", "run"]
    assert set(listed) == {command for command, *_ in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(joulec, command):
    done = joulec(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"Example: joulec {' '.join(command)}" in " ".join(done.stdout.split())


def complete(joulec, line):
    """What bash is offered at the end of a line; nothing leaves it to files."""
    words = line.split(" ")
    environment = {
        **joulec.environment(),
        "_JOULEC_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "joulec"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("joulec comp", ["compile"]),
        ("joulec compile --inn", ["--inner"]),
        ("joulec compile --inner n", ["neighbourhood", "none"]),
        ("joulec compile model.onnx --meter r", ["rapl", "record:", "replay:"]),
        ("joulec run model.joulec --meter s", ["scripted:"]),
        ("joulec run model.joulec --policy ", list(POLICIES)),
        ("joulec simulate --policy pap", ["paper"]),
        ("joulec optimize model.onnx --explain merge-m", ["merge-matmuls"]),
        ("joulec db list --source es", ["estimated"]),
        ("joulec compile mod", []),
        ("joulec compile model.onnx -o ", []),
        ("joulec compile model.onnx --report ", []),
    ],
)
def test_the_shell_completes_names_and_leaves_files_to_itself(joulec, line, offered):
    assert complete(joulec, line) == offered


def test_help_and_completion_load_next_to_nothing():
    heavy = ("tvm", "onnx", "onnxruntime", "sqlalchemy", "numpy", "rich", "matplotlib", "jinja2")
    code = f"import sys; from joulec import cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_devices(joulec):
    (cpu,) = [device for device in joulec.json("devices")["devices"] if device["kind"] == "cpu"]
    assert cpu["id"] == "cpu"
    assert "estimate" in cpu["meters"]
    shown = joulec("devices")
    assert shown.returncode == 0
    assert cpu["name"].split()[0] in shown.stdout
    assert shown.stderr == ""


def test_database_of_nobody(joulec):
    info = joulec.json("db", "info")
    assert info["path"] == str(joulec.costs)
    assert (info["rows"], info["failures"], info["by_source"], info["devices"]) == (0, 0, {}, {})
    assert info["last_measured_at"] is None


def test_database_after_a_compilation(compiled):
    info = compiled.joulec.json("db", "info")
    assert info["rows"] >= compiled.report["profiling"]["measured"]
    assert info["failures"] == 0
    assert info["by_source"]["measured"] == info["rows"]
    assert sum(info["devices"].values()) == info["rows"]
    shown = compiled.joulec("db", "info")
    assert shown.returncode == 0
    assert f"{info['rows']} (0 failures)" in shown.stdout
    assert shown.stderr == ""


def test_the_option_names_a_database_before_the_environment(joulec, tmp_path):
    other = tmp_path / "other.db"
    assert joulec.json("db", "info", "--costs", other)["path"] == str(other)
    assert not joulec.costs.exists()
