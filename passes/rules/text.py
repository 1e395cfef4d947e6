"""A graph as a few lines of text: for explanations, the guide, and before/after tests."""

from __future__ import annotations

from dataclasses import MISSING, fields
from itertools import count
from typing import Any

from joulec.passes.graph import Computed, Concatenated, Graph, Node, Operator, Padded, Value, Weight


def show(graph: Graph) -> str:
    """One line per node in topological order, then the outputs.

    Values go by their names, those without one by a number; a constant by its shape; attributes at their defaults are
    left out. Example: ``a, b = split(m, axis=1, sizes=4|8)``.
    """
    names: dict[Value, str] = {}
    numbers = count()

    def named(value: Value) -> str:
        if value not in names:
            names[value] = value.name or f"%{next(numbers)}"
        return names[value]

    for value in graph.inputs:
        named(value)
    lines = [f"{', '.join(map(named, node.outputs))} = {_call(node, names)}" for node in graph.nodes]
    return "\n".join([*lines, f"return {', '.join(map(named, graph.outputs))}"])


def _call(node: Node, names: dict[Value, str]) -> str:
    operands = [names[operand] if isinstance(operand, Value) else _constant(operand) for operand in node.operands]
    steps = "".join(f"+{step}" for step in node.epilogue)
    return f"{node.op.name}{steps}({', '.join([*operands, *_attributes(node.op)])})"


def _attributes(op: Operator) -> list[str]:
    shown = []
    for field in fields(op):
        value = getattr(op, field.name)
        if field.default is MISSING or value != field.default:
            shown.append(f"{field.name}={_plain(value)}")
    return shown


def _plain(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _constant(weight: Weight) -> str:
    if isinstance(weight, Concatenated):
        return f"[{' ; '.join(map(_constant, weight.parts))}]"
    shape = "x".join(map(str, weight.type.shape))
    if isinstance(weight, Computed) and weight.function == "sum":
        return f"({' + '.join(map(_constant, weight.parts))})"
    if isinstance(weight, Computed):
        return f"{weight.function}({', '.join([*map(_constant, weight.parts), shape])})"
    return f"pad({_constant(weight.part)} to {shape})" if isinstance(weight, Padded) else shape
