"""Exported modules to one shared library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import autotvm, relay

from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.module_errors import BuildError
from joulec.passes.relay import lower  # noqa: F401 - registers the compiler of pinned kernels
from joulec.passes.relay.export import EntryPoint


def build_entry(entry: EntryPoint, target: CpuTarget) -> Any:
    """What `relay.build` makes of one entry: an executor factory."""
    with tvm.transform.PassContext(opt_level=3), autotvm.FallbackContext():
        return relay.build(entry.module, target=tvm.target.Target(target.target), mod_name=entry.function)


def build_library(entries: Sequence[EntryPoint], target: CpuTarget, path: Path) -> None:
    """Compile modules and write them as one shared library, which gives an executor per entry by its name.

    Raises:
        BuildError: no C compiler links it, or the path cannot be written.
    """
    factories = [build_entry(entry, target) for entry in entries]
    create = tvm.get_global_func("tvm.graph_executor_factory.create")
    first, *others = (
        create(factory.get_graph_json(), factory.get_lib(), entry.function)
        for entry, factory in zip(entries, factories, strict=True)
    )
    for other in others:
        first.import_module(other)
    try:
        first.export_library(str(path))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise BuildError(
            f"cannot link the compiled library: {reason[-1] if reason else error}; "
            "a C compiler (cc or gcc) must be installed"
        ) from error
