"""Names of tensors as TVM's modules spell them."""

from __future__ import annotations

from collections.abc import Sequence


def plain_word(name: str) -> str:
    """A tensor's name as a variable of a Relay module; exporter and executor both derive it."""
    word = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "input"
    return word if not word[0].isdigit() else f"_{word}"


def distinct(names: Sequence[str]) -> list[str]:
    """The names, repeated ones numbered: a graph's inputs are told apart by name."""
    found: list[str] = []
    for name in names:
        candidate, count = name, 1
        while candidate in found or (count > 1 and candidate in names):
            count += 1
            candidate = f"{name}_{count}"
        found.append(candidate)
    return found
