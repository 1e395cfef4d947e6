"""TVM's own ONNX frontend: what it makes of an operator, and what that computes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from joulec.passes.graph import Opaque, TensorType
from joulec.passes.relax.definition import adopt_definition
from joulec.passes.relax.pipeline import cpu_pipeline

_Array = npt.NDArray[Any]
_CALLS = 3


@dataclass(frozen=True)
class Trial:
    """What to try.

    Attributes:
        op: an opaque operator of dialect ``onnx``.
        target: TVM's, as text.
        inputs: sets of its operands, in order.
    """

    op: Opaque
    target: str
    inputs: Sequence[Sequence[_Array]]


@dataclass(frozen=True)
class Tried:
    """What came of it.

    Attributes:
        outputs: the results for each set of operands.
        time_s: median seconds of a call.
    """

    outputs: Sequence[Sequence[_Array]]
    time_s: float


class FrontendRefusal(RuntimeError):
    """The frontend does not know an operator, or gives results of other types."""


def through_frontend(op: Opaque) -> Opaque:
    """The operator in Relax's words, as the frontend puts it.

    Raises:
        FrontendRefusal: its results have other types, or shapes that are not fixed.
        Exception: whatever the frontend raises for what it does not know.
    """
    model = onnx.load_from_string(op.definition)
    shapes = {value.name: list(type.shape) for value, type in zip(model.graph.input, op.operand_types, strict=True)}
    dtypes = {value.name: type.dtype for value, type in zip(model.graph.input, op.operand_types, strict=True)}
    module = from_onnx(model, shapes, dtypes, keep_params_in_input=False)
    module = relax.transform.DecomposeOpsForInference()(module)
    main = module["main"]
    parts = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    if [_type(part) for part in (*(one.ty for one in main.params), *parts)] != [*op.operand_types, *op.result_types]:
        raise FrontendRefusal(f"TVM's frontend gives {main.ret_ty} for {op.kind}")
    return replace(op, dialect="relax", definition=tvm.ir.save_json(module).encode())


def _type(type: Any) -> TensorType | None:
    if not isinstance(type, relax.TensorType) or not isinstance(type.shape, relax.ShapeExpr):
        return None
    sizes = type.shape.values
    if not all(hasattr(size, "value") for size in sizes):  # a variable is none
        return None
    return TensorType(tuple(int(size.value) for size in sizes), str(type.dtype))


def attempt(trial: Trial) -> Tried | str:
    """Compile the operator as a module of the product would hold it, and run it; or why that cannot be done."""
    try:
        run = _compiled(through_frontend(trial.op), trial.target)
        outputs, seconds = [], []
        for operands in trial.inputs:
            tensors = [tvm.runtime.tensor(np.ascontiguousarray(one).reshape(one.shape)) for one in operands]
            for _ in range(_CALLS):
                begun_s = time.perf_counter()
                result = run(*tensors)
                seconds.append(time.perf_counter() - begun_s)
            parts = [result] if hasattr(result, "numpy") else list(result)
            outputs.append([part.numpy() for part in parts])
    except Exception as error:  # noqa: BLE001 - the frontend and the compiler raise whatever they meet
        lines = str(error).strip().splitlines()
        return lines[-1] if lines else type(error).__name__
    return Tried(outputs, statistics.median(seconds))


def _compiled(op: Opaque, target: str) -> Any:
    builder = relax.BlockBuilder()
    operands = [
        relax.Var(f"operand{index}", relax.TensorType(type.shape, type.dtype))
        for index, type in enumerate(op.operand_types)
    ]
    with builder.function("main", operands):
        result = builder.emit(relax.Call(adopt_definition(builder, op.definition), operands))
        builder.emit_func_output(result)
    chosen = tvm.target.Target(target)
    with chosen:
        module = relax.transform.InlinePrivateFunctions()(builder.get())
        executable = relax.build(module, chosen, relax_pipeline=cpu_pipeline(), exec_mode="compiled")
    return relax.VirtualMachine(executable, tvm.cpu())["main"]
