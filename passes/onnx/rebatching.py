"""Another batch for a model: follow the batch through the nodes, and mend what states the old one.

Each node's results are inferred with the new batch and compared with those of the old one; the axis that grew is where
the batch lies. Where a node states the old batch (the target of a Reshape, the sizes of a Resize, a constant with one
equal row per example), it is replaced. `joulec.passes.onnx.rows` then proves the result on random inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold_once
from joulec.passes.onnx.observing import foreign_results, observed
from joulec.passes.onnx.places import Place, Shape, grown, reshaped, result_place
from joulec.passes.onnx.program import Program, references, title, typed

_STATED = {"Expand": 1, "Resize": 3}
"""Which operand of an operator states the shape of its result, beside Reshape's."""

_STATES = {"RNN": {4: 0, 5: 1}, "GRU": {4: 0, 5: 1}, "LSTM": {4: 0, 5: 1, 6: 1}}
"""Operands of recurrent operators with a row per example, and their axis; shape inference does not look at them."""

_INDEXED = {"GatherElements": (1,), "ScatterElements": (0, 1, 2), "Scatter": (0, 1, 2)}
"""Operators whose operands have a row per example although shape inference lets others pass."""


@dataclass
class Rebatching:
    """One walk through a program.

    Attributes:
        before: types of all values with the old batch.
        choices: for nodes whose shapes explain several places of the batch, which one is taken.
        options: how many there were, by node index; filled by the walk.
    """

    source: Program
    before: Mapping[str, TensorType]
    old: int
    new: int
    choices: Mapping[int, int] = field(default_factory=dict)
    options: dict[int, int] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def walk(self, shapes: Mapping[str, Shape]) -> Program:
        """The program with all nodes mended; its inputs are left as they are.

        Args:
            shapes: shapes of the inputs with the new batch.

        Raises:
            ModelError: a node does not pass the batch on; the message names it.
        """
        self.mended = self.source.copy()
        self.mended.nodes = []
        self.known = self.source.copy()  # constants, those that shapes decide included
        self.types = {name: TensorType(array.shape, str(array.dtype)) for name, array in self.source.constants.items()}
        for value in self.source.inputs:
            was = self.before[value.name]
            self.types[value.name] = TensorType(shapes[value.name], was.dtype)
            if was.shape:
                self.places[value.name] = Place(0)
        for index, node in enumerate(self.source.nodes):
            self.mended.nodes.append(self._step(index, node))
        self._end()
        return self.mended

    def _step(self, index: int, node: onnx.NodeProto) -> onnx.NodeProto:
        if self._folds(node):
            return node
        operands = [name for name in references(node) if name in self.places]
        results = [name for name in node.output if name in self.before]
        if not operands or not results:
            self.types.update(self._inferred(node) or {})
            return node
        passing: list[tuple[onnx.NodeProto, dict[str, TensorType], dict[str, Place]]] = []
        for candidate, place in self._candidates(node):
            types = self._inferred(candidate)
            if types is None or not all(name in types for name in results):
                continue
            places = self._placed(results, types, operands, place)
            if places is not None:
                passing.append((candidate, types, places))
                if place is None:
                    break
        if not passing:
            raise self._refusal(node)
        if len(passing) > 1:
            self.options[index] = len(passing)
        taken, types, places = passing[self.choices.get(index, 0)]
        self.types.update(types)
        self.places.update(places)
        return taken

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Whether all results are constants now."""
        self.known.nodes = [node]
        fold_once(self.known, self.types)
        if not all(name in self.known.constants for name in node.output if name):
            return False
        for name in node.output:
            if name:
                array = self.known.constants[name]
                self.types[name] = TensorType(array.shape, str(array.dtype))
        return True

    def _inferred(self, node: onnx.NodeProto) -> dict[str, TensorType] | None:
        """The types of a node's results; None where its operands do not fit."""
        names = references(node)
        alone = Program(
            self.source.name,
            [
                typed(name, self.types[name])
                for name in names
                if name not in self.known.constants and name in self.types
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
            [node],
            {name: self.known.constants[name] for name in names if name in self.known.constants},
            self.source.opsets,
            self.source.ir_version,
        )
        if len(alone.inputs) + len(alone.constants) < len(names):
            return {}  # an operand that is no tensor of known shape
        for name in node.output:
            if name in self.before:
                dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.before[name].dtype))
                value = next(value for value in alone.outputs if value.name == name)
                value.type.tensor_type.elem_type = dtype
        try:
            types = alone.infer()
        except ModelError:
            return None
        types |= observed(alone, foreign_results(alone, types), types)
        return {name: types[name] for name in node.output if name in types}

    def _placed(
        self, results: Sequence[str], types: Mapping[str, TensorType], operands: Sequence[str], place: Place | None
    ) -> dict[str, Place] | None:
        """Where the batch lies in each result; None where one does not hold it as it should."""
        sources = [(self.before[name].shape, self.places[name]) for name in operands if name in self.before]
        found = {}
        for name in results:
            was, now = self.before[name].shape, types[name].shape
            one = result_place(was, now, sources, self.old, self.new)
            if one is None or (place is not None and one.axis != place.axis):
                return None
            found[name] = one if place is None else place
        return found

    def _candidates(self, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, Place | None]]:
        """The node itself or with mended operands, the likeliest first; the place where it is known ahead."""
        if node.op_type == "Reshape" and node.input[0] in self.places:
            yield from self._reshapes(node)
            return
        stated = _STATED.get(node.op_type)
        if stated is not None and len(node.input) > stated and node.input[stated] in self.known.constants:
            place = self.places.get(node.input[0])
            result = self.before[node.output[0]].shape
            if place is not None and result:
                axis = place.axis + len(result) - len(self.before[node.input[0]].shape)
                yield self._restated(node, stated, grown(result, axis, self.old, self.new)), None
        repeated = self._repeated(node, self._rows_of(node))
        if repeated is not None:
            yield repeated, None
        yield node, None
        for offset in ("left", "right"):
            repeated = self._repeated(node, self._aligned(node, offset))
            if repeated is not None:
                yield repeated, None
        if node.op_type == "Slice":
            yield from self._sliced(node)

    def _reshapes(self, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, Place | None]]:
        source, target = node.input[0], node.input[1]
        was, result = self.before[source].shape, self.before[node.output[0]].shape
        places = reshaped(was, self.places[source], result, self.old)
        if target not in self.source.constants:  # computed from shapes: it knows the batch
            types = self._inferred(node)
            for place in places:
                wanted = grown(result, place.axis, self.old, self.new)
                if types and types[node.output[0]].shape == wanted:
                    yield node, place
                    return
        for place in places:
            wanted = grown(result, place.axis, self.old, self.new)
            yield self._restated(node, 1, wanted), place

    def _restated(self, node: onnx.NodeProto, operand: int, shape: Shape) -> onnx.NodeProto:
        return self._with_constant(node, operand, np.asarray(shape, np.int64), "x".join(map(str, shape)))

    def _with_constant(self, node: onnx.NodeProto, operand: int, array: np.ndarray, mark: str) -> onnx.NodeProto:
        name = f"{node.output[0]}/{operand}/{mark}"
        self.known.constants[name] = self.mended.constants[name] = array
        renewed = onnx.NodeProto()
        renewed.CopyFrom(node)
        renewed.input[operand] = name
        return renewed

    def _rows_of(self, node: onnx.NodeProto) -> dict[int, int]:
        """Operands that have a row per example by definition, with the axis of the rows."""
        if node.op_type in _STATES:
            layout = next((one.i for one in node.attribute if one.name == "layout"), 0)
            return {operand: 0 if layout else axis for operand, axis in _STATES[node.op_type].items()}
        if node.op_type in _INDEXED:
            held = next(self.places[name] for name in node.input if name in self.places)
            return dict.fromkeys(_INDEXED[node.op_type], held.axis)
        return {}

    def _aligned(self, node: onnx.NodeProto, side: str) -> dict[int, int]:
        """All operands, with the axis at which the batch would lie in them, counted from either side."""
        name = next((name for name in node.input if name in self.places), None)
        if name is None:
            return {}
        axis, rank = self.places[name].axis, len(self.before[name].shape)
        return {
            operand: axis if side == "left" else axis - rank + len(self.known.constants[other].shape)
            for operand, other in enumerate(node.input)
            if other in self.known.constants
        }

    def _repeated(self, node: onnx.NodeProto, rows: Mapping[int, int]) -> onnx.NodeProto | None:
        """The node with constants that hold one equal row per example made as long as the new batch; None without."""
        renewed = node
        for operand, axis in rows.items():
            array = self.known.constants.get(node.input[operand]) if operand < len(node.input) else None
            if array is None or not 0 <= axis < array.ndim or array.shape[axis] != self.old:
                continue
            first = np.take(array, [0], axis)
            if (array == first).all():
                renewed = self._with_constant(renewed, operand, np.repeat(first, self.new, axis), f"rows{self.new}")
        return None if renewed is node else renewed

    def _sliced(self, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, Place | None]]:
        """A slice that ends after the last example of the old batch."""
        ends = self.known.constants.get(node.input[2]) if len(node.input) > 2 else None
        place = self.places.get(node.input[0])
        if ends is None or place is None:
            return
        given = self.known.constants.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        rank = len(self.before[node.input[0]].shape)
        axes = [int(axis) % rank for axis in (range(len(ends)) if given is None else given)]
        moved = np.asarray(
            [self.new if axis == place.axis and end == self.old else end for axis, end in zip(axes, ends, strict=True)],
            ends.dtype,
        )
        if (moved != ends).any():
            yield self._with_constant(node, 2, moved, f"ends{self.new}"), None

    def _end(self) -> None:
        """Outputs must lead with the batch; constant ones are repeated."""
        for index, value in enumerate(self.source.outputs):
            was = self.before[value.name]
            if value.name in self.places and self.places[value.name] != Place(0):
                maker = next(node for node in self.source.nodes if value.name in node.output)
                raise ModelError(
                    f"{self.source.name}: output '{value.name}' {list(was.shape)} of node '{title(maker)}' "
                    f"({maker.op_type}) does not lead with the batch, so {self.old} cannot become {self.new}; export "
                    "the model for that batch"
                )
            if value.name in self.places or was.shape[:1] != (self.old,):
                continue
            self._repeat_output(index, value)

    def _repeat_output(self, index: int, value: onnx.ValueInfoProto) -> None:
        """A constant output, with a row per example."""
        maker = next((node for node in self.mended.nodes if value.name in node.output), None)
        constant = self.known.constants.get(value.name)
        if constant is None and maker is not None and maker.op_type == "Identity":
            constant = self.known.constants.get(maker.input[0])
        if maker is None or constant is None or not (constant == constant[:1]).all():
            return
        name = f"{value.name}/rows{self.new}"
        self.mended.constants[name] = np.repeat(constant[:1], self.new, 0)
        self.mended.nodes.remove(maker)
        self.mended.nodes.append(onnx.helper.make_node("Identity", [name], [value.name], name=title(maker)))

    def _refusal(self, node: onnx.NodeProto) -> ModelError:
        return ModelError(
            f"{self.source.name}: node '{title(node)}' ({node.op_type}) does not treat the leading dimension as a "
            f"batch, so {self.old} cannot become {self.new}; export the model for that batch"
        )
