"""A Relax module's own meaning: TVM's default pipeline on the unoptimised module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from joulec.passes.verification import Reference

_Array = npt.NDArray[Any]


def relax_reference(module: Any, names: Sequence[str], function: str = "main") -> Reference:
    """What computes the original module, inputs by name in the function's order."""
    machine = relax.VirtualMachine(tvm.compile(module, tvm.target.Target("llvm")), tvm.cpu())

    def run(given: Mapping[str, _Array]) -> list[_Array]:
        result = machine[function](*[tvm.runtime.tensor(np.ascontiguousarray(given[name])) for name in names])
        parts = [result] if hasattr(result, "numpy") else list(result)
        return [part.numpy() for part in parts]

    return Reference(f"tvm {tvm.__version__} (default pipeline)", run)
