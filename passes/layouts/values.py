"""The values of a function under construction, in the layouts in which they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from joulec.passes.graph import TensorType, Value
from joulec.passes.layouts.layout import blocked_shape, same_memory


@dataclass
class LaidOut:
    """Each value in its producer's layout, and in every other that some consumer asked for, converted once.

    Attributes:
        reshape: an expression under another shape of the same memory.
        convert: an expression of a tensor from one layout to another; takes the tensor's type, both and the expression.
    """

    reshape: Callable[[Any, tuple[int, ...]], Any]
    convert: Callable[[TensorType, int, int, Any], Any]
    _known: dict[tuple[Value, int], Any] = field(default_factory=dict)
    _home: dict[Value, int] = field(default_factory=dict)

    def keep(self, value: Value, layout: int, found: Any) -> None:
        """Note an expression of a value in a layout; a later one takes its place."""
        self._known[value, layout] = found
        self._home.setdefault(value, layout)

    def knows(self, value: Value, layout: int) -> bool:
        """Whether a value is at hand in a layout without a conversion."""
        return (value, layout) in self._known

    def home(self, value: Value) -> int | None:
        """The layout in which a value was kept first; None where it was not."""
        return self._home.get(value)

    def read(self, value: Value, layout: int) -> Any:
        """An expression of a value that was kept, in a layout."""
        if (value, layout) not in self._known:
            source = self._home[value]
            data, type = self._known[value, source], value.type
            if same_memory(type.shape, source, layout):
                self._known[value, layout] = self.reshape(data, blocked_shape(type.shape, layout))
            else:
                self._known[value, layout] = self.convert(type, source, layout, data)
        return self._known[value, layout]
