"""Builds one operator under one kernel (or under TVM's own lowering) for the measuring harness."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from typing import Any

import tvm
from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.arena import RUNTIME_COPIES, Arena, arena, constant_copies
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.registry import kernel_named
from joulec.profiler.candidate import Workload

TVM_OWN = "tvm"
"""The name under which TVM's own lowering is asked for."""
_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7


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
    target: CpuTarget
    seed: int = 0


class Rotating:
    """A compiled function and the ring of arguments that its calls go through."""

    def __init__(self, function: Callable[..., object], ring: Sequence[tuple[object, ...]], overhead_s: float) -> None:
        self._function = function
        self._ring = cycle(ring)
        self._overhead_s = overhead_s

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, each with the next arguments of the ring."""
        _call(self._function, self._ring, calls)

    def overhead_s(self) -> float:
        """Seconds per call of the same loop around a function that does nothing."""
        return self._overhead_s


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
    function = kernel_named(payload.kernel).build(spec, payload.params, target)
    parameters = [_type(parameter) for parameter in function.params]
    count = len(spec.operands)
    ring = _ring(spec, parameters[:count], parameters[count:], arena(payload.seed))
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
            executable = relax.build(builder.get(), target, relax_pipeline=cpu_pipeline(), exec_mode="compiled")
        return relax.VirtualMachine(executable, tvm.cpu())["main"]

    def operator(builder: Any, operands: list[Any]) -> Any:
        results = emit_reference(builder, spec, operands)
        return results[0] if len(results) == 1 else relax.Tuple(results)

    ring = _ring(spec, [operand.type for operand in spec.operands], (), arena(payload.seed))
    overhead_s = _loop_s(compiled(lambda builder, operands: relax.Tuple(operands[:1])), ring)
    return Rotating(compiled(operator), ring, overhead_s)


def _call(function: Callable[..., object], ring: cycle[tuple[object, ...]], calls: int) -> None:
    for arguments in islice(ring, calls):
        function(*arguments)


def _ring(
    spec: NodeSpec, operands: Sequence[TensorType], results: Sequence[TensorType], data: Arena
) -> list[tuple[object, ...]]:
    """Argument tuples: constants change with every call, run-time operands and results after a few."""
    constant = [operand.constant for operand in spec.operands]
    weights = [type for type, fixed in zip(operands, constant, strict=True) if fixed]
    inputs = [type for type, fixed in zip(operands, constant, strict=True) if not fixed]
    copies = constant_copies(weights)
    drawn = iter(map(_tensor, data.operands([*inputs * RUNTIME_COPIES, *weights * copies])))
    input_sets = [[next(drawn) for _ in inputs] for _ in range(RUNTIME_COPIES)]
    weight_sets = [[next(drawn) for _ in weights] for _ in range(copies)]
    written = iter(map(_tensor, data.results([*results] * RUNTIME_COPIES)))
    result_sets = [[next(written) for _ in results] for _ in range(RUNTIME_COPIES)]

    def arguments(turn: int) -> tuple[object, ...]:
        given, fixed = iter(input_sets[turn % RUNTIME_COPIES]), iter(weight_sets[turn % copies])
        return (*(next(fixed if is_fixed else given) for is_fixed in constant), *result_sets[turn % RUNTIME_COPIES])

    length = copies if copies % RUNTIME_COPIES == 0 else copies * RUNTIME_COPIES
    return [arguments(turn) for turn in range(length)]


def _tensor(array: Any) -> Any:
    return tvm.runtime.from_dlpack(array)


def _type(buffer: Any) -> TensorType:
    return TensorType(tuple(int(extent) for extent in buffer.shape), str(buffer.dtype))


def _compiled(function: Any, target: str) -> Any:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(target))["main"]


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
    tensor = _tensor(arena(0).operands([TensorType((16,))])[0])
    return _loop_s(_compiled(builder.get(), '{"kind": "llvm"}'), [(tensor,) * count])


def _loop_s(function: Callable[..., object], ring: Sequence[tuple[object, ...]]) -> float:
    """The least seconds per call out of a few loops."""
    turns = cycle(ring)
    best = float("inf")
    for _ in range(_OVERHEAD_REPEATS):
        begin = time.perf_counter()
        _call(function, turns, _OVERHEAD_CALLS)
        best = min(best, time.perf_counter() - begin)
    return best / _OVERHEAD_CALLS
