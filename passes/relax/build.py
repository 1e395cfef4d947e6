"""Exported modules to shared libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from tvm import relax
from tvm.relax import vm_build

from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.module_errors import BuildError
from joulec.passes.relax.cuda_pipeline import cuda_pipeline
from joulec.passes.relax.pipeline import cpu_pipeline
from joulec.passes.relax.side_by_side import SideBySide, compiling_threads

STEPS_SUFFIX = "__steps"
"""What the name of a function has after it where it runs step by step; the runtime looks for it."""

_COMPILED_CALLS = 1000
"""Calls and allocations up to which a function is compiled: LLVM's time grows faster than their number. Longer ones
run as bytecode, which takes 0.07 µs more for each."""


def build_library(module: Any, target: CpuTarget | CudaTarget, path: Path) -> None:
    """Compile a module and write it as a shared library.

    Every function is there twice: compiled (very long ones as bytecode), and under its name with `STEPS_SUFFIX` as the
    virtual machine's bytecode, which calls the same kernels and can be watched step by step. Kernels for a GPU lie in
    the library as CUDA source.

    Raises:
        BuildError: a kernel for a CPU is to run on a GPU, no C compiler links it, or the path cannot be written.
    """
    pipeline = cuda_pipeline() if isinstance(target, CudaTarget) else cpu_pipeline()
    tvm_target = tvm.target.Target(json.loads(target.target))
    builder, kernels, constants = _generated(module, tvm_target, pipeline)
    tir_pipeline, threads = ("default", 1) if isinstance(target, CudaTarget) else (PIPELINE, compiling_threads())
    try:
        with (
            TemporaryDirectory(prefix="joulec-") as folder,
            SideBySide(kernels, tvm_target, tir_pipeline, threads, Path(folder)) as beside,
        ):
            executable = vm_build._vmlink(builder, tvm_target, beside.rest, tir_pipeline, params=constants)
            executable.export_library(str(path), addons=beside.objects())
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise BuildError(
            f"cannot link the compiled library: {reason[-1] if reason else error}; "
            "a C compiler (cc or gcc) must be installed"
        ) from error


def _generated(module: Any, target: Any, pipeline: Any) -> tuple[Any, Any, Mapping[str, Any]]:
    """What `relax.build` does before it links, with code generated twice: builder, kernels and constants."""
    with target:
        lowered = pipeline(relax.transform.InlinePrivateFunctions()(module))
    constants = dict((lowered.attrs or {}).get("const_name_to_constant", {}))
    builder = relax.ExecBuilder()
    vm_build._vmcodegen(builder, _steps(lowered), "bytecode")
    mode = "compiled" if _longest(lowered) <= _COMPILED_CALLS else "bytecode"
    return builder, vm_build._filter_tir(vm_build._vmcodegen(builder, lowered, mode)), constants


def _longest(module: Any) -> int:
    """Bindings of the longest Relax function."""
    functions = (one for one in module.functions.values() if isinstance(one, relax.Function))
    return max((sum(len(block.bindings) for block in one.body.blocks) for one in functions), default=0)


def _steps(module: Any) -> Any:
    """The module's Relax functions under other names, by which they also call each other."""
    compiled = {
        variable: function
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function) and function.attrs and "global_symbol" in function.attrs
    }
    renamed = {variable: _renamed(variable) for variable in compiled}
    functions = {
        renamed[variable]: _Renaming(renamed)
        .visit_expr(function)
        .with_attr("global_symbol", renamed[variable].name_hint)
        for variable, function in compiled.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)


def _renamed(variable: Any) -> Any:
    renamed = tvm.ir.GlobalVar(f"{variable.name_hint}{STEPS_SUFFIX}")
    relax.expr._update_type(renamed, variable.ty)
    return renamed


@relax.expr_functor.mutator
class _Renaming(relax.PyExprMutator):  # type: ignore[misc]
    """Puts other functions in place of those that are called."""

    def __init__(self, renamed: Mapping[Any, Any]) -> None:
        super().__init__()
        self._renamed = renamed

    def visit_global_var_(self, op: Any) -> Any:
        """See TVM's class."""
        return self._renamed.get(op, op)
