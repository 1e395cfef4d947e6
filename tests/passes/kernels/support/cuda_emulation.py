"""CUDA source run on the CPU: each block as threads with real barriers (``cuda_emulation.hpp``)."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import tvm_ffi
from tvm import tirx

HEADER = Path(__file__).with_suffix(".hpp")
KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\) \{\n.*?\n\}\n', re.DOTALL)
SCRATCH = 1 << 16
"""Elements of a tensor between two kernels of one stage."""


def launches(function):
    """Grid and block of each kernel that a PrimFunc launches, in order."""
    found = []

    def nest(statement):
        if isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                nest(part)
        elif isinstance(statement, tirx.For):
            found.append(_extents(statement))
        else:  # a root block, or what realises it
            nest(statement.block.body if hasattr(statement, "block") else statement.body)

    nest(function.body)
    return found


def _extents(nest):
    extents = {}

    def visit(loop):
        if loop.kind == tirx.ForKind.THREAD_BINDING:
            extents[str(loop.thread_binding.thread_tag)] = int(loop.extent)

    tvm_ffi.structural_walk(nest, (tirx.For, visit))
    return tuple(tuple(extents.get(f"{kind}.{axis}", 1) for axis in "xyz") for kind in ("blockIdx", "threadIdx"))


class Emulated:
    """All kernels of a CUDA source.

    Args:
        source: as TVM writes it.
        folder: where to compile it.
    """

    def __init__(self, source, folder):
        kernels = list(KERNEL.finditer(source))
        self._pointers = {
            kernel[1]: [one.split()[-1].removesuffix("_ptr") for one in kernel[2].split(",")] for kernel in kernels
        }
        entries = "".join(
            f'extern "C" void run_{name}(int *grid, int *block, float **p) {{ launch(grid, block, [&] {{ '
            f"{name}({', '.join(f'p[{index}]' for index in range(len(pointers)))}); }}); }}\n"
            for name, pointers in self._pointers.items()
        )
        written = Path(folder) / "kernels.cpp"
        written.write_text(f'#include "{HEADER}"\n' + "".join(kernel[0] for kernel in kernels) + entries)
        library = written.with_suffix(".so")
        flags = ("-std=c++20", "-O0", "-w", "-shared", "-fPIC", "-pthread")
        subprocess.run(["g++", *flags, "-o", str(library), str(written)], check=True)
        self._library = ctypes.CDLL(str(library))

    def kernels(self, name):
        """Names of the kernels of a function, in the order in which it launches them."""
        own = [one for one in self._pointers if re.fullmatch(rf"{name}_kernel(_\d+)?", one)]
        return sorted(own, key=lambda one: (len(one), one))

    def run(self, name, function, operands):
        """What a compiled PrimFunc computes: its launches, one after another. All tensors are float32."""
        parameters = list(function.params)
        tensors = {f"operand{index}": np.ascontiguousarray(array) for index, array in enumerate(operands)}
        results = [
            np.full([int(extent) for extent in one.shape], np.nan, "float32") for one in parameters[len(operands) :]
        ]
        tensors |= {f"result{index}": array for index, array in enumerate(results)}
        kernels, shapes = self.kernels(name), launches(function)
        assert len(kernels) == len(shapes)
        for kernel, (grid, block) in zip(kernels, shapes, strict=True):
            given = [tensors.setdefault(one, np.full(SCRATCH, np.nan, "float32")) for one in self._pointers[kernel]]
            addresses = (ctypes.c_void_p * len(given))(*(array.ctypes.data for array in given))
            getattr(self._library, f"run_{kernel}")((ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), addresses)
        return results
