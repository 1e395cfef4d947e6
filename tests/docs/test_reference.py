"""The reference pages name what is there, and all of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer

import joulec
import joulec.runtime
from joulec.cli import app

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("package", "depth"), [(joulec, 2), (joulec.runtime, 3)], ids=["joulec", "joulec.runtime"])
def test_the_public_names_are_those_on_the_page(package, depth):
    prefix = f"{package.__name__}."
    listed = [name.removeprefix(prefix) for name in NAMED if name.startswith(prefix) and name.count(".") == depth - 1]
    assert sorted(listed) == sorted(package.__all__)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_can_be_imported_and_is_documented(name):
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert found.__doc__


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"([\w-]+\.md)$", menu, re.MULTILINE))


def test_the_command_reference_holds_every_command(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    hooks = importlib.import_module("mkdocs_hooks")
    page = hooks.on_page_markdown((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        assert f"## `joulec {name}`" in page
        for inner in getattr(command, "commands", {}):
            assert f"### `joulec {name} {inner}`" in page
    assert "$ joulec compile model.onnx -o model.joulec --objective energy" in page


def test_the_page_on_structure_tells_where_each_command_goes():
    page = (ROOT / "docs" / "how-a-model-passes-through.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `src/joulec/", page, re.MULTILINE)
    assert sorted(rows) == sorted(typer.main.get_command(app).commands)
