"""Checked reading of JSON objects, so that a bad manifest is refused with the place and the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


class ManifestError(ValueError):
    """A manifest that does not say what it must."""


class Fields:
    """The fields of one JSON object.

    Args:
        data: what was parsed.
        where: its place in the file, for messages.

    Raises:
        ManifestError: it is no object; on reading, a field is missing or has the wrong type.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ManifestError(f"{where} must be an object, not {type(data).__name__}")
        self._data: dict[str, Any] = data
        self._where = where

    def has(self, name: str) -> bool:
        """Whether the field is there: one that came later may be missing."""
        return name in self._data

    def child(self, name: str) -> tuple[Any, str]:
        """A field's value, unchecked, with its place."""
        if name not in self._data:
            raise ManifestError(f"{self._where} lacks {name!r}")
        return self._data[name], f"{self._where}.{name}"

    def text(self, name: str) -> str:
        value, where = self.child(name)
        return _text(value, where)

    def optional_text(self, name: str) -> str | None:
        value, where = self.child(name)
        return None if value is None else _text(value, where)

    def boolean(self, name: str) -> bool:
        value, where = self.child(name)
        if not isinstance(value, bool):
            raise ManifestError(f"{where} must be true or false, not {value!r}")
        return value

    def integer(self, name: str) -> int:
        value, where = self.child(name)
        return _integer(value, where)

    def number(self, name: str) -> float:
        value, where = self.child(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ManifestError(f"{where} must be a number, not {value!r}")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        return None if self.child(name)[0] is None else self.number(name)

    def optional_cost(self, name: str) -> float | None:
        """Seconds or joules; None where not known."""
        value = self.optional_number(name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ManifestError(f"{self._where}.{name} must be >= 0, not {value}")
        return value

    def items(self, name: str) -> Iterator[tuple[Any, str]]:
        """The items of a list, each with its place."""
        value, where = self.child(name)
        if not isinstance(value, list | tuple):
            raise ManifestError(f"{where} must be a list, not {type(value).__name__}")
        return ((item, f"{where}[{index}]") for index, item in enumerate(value))

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(_integer(*item) for item in self.items(name))

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(_text(*item) for item in self.items(name))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"{where} must be text, not {value!r}")
    return value


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ManifestError(f"{where} must be a whole number, not {value!r}")
    return value
