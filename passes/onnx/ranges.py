"""Which whole numbers an input expects: indices into a table lie below its size, bytes are all that a byte can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from joulec.passes.graph import TensorType
from joulec.passes.onnx.program import Program

Range = tuple[int, int]
"""The least number, and the one after the largest."""

_CARRYING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose result holds the numbers of their first operand (of all, `Concat`)."""

_BYTES = frozenset(
    {"Cast", "ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Resize", "Shape"}
)
"""Operators that take any byte."""

_MOST = 1 << 20
"""Indices beyond are as good as these for telling whether a model is right."""


@dataclass(frozen=True)
class _Held:
    """A value that holds an input's numbers, each with something added."""

    source: str
    added: Range


def input_ranges(program: Program, types: Mapping[str, TensorType]) -> dict[str, Range]:
    """The range of each input of whole numbers for which the program's operators tell one."""
    integers = {value.name for value in program.inputs if value.name in types and _is_integer(types[value.name])}
    held = {name: _Held(name, (0, 0)) for name in integers}
    ranges: dict[str, Range] = {}
    odd: set[str] = set()  # bytes that something may not take all of
    for node in program.nodes:
        for place, name in enumerate(node.input):
            if name not in held:
                continue
            one = held[name]
            size = _table(node, place, types, program)
            if size is not None:
                low, high = ranges.get(one.source, (0, _MOST))
                ranges[one.source] = (max(low, -one.added[0]), min(high, size - one.added[1]))
            if node.op_type not in _BYTES | _CARRYING:
                odd.add(one.source)
            moved = _carried(node, place, one, program)
            if moved is not None:
                held.update((output, moved) for output in node.output if output and _is_integer(types.get(output)))
    for name in integers - odd - set(ranges):
        if types[name].dtype in ("uint8", "int8"):
            info = np.iinfo(types[name].dtype)
            ranges[name] = (int(info.min), int(info.max) + 1)
    return {name: (low, high) for name, (low, high) in ranges.items() if low < high}


def _is_integer(type: TensorType | None) -> bool:
    return type is not None and np.dtype(type.dtype).kind in "iu"


def _carried(node: onnx.NodeProto, place: int, held: _Held, program: Program) -> _Held | None:
    """What the results hold of the operand at that place."""
    if node.op_type in _CARRYING and (place == 0 or node.op_type == "Concat"):
        return held
    if node.op_type == "Gather" and place == 0:
        return held
    other = program.constants.get(node.input[1 - place]) if len(node.input) == 2 else None
    if other is None or not other.size or node.op_type not in ("Add", "Sub") or (node.op_type == "Sub" and place):
        return None
    sign = 1 if node.op_type == "Add" else -1
    least, most = sorted((sign * int(other.min()), sign * int(other.max())))
    return _Held(held.source, (held.added[0] + least, held.added[1] + most))


def _table(node: onnx.NodeProto, place: int, types: Mapping[str, TensorType], program: Program) -> int | None:
    """The size of what the operand at that place is an index into; None where it is no index."""
    return min(_sizes(node, place, types, program), default=None)


def _sizes(node: onnx.NodeProto, place: int, types: Mapping[str, TensorType], program: Program) -> Iterator[int]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    data = types.get(node.input[0])
    kind = node.op_type
    if kind == "OneHot" and place == 0:
        depth = program.constants.get(node.input[1])
        if depth is not None and depth.size:
            yield int(depth.ravel()[0])
    if data is None or place != 1 or not data.shape:
        return
    if kind in ("Gather", "GatherElements", "ScatterElements", "Scatter"):
        yield data.shape[axis]
    elif kind == "ArrayFeatureExtractor":
        yield data.shape[-1]
    elif kind in ("GatherND", "ScatterND") and node.input[1] in types:
        batch = next((attribute.i for attribute in node.attribute if attribute.name == "batch_dims"), 0)
        yield from data.shape[batch : batch + types[node.input[1]].shape[-1]]
