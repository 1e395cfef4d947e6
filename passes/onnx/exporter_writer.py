"""An ONNX graph under construction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from joulec.passes.graph import Value
from joulec.passes.graph.node import Operand

OPSET = 20
"""ONNX's own operators are written in this version, or a later one that the original model uses."""

Array = npt.NDArray[Any]


class ExportError(ValueError):
    """A graph that ONNX cannot express; the message names the node."""


@dataclass
class Writer:
    """An ONNX graph under construction.

    Attributes:
        opset: version of ONNX's own operators.
        names: ONNX's name of each value that was computed.
        nodes: in the order of execution.
        constants: weights by name; equal contents stand there once.
        opsets: versions of other domains.
        taken: names that stand for something already.
    """

    opset: int = OPSET
    names: dict[Value, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    _constants: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _weights: dict[int, str] = field(default_factory=dict)

    def fresh(self, wish: str) -> str:
        """A name that is still free, the one wished for if possible."""
        name, count = wish, 1
        while name in self.taken:
            name, count = f"{wish}.{count}", count + 1
        self.taken.add(name)
        return name

    def operand(self, operand: Operand) -> str:
        """The name of an operand; a weight is computed and stored."""
        if isinstance(operand, Value):
            return self.names[operand]
        if operand.key not in self._weights:
            self._weights[operand.key] = self.constant(operand.value())
        return self._weights[operand.key]

    def constant(self, array: Array, wish: str = "") -> str:
        """The name of a constant."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        content = (str(array.dtype), array.shape, hashlib.blake2b(array.tobytes(), digest_size=16).digest())
        if content not in self._constants:
            name = self.fresh(wish or f"weight{len(self.constants)}")
            self.constants[name] = onnx.numpy_helper.from_array(array, name)
            self._constants[content] = name
        return self._constants[content]

    def emit(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        name: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node of ONNX's own operators; the name of its (first) result."""
        results = [self.fresh(f"{name or kind}.part")] if outputs is None else list(outputs)
        title = self.fresh(f"node:{name or kind}").removeprefix("node:")
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), results, name=title, **attributes))
        return results[0]
