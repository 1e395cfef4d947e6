"""The examples of the guides run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def run_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of all of a guide's Python blocks."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    module = ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)  # dataclasses look their module up
    for block in blocks:
        exec(compile(block, name, "exec", dont_inherit=True), module.__dict__)
    return module


def test_adding_a_rule(monkeypatch):
    module = run_blocks("adding-a-rule.md", monkeypatch)
    assert module.match.nodes == (module.second, module.first)


def test_adding_an_algorithm(monkeypatch):
    module = run_blocks("adding-an-algorithm.md", monkeypatch)
    assert len(module.kernel.schedules(module.node.spec, module.target)) == 2


def test_adding_a_meter(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = run_blocks("adding-a-meter.md", monkeypatch)
    with pytest.raises(module.MeterError, match="no window open"):
        module.meter.end()
    (tmp_path / "energy1_input").unlink()
    with pytest.raises(module.MeterError, match="--meter estimate"):
        module.HwmonMeter(module.counter)


def test_adding_an_objective(monkeypatch):
    module = run_blocks("adding-an-objective.md", monkeypatch)
    assert not module.objective.monotone
    assert module.promised.monotone


def test_adding_a_policy(monkeypatch):
    module = run_blocks("adding-a-policy.md", monkeypatch)
    assert module.outcome.throughput > 0


def links(page: Path) -> list[str]:
    """Targets of a page's links to files of the project."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    broken = [target for target in links(page) if not (page.parent / target).exists()]
    assert not broken


PATHS = re.compile(r"`((?:passes|profiler|costdb|runtime|src|tests|examples|docs)/[\w/.-]*)`")


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    """Files of the guides' own examples apart."""
    own = {"passes/rules/activations.py", "passes/kernels/vector_relu.py"}
    named = set(PATHS.findall(page.read_text(encoding="utf-8"))) - own
    assert [path for path in sorted(named) if not (DOCS.parent / path).exists()] == []
