"""Builds one operator under one algorithm for a GPU, for the measuring harness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import tvm
from tvm import relax

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.arena import arena
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.registry import kernel_named
from joulec.passes.kernels.rotation import ring_of
from joulec.passes.kernels.workload import TVM_OWN, KernelPayload
from joulec.passes.relax.cuda_pipeline import cuda_pipeline
from joulec.passes.relax.emit import emit_reference
from joulec.profiler.candidate import Workload
from joulec.profiler.nvcc import COMPILE_CALLBACK, compile_cubin


class OnDevice:
    """A compiled function and argument tuples on a device, in turn; a run ends when the device has done all calls."""

    def __init__(self, function: Callable[..., object], turns: Sequence[tuple[object, ...]], device: Any) -> None:
        self._function, self._device = function, device
        self._ring = cycle(turns)

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, each with the next arguments of the ring."""
        for arguments in islice(self._ring, calls):
            self._function(*arguments)
        self._device.sync()

    def overhead_s(self) -> float:
        """Launches belong to what an operator costs on a GPU: nothing is subtracted."""
        return 0.0


def build(payload: KernelPayload) -> Workload:
    """Compile a candidate and lay out its data on GPU 0.

    Raises:
        RuntimeError: TVM finds no GPU.
        Exception: whatever the compiler raises.
    """
    spec, target = payload.spec, payload.target
    assert isinstance(target, CudaTarget)
    device, parsed = open_gpu(target), tvm.target.Target(target.options)
    operands = [operand.type for operand in spec.operands]
    results: list[TensorType] = []
    if payload.kernel == TVM_OWN:
        function = relax.VirtualMachine(own_executable(spec, parsed), device)["main"]
    else:
        lowered = kernel_named(payload.kernel, target).build(spec, payload.params, target)
        types = [TensorType(tuple(int(extent) for extent in one.shape), str(one.dtype)) for one in lowered.params]
        operands, results = types[: len(operands)], types[len(operands) :]
        function = tvm.compile(tvm.IRModule({"main": lowered.with_attr("global_symbol", "main")}), parsed)["main"]
    ring = ring_of(spec, operands, results, arena(payload.seed), lambda array: tvm.runtime.tensor(array, device))
    return OnDevice(function, ring.turns, device)


def open_gpu(target: CudaTarget) -> Any:
    """TVM's device for GPU 0, on which functions compiled for the target can be called.

    Raises:
        RuntimeError: TVM finds no GPU.
    """
    device = tvm.cuda(0)
    if not device.exist:
        raise RuntimeError("TVM finds no GPU: the NVIDIA driver and a GPU are needed")
    tvm.register_global_func(COMPILE_CALLBACK, lambda source: compile_cubin(str(source), target.arch), override=True)
    return device


def _own_module(spec: NodeSpec) -> Any:
    """The operator as TVM's own operators; results are allocated by each call."""
    builder = relax.BlockBuilder()
    operands = [
        relax.Var(f"operand{index}", relax.TensorType(operand.type.shape, operand.type.dtype))
        for index, operand in enumerate(spec.operands)
    ]
    with builder.function("main", operands):
        with builder.dataflow():
            results = emit_reference(builder, spec, operands)
            result = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.get()


def own_executable(spec: NodeSpec, target: Any) -> Any:
    """The operator as TVM and dlight's default rules lower it, compiled for a target."""
    with target:  # while the operators are written, too: none is to be scheduled for CPUs
        return relax.build(_own_module(spec), target, relax_pipeline=cuda_pipeline(), exec_mode="compiled")
