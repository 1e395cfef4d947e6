"""How PrimFuncs are lowered: TVM's own way, but that small buffers of a task are on its stack, and kernels of ours
are not searched for buffers that could be smaller.

TVM 0.27 takes every buffer, however small, from its workspace by a call. A register tile is then memory that somebody
else may read: stores to it stay, and each task of a parallel loop pays for dozens of calls. And its compaction of
buffers, which joins the regions of all accesses to each, takes half of the time in which a kernel with many register
tiles is compiled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.transform import PassContext
from tvm.tirx.compilation_pipeline import register_tir_pipeline

PIPELINE = "joulec"
"""The name under which `tvm.compile` and `relax.build` take it."""
EXACT_BUFFERS = "joulec.exact_buffers"
"""Attribute of PrimFuncs whose buffers are as small as they can be."""
_COMPACTION = "s_tir.CompactBufferAllocation"
_MOST_BYTES = 64 * 1024
"""Of one buffer."""
_KEPT = "disable_lower_builtin"
"""TVM's word for buffers that stay what they are in LLVM."""


def _on_stack(allocation: Any) -> Any:
    buffer = allocation.buffer
    if buffer.scope() != "local" or not all(isinstance(extent, tirx.IntImm) for extent in buffer.shape):
        return allocation
    elements = math.prod(int(extent) for extent in buffer.shape)
    size = elements * np.dtype(str(buffer.dtype).partition("x")[0]).itemsize
    return tirx.AllocBuffer(buffer, {_KEPT: tirx.IntImm("bool", 1)}) if size <= _MOST_BYTES else allocation


def _locals_on_stack(function: Any, _module: Any, _context: Any) -> Any:
    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.AllocBuffer, _on_stack)))


def _without(name: str, context: Any) -> PassContext:
    """A context like another but for one pass. Instruments would begin anew in it, so they stay outside."""
    return PassContext(
        opt_level=context.opt_level,
        required_pass=list(context.required_pass),
        disabled_pass=[*context.disabled_pass, name],
        config=dict(context.config),
    )


def _factory() -> tuple[Any, Any, Any]:
    default, finish_host, finish_device = tirx.get_tir_pipeline("default")

    def lower(module: Any, context: Any) -> Any:
        exact = tirx.transform.Filter(lambda one: EXACT_BUFFERS in one.attrs)(module)
        lowered = default(tirx.transform.Filter(lambda one: EXACT_BUFFERS not in one.attrs)(module))
        with _without(_COMPACTION, context):
            lowered.update(default(exact))
        return lowered

    lowering = tvm.transform.module_pass(lower, opt_level=0, name="joulec.Lower")
    locals_on_stack = tirx.transform.prim_func_pass(_locals_on_stack, opt_level=0, name="joulec.LocalsOnStack")
    return lowering, lambda: tvm.transform.Sequential([locals_on_stack, finish_host()]), finish_device


register_tir_pipeline(PIPELINE, _factory)
