"""Exported modules to shared libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.module_errors import BuildError
from joulec.passes.relax.pipeline import cpu_pipeline


def build_library(module: Any, target: CpuTarget, path: Path) -> None:
    """Compile a module and write it as a shared library.

    Raises:
        BuildError: no C compiler links it, or the path cannot be written.
    """
    executable = relax.build(
        module, tvm.target.Target(target.target), relax_pipeline=cpu_pipeline(), exec_mode="compiled"
    )
    try:
        executable.export_library(str(path))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise BuildError(
            f"cannot link the compiled library: {reason[-1] if reason else error}; "
            "a C compiler (cc or gcc) must be installed"
        ) from error
