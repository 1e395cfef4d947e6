"""The variants of an artifact, by name."""

from __future__ import annotations

from collections.abc import Sequence


class VariantError(ValueError):
    """A variant that was not compiled."""


def check_variants(compiled: Sequence[str], asked: Sequence[str]) -> None:
    """Refuse a variant that was not compiled.

    Raises:
        VariantError: one was not; the message names those that were.
    """
    for name in asked:
        if name not in compiled:
            there = f"there are {', '.join(compiled)}" if compiled else "the model has one variant only"
            raise VariantError(f"variant {name!r} was not compiled; {there}")
