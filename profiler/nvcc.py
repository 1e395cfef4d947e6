"""NVIDIA's compiler, from CUDA source to machine code for one architecture. Needs no GPU, and knows no TVM."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

COMPILE_CALLBACK = "tvm_callback_cuda_compile"
"""The name under which TVM looks for what compiles CUDA source, when a kernel is first launched."""
_FALLBACK = Path("/usr/local/cuda/bin/nvcc")
_TIMEOUT_S = 300.0
_OPTIONS = ("-cubin", "-O3", "-std=c++17", "-w")
"""Without ``--use_fast_math``, which TVM sets: what is computed is compared with the original."""


class NvccError(RuntimeError):
    """CUDA source cannot be compiled here."""


def find_nvcc() -> Path:
    """The compiler on the path, else where CUDA's own installer puts it.

    Raises:
        NvccError: there is none.
    """
    found = shutil.which("nvcc")
    if found:
        return Path(found)
    if _FALLBACK.exists():
        return _FALLBACK
    raise NvccError("CUDA kernels are compiled by nvcc, which is not on the path: install NVIDIA's CUDA toolkit")


@cache
def nvcc_version() -> str:
    """E.g. ``nvcc-13.0.88``: what it makes of the same source depends on it.

    Raises:
        NvccError: there is no nvcc, or it does not run.
    """
    said = _run("--version")
    found = re.search(r"V(\d+(?:\.\d+)*)", said)
    return f"nvcc-{found.group(1) if found else 'unknown'}"


@cache
def known_archs() -> tuple[str, ...]:
    """The architectures that this nvcc compiles for, e.g. ``sm_80``.

    Raises:
        NvccError: there is no nvcc, or it does not run.
    """
    return tuple(re.findall(r"sm_\w+", _run("--list-gpu-code")))


def compile_cubin(source: str, arch: str) -> bytes:
    """A cubin (an ELF file for the device) of CUDA source.

    Raises:
        NvccError: there is no nvcc, or it refuses the source.
    """
    with tempfile.TemporaryDirectory(prefix="joulec-nvcc-") as folder:
        written, made = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        written.write_text(source, encoding="utf-8")
        _run(*_OPTIONS, f"-arch={arch}", str(written), "-o", str(made))
        return made.read_bytes()


def _run(*arguments: str) -> str:
    nvcc = find_nvcc()
    try:
        done = subprocess.run([str(nvcc), *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NvccError(f"{nvcc} does not run: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NvccError(f"{nvcc} fails: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout
