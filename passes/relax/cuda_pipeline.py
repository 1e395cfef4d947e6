"""The lowering of modules for a GPU: plain operators legalised and scheduled by dlight's rules, kernels left alone."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.error import register_error
from tvm.s_tir import dlight

from joulec.passes.kernels.cuda.stages import on_device
from joulec.passes.module_errors import BuildError

register_error("BuildError", BuildError)  # else it arrives through TVM's pass machinery as a RuntimeError


def cuda_pipeline() -> Any:
    """A pass from Relax to the virtual machine's own calls; it takes the current target.

    What no kernel of ours computes runs under dlight's rules, in their usual order: what TVM itself would do.
    """
    gpu = dlight.gpu
    rules = (gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Transpose(), gpu.Fallback())
    return tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.FoldConstant(),
            dlight.ApplyDefaultSchedule(*rules),
            tvm.transform.module_pass(_require_kernels, opt_level=0),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _require_kernels(module: Any, context: Any) -> Any:
    """Refuse functions that would run on the host, on memory that is the GPU's."""
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and not on_device(function):
            raise BuildError(f"{variable.name_hint} is scheduled for CPUs and cannot run on a GPU: use an llvm target")
    return module
