"""Builds one operator under one kernel (or under TVM's own lowering) for the measuring harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import tvm
from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.arena import arena
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.kernels.registry import kernel_named
from joulec.passes.kernels.rotation import Rotating, loop_s, ring_of
from joulec.profiler.candidate import Workload

TVM_OWN = "tvm"
"""The name under which TVM's own lowering is asked for."""


@dataclass(frozen=True)
class KernelPayload:
    """What to build; picklable.

    Attributes:
        spec: the node.
        kernel: name of a kernel of the registry, or ``tvm``.
        params: its schedule; empty for ``tvm``.
        target: for which target, with how many threads.
        seed: of the random data.
    """

    spec: NodeSpec
    kernel: str
    params: Params
    target: CpuTarget | CudaTarget
    seed: int = 0


def build(payload: KernelPayload) -> Workload:
    """Compile a candidate and lay out its data.

    Raises:
        KeyError: no kernel has the payload's name.
        Exception: whatever the compiler raises.
    """
    _use_threads(payload.target.threads)
    if payload.kernel == TVM_OWN:
        return _own_lowering(payload)
    spec, target = payload.spec, payload.target
    function = kernel_named(payload.kernel, target).build(spec, payload.params, target)
    parameters = [_type(parameter) for parameter in function.params]
    count = len(spec.operands)
    ring = ring_of(spec, parameters[:count], parameters[count:], arena(payload.seed), _tensor)
    compiled = _compiled(function, target.target)
    return Rotating(compiled, ring, _packed_overhead_s(len(parameters)))


def _own_lowering(payload: KernelPayload) -> Workload:
    """The operator as TVM lowers it, called through the virtual machine; results are allocated by each call."""
    from joulec.passes.relax.emit import emit_reference  # it belongs to a layer that builds on this one
    from joulec.passes.relax.pipeline import cpu_pipeline

    spec = payload.spec

    def compiled(emit: Callable[[Any, list[Any]], Any]) -> Any:
        builder = relax.BlockBuilder()
        operands = [
            relax.Var(f"operand{index}", relax.TensorType(operand.type.shape, operand.type.dtype))
            for index, operand in enumerate(spec.operands)
        ]
        with builder.function("main", operands):
            with builder.dataflow():
                result = builder.emit_output(emit(builder, operands))
            builder.emit_func_output(result)
        target = tvm.target.Target(payload.target.target)
        with target:
            executable = relax.build(
                builder.get(), target, relax_pipeline=cpu_pipeline(), exec_mode="compiled", tir_pipeline=PIPELINE
            )
        return relax.VirtualMachine(executable, tvm.cpu())["main"]

    def operator(builder: Any, operands: list[Any]) -> Any:
        results = emit_reference(builder, spec, operands)
        return results[0] if len(results) == 1 else relax.Tuple(results)

    ring = ring_of(spec, [operand.type for operand in spec.operands], (), arena(payload.seed), _tensor)
    overhead_s = loop_s(compiled(lambda builder, operands: relax.Tuple(operands[:1])), ring.turns)
    return Rotating(compiled(operator), ring, overhead_s)


def _tensor(array: Any) -> Any:
    return tvm.runtime.from_dlpack(array)


def _type(buffer: Any) -> TensorType:
    return TensorType(tuple(int(extent) for extent in buffer.shape), str(buffer.dtype))


def _compiled(function: Any, target: str) -> Any:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(target), tir_pipeline=PIPELINE)["main"]


def _use_threads(threads: int) -> None:
    """Make TVM's pool as large as the target says, unless the process was started so."""
    if tvm.get_global_func("runtime.NumThreads")() != threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)


@cache
def _packed_overhead_s(count: int) -> float:
    """Seconds per call of a function of ``count`` tensors that does nothing."""
    with IRBuilder() as builder, T.prim_func(private=True):
        for index in range(count):
            T.arg(f"argument{index}", T.handle())
        T.evaluate(0)
    tensor = _tensor(arena(0).operands([TensorType((16,))])[0].array)
    return loop_s(_compiled(builder.get(), '{"kind": "llvm"}'), [(tensor,) * count])
