"""The working form of a model between file and graph: nodes as they are, constants as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from joulec.passes.graph import TensorType
from joulec.passes.onnx.errors import ModelError, one_line
from joulec.profiler.values import TEXT

Array = npt.NDArray[Any]

_SMALL = 1024
"""Constants of up to so many elements may matter to shape inference; larger ones are known to it by type alone."""


_NUMBERS = 24
"""How many of the integers that a model holds may be tried."""

_WORDS = 64
"""How many of the words that a model holds may be tried."""

_NAMELESS = ("?", "*", "-1", "None", "none")
"""What some exporters call every dimension that they leave open; equal names do not mean equal sizes here."""

_SHAPE_KEEPING = frozenset(
    {"Abs", "Cast", "CastLike", "Exp", "Identity", "Log", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"}
)
"""Operators whose result has their first operand's shape, whatever the others are."""


@dataclass(frozen=True)
class Dequantised:
    """The whole numbers from which a constant in floating point was made.

    Attributes:
        array: the numbers.
        scale: one, or one per place of an axis.
        zero: zero points of the scale's shape; None where they are 0.
        axis: which axis.
    """

    array: Array
    scale: Array
    zero: Array | None
    axis: int


@dataclass
class Program:
    """A model taken apart. Protos in it are never changed in place, only replaced.

    Attributes:
        inputs: what the caller supplies, without weights.
        outputs: what the caller receives.
        nodes: in topological order; `Constant` nodes have become constants.
        constants: arrays by name.
        declared: types that the file states for its values; they count where shape inference cannot tell.
        seen: types of values that shape inference cannot tell, as runs gave them; others follow from these.
        unsure: values whose shape other data may change all the same: what computes them must check it at each call.
        dequantised: constants that were made of whole numbers.
    """

    name: str
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    opsets: Mapping[str, int]
    ir_version: int
    declared: Mapping[str, TensorType] = field(default_factory=dict)
    seen: Mapping[str, TensorType] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    dequantised: dict[str, Dequantised] = field(default_factory=dict)

    @staticmethod
    def of(model: onnx.ModelProto) -> Program:
        """Take a model apart.

        Raises:
            ModelError: a weight's bytes do not fit its type.
        """
        graph = model.graph
        absurd = next((tensor for tensor in graph.initializer if min(tensor.dims, default=0) < 0), None)
        if absurd is not None:
            raise ModelError(
                f"{graph.name}: weight '{absurd.name}' has shape {list(absurd.dims)}; sizes are whole numbers from 0: "
                "export the model again"
            )
        try:
            constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        except (ValueError, TypeError) as error:
            raise ModelError(f"{graph.name}: a weight is damaged: {one_line(error)}; export the model again") from error
        return Program(
            name=graph.name or "model",
            inputs=[value for value in graph.input if value.name not in constants],
            outputs=list(graph.output),
            nodes=list(graph.node),
            constants=constants,
            opsets={entry.domain or "": entry.version for entry in model.opset_import},
            ir_version=max(model.ir_version, 4),
            declared=_declared([*graph.value_info, *graph.output]),
        )

    def copy(self) -> Program:
        """A program that can be changed on its own; the arrays are shared."""
        return Program(
            self.name,
            list(self.inputs),
            list(self.outputs),
            list(self.nodes),
            dict(self.constants),
            self.opsets,
            self.ir_version,
            self.declared,
            self.seen,
            self.unsure,
            dict(self.dequantised),
        )

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.opsets.get("", 1)

    def skeleton(self) -> onnx.ModelProto:
        """The model with large constants as inputs: what checker and shape inference need, and small."""
        small = {name for name, array in self.constants.items() if array.size <= _SMALL}
        free = [
            typed(name, TensorType(array.shape, str(array.dtype)))
            for name, array in self.constants.items()
            if name not in small
        ]
        return self._model([*self.inputs, *free], self.outputs, sorted(small))

    def model(self, types: Mapping[str, TensorType]) -> onnx.ModelProto:
        """The whole model; its outputs have the shapes of these types, those not among them what they stated."""
        outputs = [
            onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, types[value.name].shape)
            if value.name in types
            else value
            for value in self.outputs
        ]
        return self._model(self.inputs, outputs, list(self.constants))

    def _model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], constants: Sequence[str]
    ) -> onnx.ModelProto:
        graph = onnx.helper.make_graph(self.nodes, self.name, inputs, outputs)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version, producer_name="joulec")
        for name in constants:  # one by one: a large weight is in memory twice at most
            model.graph.initializer.append(onnx.numpy_helper.from_array(self.constants[name], name))
        return model

    def infer(self) -> dict[str, TensorType]:
        """The types of all values whose shape can be told.

        Raises:
            ModelError: operands do not fit an operator.
        """
        try:
            graph = self._inferred()
        except onnx.shape_inference.InferenceError as error:
            why = one_line(error)
            raise ModelError(f"{self.name}: shapes do not fit for inputs {self._shapes()}: {why}") from error
        except ValueError as error:  # a type that there is not, or text that is none
            raise ModelError(f"{self.name}: the model is damaged: {one_line(error)}; export it again") from error
        types = {name: TensorType(array.shape, str(array.dtype)) for name, array in self.constants.items()}
        types.update(_declared([*graph.input, *graph.value_info, *graph.output]))
        made = {name for node in self.nodes for name in node.output}
        for stated in (self.seen, self.declared):
            types.update((name, type) for name, type in stated.items() if name in made and name not in types)
        self._infer_backwards(types, graph.value_info)
        self._check_reshapes(types)
        return types

    def values(self) -> dict[str, onnx.ValueInfoProto]:
        """What is known of all values, those too whose shape or kind no `TensorType` tells."""
        graph = self._inferred()
        return {value.name: value for value in (*graph.output, *graph.value_info, *graph.input)}

    def _inferred(self) -> onnx.GraphProto:
        skeleton = self.skeleton()
        for output in skeleton.graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
        skeleton.graph.value_info.extend(typed(name, type) for name, type in self.seen.items())
        return _inferred(skeleton)

    def _infer_backwards(self, types: dict[str, TensorType], known: Iterable[onnx.ValueInfoProto]) -> None:
        """The shape of what an elementwise operator reads is that of its result, where only that is known."""
        elements = {value.name: value.type.tensor_type.elem_type for value in known}
        for node in reversed(self.nodes):
            name = node.input[0] if node.input else ""
            if node.op_type not in _SHAPE_KEEPING or name in types or not elements.get(name):
                continue
            result = types.get(node.output[0])
            if result is not None:
                dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elements[name]))
                types[name] = TensorType(result.shape, str(dtype))

    def _check_reshapes(self, types: Mapping[str, TensorType]) -> None:
        """What ONNX's shape inference lets pass: a reshape to another number of elements."""
        for node in self.nodes:
            if node.op_type != "Reshape" or node.input[0] not in types or node.output[0] not in types:
                continue
            source, result = types[node.input[0]], types[node.output[0]]
            if source.size != result.size:
                raise ModelError(
                    f"{self.name}: shapes do not fit for inputs {self._shapes()}: node '{title(node)}' reshapes "
                    f"{list(source.shape)} to {list(result.shape)}, which has another number of elements"
                )

    def _shapes(self) -> str:
        return ", ".join(f"{value.name}{list(dimensions(value))}" for value in self.inputs)

    def prune(self) -> None:
        """Drop nodes and constants that no output needs."""
        needed = {value.name for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(_without_unused(node, needed, self.opset))
                needed.update(references(node))
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        if "(op_type:Constant)" not in str(error) and "(op_type:If" not in str(error):
            raise
        # it stumbled inside of a function that defines an operator, of which the model holds nothing wrong; or inside
        # of a branch, which need not fit where the other one is taken
        return onnx.shape_inference.infer_shapes(model, data_prop=True).graph


def _declared(values: Iterable[onnx.ValueInfoProto]) -> dict[str, TensorType]:
    """The types of those values that are tensors of fixed shape."""
    types = {}
    for value in values:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.elem_type:
            continue
        shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if min(shape, default=0) >= 0:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            types[value.name] = TensorType(tuple(shape), str(dtype))
    return types


def _without_unused(node: onnx.NodeProto, needed: set[str], opset: int) -> onnx.NodeProto:
    """The node without optional results that nobody reads (a dropout's mask, a pooling's indices).

    A batch normalisation's are kept: before opset 14, their being there is what says that it trains.
    """
    unread = [index for index, name in enumerate(node.output) if name and name not in needed]
    own = node.domain in ("", "ai.onnx") and node.op_type != "BatchNormalization"
    if not unread or not own or not onnx.defs.has(node.op_type, node.domain):
        return node
    formal = onnx.defs.get_schema(node.op_type, opset, node.domain).outputs
    renewed = onnx.NodeProto()
    renewed.CopyFrom(node)
    for index in unread:
        if index < len(formal) and formal[index].option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            renewed.output[index] = ""
    while not renewed.output[-1]:
        renewed.output.pop()
    return renewed


def typed(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """A value of this type in ONNX's words."""
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type.dtype))
    return onnx.helper.make_tensor_value_info(name, element, type.shape)


def form_of(value: onnx.ValueInfoProto) -> str:
    """The value's form as `joulec.profiler.values` writes it; empty where nothing tells it."""
    return _form(value.type)


def _form(type: onnx.TypeProto) -> str:
    kind = type.WhichOneof("value")
    if kind == "tensor_type":
        return _element(type.tensor_type.elem_type)
    if kind == "sequence_type":
        return f"sequence({_form(type.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_form(type.optional_type.elem_type)})"
    if kind == "map_type":
        return f"map({_element(type.map_type.key_type)},{_form(type.map_type.value_type)})"
    return ""


def _element(element: int) -> str:
    if not element:
        return ""
    try:
        name = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)))
    except KeyError as error:
        raise ModelError(f"{element} is no element type that ONNX knows; export the model again") from error
    return TEXT if name == "object" else name


def dimensions(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Sizes, where known, else the dimension's name (perhaps empty)."""
    dims = value.type.tensor_type.shape.dim
    named = ("" if dim.dim_param in _NAMELESS else dim.dim_param for dim in dims)
    known = (dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims)
    return tuple(name if size is None else size for name, size in zip(named, known, strict=True))


def title(node: onnx.NodeProto) -> str:
    """The node's name, or one made from its first output."""
    return node.name or f"{node.op_type}_{next((name for name in node.output if name), '')}"


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def held_numbers(graph: onnx.GraphProto) -> tuple[int, ...]:
    """Single integers among the constants of a graph, then of the graphs inside its nodes, in order of appearance."""
    tensors = list(graph.initializer)
    inner: list[int] = []
    for node in graph.node:
        tensors += [one.t for one in node.attribute if one.name == "value" and one.type == onnx.AttributeProto.TENSOR]
        for body in bodies(node):
            inner += held_numbers(body)
    kinds = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    whole = [tensor for tensor in tensors if tensor.data_type in kinds and np.prod(tensor.dims) == 1]
    own = [int(onnx.numpy_helper.to_array(tensor).ravel()[0]) for tensor in whole]
    return tuple(dict.fromkeys((*own, *inner)))[:_NUMBERS]


def held_words(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Text in constants and attributes of a graph, and of the graphs inside its nodes, in order of appearance."""
    found: list[str] = []
    for tensor in graph.initializer:
        found += _words(tensor)
    for node in graph.node:
        for one in node.attribute:
            found += [text.decode("utf-8", "replace") for text in one.strings[:_WORDS]]
            if one.type == onnx.AttributeProto.TENSOR:
                found += _words(one.t)
        for body in bodies(node):
            found += held_words(body)
    return tuple(dict.fromkeys(found))[:_WORDS]


def _words(tensor: onnx.TensorProto) -> list[str]:
    return [text.decode("utf-8", "replace") for text in tensor.string_data[:_WORDS]]


def captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Outer values that the graphs inside a node read, in order of appearance."""
    found: dict[str, None] = {}
    for body in bodies(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        for inner in body.node:
            found.update((name, None) for name in references(inner) if name not in own)
            own.update(inner.output)
        found.update((value.name, None) for value in body.output if value.name not in own)
    return tuple(found)


def references(node: onnx.NodeProto) -> tuple[str, ...]:
    """All values that a node reads, those inside its graphs included."""
    return tuple(dict.fromkeys((*(name for name in node.input if name), *captured(node))))
