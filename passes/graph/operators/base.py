"""What every operator can say of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy.typing as npt

from joulec.passes.graph.values import TensorType

Arrays = tuple[npt.NDArray[Any], ...]


class OperatorError(ValueError):
    """Operands that do not fit an operator."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator with its attributes. Subclasses are frozen dataclasses: attributes are fields, equal means equal."""

    @property
    def name(self) -> str:
        """The operator's name in snake case, e.g. ``conv2d``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def is_view(self) -> bool:
        """Whether the operator moves no data (a reshape)."""
        return False

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Types of the results.

        Raises:
            OperatorError: the operands do not fit.
        """
        raise NotImplementedError

    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        """Arithmetic operations; a multiply-add counts two."""
        raise NotImplementedError

    def untouched(self, operands: Sequence[TensorType]) -> int:
        """Bytes of operands and results that the operator leaves where they are."""
        return 0

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        """The meaning in numpy, written for clarity: the yardstick for rules and kernels."""
        raise NotImplementedError

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.name}({shown})"


def require(condition: bool, message: str) -> None:
    """Raise OperatorError unless the condition holds."""
    if not condition:
        raise OperatorError(message)
