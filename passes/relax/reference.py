"""A Relax module's own meaning: TVM's default pipeline on the unoptimised module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.relax.cuda_pipeline import cuda_pipeline
from joulec.passes.relax.cuda_workload import open_gpu
from joulec.passes.verification import Reference

_Array = npt.NDArray[Any]


def relax_reference(
    module: Any, names: Sequence[str], function: str = "main", gpu: CudaTarget | None = None
) -> Reference:
    """What computes the original module, inputs by name in the function's order.

    Args:
        gpu: the target of a module that holds kernels for a GPU, which then runs on GPU 0.

    Raises:
        RuntimeError: a GPU is needed, and TVM finds none.
    """
    if gpu is None:
        device, target, pipeline = tvm.cpu(), tvm.target.Target("llvm"), "default"
    else:
        device, target, pipeline = open_gpu(gpu), tvm.target.Target(gpu.options), cuda_pipeline()
    machine = relax.VirtualMachine(tvm.compile(module, target, relax_pipeline=pipeline), device)

    def run(given: Mapping[str, _Array]) -> list[_Array]:
        result = machine[function](*[tvm.runtime.tensor(np.ascontiguousarray(given[name]), device) for name in names])
        parts = [result] if hasattr(result, "numpy") else list(result)
        return [part.numpy() for part in parts]

    return Reference(f"tvm {tvm.__version__} (default pipeline)", run)
