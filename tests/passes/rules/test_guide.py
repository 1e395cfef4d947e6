"""The guide's example is run as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

from joulec.passes.rules import RULES

GUIDE = Path(__file__).parents[3] / "docs" / "adding-a-rule.md"


def test_the_example_works(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)  # dataclasses look their module up
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec", dont_inherit=True), module.__dict__)
    assert [rule.name for rule in module.RULES] == [*(rule.name for rule in RULES), "relu-of-relu"]
    assert module.again.outputs == module.second.outputs
