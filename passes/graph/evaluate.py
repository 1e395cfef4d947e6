"""A graph's meaning in numpy: slow, exact, and independent of every back end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.graph import Graph
from joulec.passes.graph.node import Node
from joulec.passes.graph.operators import ACTIVATIONS
from joulec.passes.graph.values import Value

_Array = npt.NDArray[Any]


def evaluate(graph: Graph, inputs: Mapping[str, _Array]) -> tuple[_Array, ...]:
    """The outputs of a graph for inputs by name."""
    known: dict[Value, _Array] = {value: inputs[value.name] for value in graph.inputs}
    for node in graph.nodes:
        operands = [known[o] if isinstance(o, Value) else o.value() for o in node.operands]
        known.update(zip(node.outputs, evaluate_node(node, operands), strict=True))
    return tuple(known[value] for value in graph.outputs)


def evaluate_node(node: Node, operands: list[_Array]) -> tuple[_Array, ...]:
    """Anchor, then epilogue."""
    taken = len(node.anchor_operands)
    results = node.op.evaluate(*operands[:taken])
    rest = iter(operands[taken:])
    for step in node.epilogue:
        first = results[0]
        if step.kind == "activation":
            stepped = ACTIVATIONS[step.activation](first, *step.params)
        elif step.kind == "bias":
            bias = next(rest)
            stepped = first + (bias.reshape(-1, 1, 1) if first.ndim == 4 else bias)
        else:
            stepped = first + next(rest)
        results = (np.asarray(stepped, first.dtype), *results[1:])
    return results
