"""The lowering that every module of ours takes: plain operators legalised, kernels left as they are scheduled."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax


def cpu_pipeline() -> Any:
    """A pass from Relax to the virtual machine's own calls.

    Nothing is fused across nodes: what was measured as one operator runs as one operator.
    """
    return tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.FoldConstant(),
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
