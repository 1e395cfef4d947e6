"""What the site takes from the project itself: the command-line reference, by Typer, and the list of decisions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from joulec.cli import app

_PLACE = "<!-- commands -->"


def on_config(config: Any) -> Any:
    """Put the decisions at the end of the menu, in their order."""
    folder = Path(config.docs_dir)
    decisions = sorted(path.relative_to(folder).as_posix() for path in folder.glob("adr/*.md"))
    config.nav.append({"Decisions": decisions})
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(_PLACE, _reference()) if _PLACE in markdown else markdown


def _reference() -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="joulec")
    text = re.sub(
        r"^# `joulec`.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE
    )  # the page has a title of its own
    return re.sub(r"^Example: (.+?)(?=\n\n)", _example, text, flags=re.DOTALL | re.MULTILINE)


def _example(match: re.Match[str]) -> str:
    return f"**Example**:\n\n```console\n$ {' '.join(match[1].split())}\n```"
