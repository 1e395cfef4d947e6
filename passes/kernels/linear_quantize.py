"""QuantizeLinear, DequantizeLinear, and one after the other: one scale and one zero point for all elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from tvm import tirx

from joulec.passes.graph import NodeSpec, Opaque
from joulec.passes.kernels import loops
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work

_KINDS = ("QuantizeLinear", "DequantizeLinear", "QuantizeLinear+DequantizeLinear")


@dataclass(frozen=True)
class _Scale:
    """One step of bytes.

    Attributes:
        step: the scale.
        zero: the zero point.
        dtype: of the bytes.
    """

    step: np.float32
    zero: int
    dtype: str

    def quantised(self, value: Any, width: int) -> Any:
        """Floats that hold the bytes of some floats: rounded to even, moved by the zero point, saturated."""
        limits = np.iinfo(self.dtype)
        moved = tirx.nearbyint(value / _splat(self.step, width)) + _splat(self.zero, width)
        return tirx.max(tirx.min(moved, _splat(limits.max, width)), _splat(limits.min, width))

    def dequantised(self, value: Any, width: int) -> Any:
        """The floats for which floats that hold bytes stand."""
        return (value - _splat(self.zero, width)) * _splat(self.step, width)


class LinearQuantize:
    """Elements in whole vectors; what is quantised only to be dequantised never becomes bytes."""

    name = "linear_quantize"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Opaque) or spec.op.kind not in _KINDS or _steps(spec.op) is None:
            return ()
        types = {operand.type.dtype for operand in spec.operands} | {result.dtype for result in spec.results}
        if len(spec.operands) != 1 or len(spec.results) != 1 or not types <= {"float32", "int8", "uint8"}:
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        assert isinstance(spec.op, Opaque)
        steps = _steps(spec.op)
        assert steps is not None
        threads = target.threads if dict(params)["parallel"] else 1
        size, dtype = spec.results[0].size, spec.results[0].dtype
        piece = loops.piece_size(size, 1, target.lanes, threads)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            def task(index: Any) -> None:
                def at(begin: Any, length: int) -> None:
                    def vector(i: Any, width: int) -> None:
                        place = loops.run(begin + i, width)
                        value = tirx.Cast(loops.typed("float32", width), operands[0][place])
                        for kind, scale in steps:
                            quantises = kind == "QuantizeLinear"
                            value = scale.quantised(value, width) if quantises else scale.dequantised(value, width)
                        if dtype != "float32":
                            value = tirx.Cast(loops.typed("int32", width), value)
                        loops.store(results[0], place, tirx.Cast(loops.typed(dtype, width), value))

                    loops.runs(length, target.lanes, vector)

                loops.pieces(size, piece, index, at)

            loops.repeat(-(-size // piece), task, parallel=threads > 1)

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Each element is read once and written once."""
        return Work(4 * spec.results[0].size, spec.bytes, spec.bytes, spec.bytes)


@lru_cache(maxsize=4096)
def _steps(op: Opaque) -> tuple[tuple[str, _Scale], ...] | None:
    """The nodes' types with their scales; None where one has more than one scale, or of another type."""
    graph = onnx.load_from_string(op.definition).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    bytes_of = [type.dtype for type in (*op.operand_types, *op.result_types) if type.dtype in ("int8", "uint8")]
    found = []
    for node in graph.node:
        scale = arrays.get(node.input[1])
        zero = arrays.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        dtype = str(zero.dtype) if zero is not None else bytes_of[0] if bytes_of else "uint8"
        named = len(node.input) > 2 and bool(node.input[2])
        if node.domain not in ("", "ai.onnx") or scale is None or (named and zero is None):
            return None
        if scale.size != 1 or scale.dtype != np.float32 or dtype not in ("int8", "uint8"):
            return None
        if any(attribute.name in ("precision", "output_dtype") and attribute.i for attribute in node.attribute):
            return None
        point = int(zero.reshape(-1)[0]) if zero is not None else 0
        found.append((node.op_type, _Scale(scale.reshape(-1)[0], point, dtype)))
    same = len({scale.dtype for _, scale in found}) == 1
    return tuple(found) if same else None


def _splat(number: Any, width: int) -> Any:
    return loops.splat(loops.f32(float(number)), width)
