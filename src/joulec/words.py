"""Names that Relay prints and parses."""

from __future__ import annotations


def plain_word(name: str) -> str:
    """A tensor's name as a variable of a Relay module; exporter and executor both derive it."""
    word = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "input"
    return word if not word[0].isdigit() else f"_{word}"
