"""Read a model from a file or from memory, and refuse what is not a sound one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
import onnx.defs
import onnx.external_data_helper
import onnx.helper
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from joulec.passes.onnx.classical import write_out
from joulec.passes.onnx.errors import ModelError, one_line
from joulec.passes.onnx.loops import state_conditions
from joulec.passes.onnx.program import Program, bodies

_EXPANDED = frozenset(
    {
        ("", "Attention"),
        ("", "CausalConvWithState"),
        ("", "LinearAttention"),
        ("", "RotaryEmbedding"),
        ("", "SwiGLU"),
        ("ai.onnx.preview", "FlexAttention"),
    }
)
"""Operators that ONNX defines by others, which say more to a compiler than they do."""

_OWN_FUNCTIONS = "joulec.functions"


def load(model: onnx.ModelProto | str | os.PathLike[str]) -> Program:
    """Read, check and take apart a model; functions are inlined, weights that are also inputs become constants.

    Raises:
        ModelError: the file is missing or no ONNX model, its weights are missing, or ONNX's checker refuses it.
    """
    proto = model if isinstance(model, onnx.ModelProto) else _read(Path(model))
    where = proto.graph.name if isinstance(model, onnx.ModelProto) else str(model)
    _check_text(proto.graph, where)
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{where}: no ONNX model (it has no graph outputs or no opset); export it again")
    _check_opset(proto, where)
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer):
        raise ModelError(f"{where}: weights are kept outside the model; pass the file's path, not the loaded proto")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise ModelError(f"{where}: weight '{name}' is sparse, which joulec does not read; export it dense")
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except (RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{where}: its local functions cannot be inlined: {one_line(error)}") from error
    try:
        program = Program.of(_expanded(proto))
    except KeyError as error:
        raise ModelError(f"{where}: {error} is no element type that ONNX knows; export the model again") from error
    _complete(program)
    try:
        onnx.checker.check_model(_shaped(program.skeleton()))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{where}: not a valid ONNX model: {one_line(error)}") from error
    write_out(program)
    state_conditions(program)
    return program


def _check_opset(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a version of ONNX's operators that the installed onnx does not know."""
    newest = onnx.defs.onnx_opset_version()
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version > newest:
        raise ModelError(
            f"{where}: opset {version} is newer than what the installed onnx knows (up to {newest}); install a newer "
            "onnx, or export the model for an older opset"
        )


def _check_text(graph: onnx.GraphProto, where: str) -> None:
    """Refuse names that are no text: protobuf hands them out as bytes."""
    values = (*graph.input, *graph.output, *graph.value_info)
    names = [one.name for one in (*values, *graph.initializer)]
    names += [dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
        for body in bodies(node):
            _check_text(body, where)
    strange = next((name for name in names if not isinstance(name, str)), None)
    if strange is not None:
        raise ModelError(f"{where}: the file is damaged: {strange!r} stands where a name should; export it again")


def _complete(program: Program) -> None:
    """Give outputs for which the file states no type the one that follows from the nodes, as ONNX Runtime does.

    Raises:
        ModelError: a tensor's element type is stated as none.
    """
    for value in (*program.inputs, *program.outputs):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type:
            raise ModelError(f"{program.name}: '{value.name}' is a tensor of no element type; export the model again")
    if all(value.type.WhichOneof("value") for value in program.outputs):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(program.skeleton())
    except (onnx.shape_inference.InferenceError, ValueError):
        return  # the checker says what is missing
    found = {value.name: value for value in inferred.graph.output}
    program.outputs = [value if value.type.WhichOneof("value") else found[value.name] for value in program.outputs]


def _shaped(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """For the checker, which wants a shape stated where inference or the user tells one."""
    for value in (*skeleton.graph.input, *skeleton.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return skeleton


def _expanded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX's own functions of `_EXPANDED` written out, so that their parts are optimised."""
    if not any((node.domain, node.op_type) in _EXPANDED for node in proto.graph.node):
        return proto
    try:
        typed = onnx.shape_inference.infer_shapes(proto)
        inlined = onnx.inliner.inline_local_functions(_with_functions(typed))
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return proto  # such an operator stays whole, for an external engine
    return proto if any(node.domain == _OWN_FUNCTIONS for node in inlined.graph.node) else inlined


def _with_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model calling local functions in place of those operators; each call has one of its own."""
    renewed = onnx.ModelProto()
    renewed.CopyFrom(proto)
    graph = renewed.graph
    types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    types.update((one.name, onnx.helper.make_tensor_type_proto(one.data_type, one.dims)) for one in graph.initializer)
    versions = {entry.domain: entry.version for entry in renewed.opset_import}
    for index, node in enumerate(graph.node):
        version = versions.get(node.domain, 1)
        if (node.domain, node.op_type) not in _EXPANDED or not all(name in types for name in node.input if name):
            continue
        schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)  # its stubs lack these methods
        given = [(types[name] if name else onnx.TypeProto()).SerializeToString() for name in node.input]
        if schema.has_context_dependent_function:
            text = schema.get_context_dependent_function(node.SerializeToString(), given)
        elif schema.has_function:
            text = schema.function_body.SerializeToString()
        else:
            continue
        stated = {attribute.name for attribute in node.attribute}
        defaults = (attribute.default_value for attribute in schema.attributes.values())
        node.attribute.extend(one for one in defaults if one.name and one.name not in stated)
        function = onnx.FunctionProto.FromString(text)
        function.domain, function.name = _OWN_FUNCTIONS, f"{node.op_type}_{index}"
        renewed.functions.append(function)
        node.domain, node.op_type = function.domain, function.name
    if renewed.functions:
        renewed.opset_import.append(onnx.helper.make_opsetid(_OWN_FUNCTIONS, 1))
    return renewed


def _read(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give the path of an ONNX model") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or cut short; copy or export it again") from error
    try:
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: its external weights cannot be read: {one_line(error)}") from error
    return proto
