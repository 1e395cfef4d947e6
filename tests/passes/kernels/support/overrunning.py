"""A kernel in C that may write where it must not; the measuring worker imports this module by name."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from joulec.passes.graph import Activation, Node, TensorType, Value
from joulec.passes.kernels.arena import arena
from joulec.passes.kernels.rotation import Rotating, ring_of

SIZE = 1000
SOURCE = f"""
void relu(float *x, float *y, long begin, long end, long poke) {{
    for (long i = begin; i < end; ++i) y[i] = 0 <= i && i < {SIZE} && x[i] > 0 ? x[i] : 0;
    if (poke >= 0) x[poke] = 7;
}}
"""


def compiled(folder: Path) -> Path:
    """The kernel as a shared library; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the kernel needs a C compiler")
    source, library = folder / "relu.c", folder / "relu.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def relu(payload: tuple[str, int, int, int]) -> Rotating:
    """Writes results from ``begin`` to ``end``, and into its operand at ``poke``."""
    library, begin, end, poke = payload
    kernel = ctypes.CDLL(library).relu
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_long] * 3]
    spec = Node.make(Activation("relu"), (Value.input("x", TensorType((SIZE,))),)).spec
    types = [operand.type for operand in spec.operands]
    ring = ring_of(spec, types, spec.results, arena(0), lambda array: array.ctypes.data)
    return Rotating(lambda x, y: kernel(x, y, begin, end, poke), ring, 0.0)
