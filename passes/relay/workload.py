"""Builds one operator under one of Relay's algorithms for the measuring harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import tvm
from tvm import relay, te
from tvm.contrib import graph_executor

from joulec.passes.graph import NodeSpec, Opaque, TensorType
from joulec.passes.kernels.arena import arena
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.rotation import Rotating, loop_s, ring_of
from joulec.passes.relay.algorithm import RelayAlgorithm, types_read
from joulec.passes.relay.emit import emit_function
from joulec.passes.relay.lower import compiled
from joulec.profiler.candidate import Workload


@dataclass(frozen=True)
class RelayPayload:
    """What to build; picklable."""

    spec: NodeSpec
    algorithm: RelayAlgorithm
    target: CpuTarget
    seed: int = 0


def build(payload: RelayPayload) -> Workload:
    """Compile a candidate, by the very function that `relay.build` calls, and lay out its data.

    Raises:
        Exception: whatever the compiler raises.
    """
    use_threads(payload.target.threads)
    spec, algorithm = payload.spec, payload.algorithm
    if isinstance(spec.op, Opaque):
        return _own(payload)
    operands = types_read(spec, algorithm)
    results = [TensorType(algorithm.result_shape(spec, index), type.dtype) for index, type in enumerate(spec.results)]
    ring = ring_of(spec, operands, results, arena(payload.seed), tvm.nd.from_dlpack)
    return Rotating(compiled(spec, algorithm), ring, _overhead_s(len(operands) + len(results)))


def _own(payload: RelayPayload) -> Workload:
    """An operator that only TVM knows, as `relay.build` compiles and runs it."""
    spec = payload.spec
    function = emit_function(spec, payload.algorithm)
    ring = ring_of(spec, types_read(spec, payload.algorithm), (), arena(payload.seed), tvm.nd.from_dlpack)
    copies = relay.Function(function.params[:1], relay.copy(function.params[0]))
    run, idle = (_runner(one, payload.target.target) for one in (function, copies))
    return Rotating(run, ring, loop_s(idle, [(arguments[0],) for arguments in ring.turns[:1]]))


def _runner(function: Any, target: str) -> Callable[..., object]:
    module = tvm.IRModule.from_expr(function)
    with tvm.transform.PassContext(opt_level=3), tvm.autotvm.FallbackContext():
        factory = relay.build(relay.transform.InferType()(module), target=tvm.target.Target(target))
    machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    names = [parameter.name_hint for parameter in module["main"].params]

    def run(*arguments: object) -> None:
        for name, argument in zip(names, arguments, strict=True):
            machine.set_input_zero_copy(name, argument)
        machine.run()

    return run


def use_threads(threads: int) -> None:
    """Make TVM's pool as large as the target says, unless the process was started so."""
    if tvm.get_global_func("runtime.NumThreads")() != threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)


@cache
def _overhead_s(count: int) -> float:
    """Seconds per call of a function of ``count`` tensors that writes one element."""
    tensors = [te.placeholder((1,), name=f"a{index}") for index in range(count - 1)]
    result = te.compute((1,), lambda i: sum((tensor[i] for tensor in tensors), tvm.tir.const(0.0)), name="r")
    schedule = te.create_schedule(result.op)
    function = tvm.build(schedule, [*tensors, result], "llvm", name="idle")["idle"]
    arrays = [buffer.array for buffer in arena(0).results([TensorType((1,))] * count)]
    return loop_s(function, [tuple(map(tvm.nd.from_dlpack, arrays))])
