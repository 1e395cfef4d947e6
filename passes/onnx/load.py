"""Read a model from a file or from memory, and refuse what is not a sound one."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx.checker
import onnx.external_data_helper
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from joulec.passes.onnx.errors import ModelError, one_line
from joulec.passes.onnx.program import Program


def load(model: onnx.ModelProto | str | os.PathLike[str]) -> Program:
    """Read, check and take apart a model; functions are inlined, weights that are also inputs become constants.

    Raises:
        ModelError: the file is missing or no ONNX model, its weights are missing, or ONNX's checker refuses it.
    """
    proto = model if isinstance(model, onnx.ModelProto) else _read(Path(model))
    where = proto.graph.name if isinstance(model, onnx.ModelProto) else str(model)
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{where}: no ONNX model (it has no graph outputs or no opset); export it again")
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
    program = Program.of(proto)
    try:
        onnx.checker.check_model(program.skeleton())
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: not a valid ONNX model: {one_line(error)}") from error
    return program


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
