"""CUDA targets, from TVM's target text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from joulec.passes.kernels.target import TargetError, target_options
from joulec.profiler.nvcc import NvccError, known_archs

_LIMITS = {"max_num_threads": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}
"""What every architecture that nvcc compiles for has; rules must know it."""


@dataclass(frozen=True)
class CudaTarget:
    """What algorithms must know of a CUDA target.

    Attributes:
        target: TVM's target as JSON text, with its host.
        arch: the architecture that code is made for, e.g. ``sm_80``.
        threads: threads of the host that call it; launches come from one.
    """

    target: str
    arch: str
    threads: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """TVM's target as it takes it."""
        found: dict[str, Any] = json.loads(self.target)
        return found


def is_cuda(text: str | None) -> bool:
    """Whether a target's text names a CUDA target.

    Raises:
        TargetError: it cannot be read.
    """
    return text is not None and target_options(text).get("kind") == "cuda"


def cuda_target(text: str, arch: str | None = None) -> CudaTarget:
    """What algorithms must know of a target.

    Args:
        text: ``cuda``, ``cuda -arch=sm_80`` or TVM's target as JSON.
        arch: of the GPU at hand, for a text that names none; None where there is no GPU.

    Raises:
        TargetError: the text is no CUDA target, names no architecture while there is no GPU, names another one than
            the GPU's, or one that nvcc does not know; or nvcc is missing.
    """
    options = target_options(text)
    if options.pop("kind", None) != "cuda":
        raise TargetError(f"the target {text!r} is no CUDA target")
    asked = options.pop("arch", None)
    host = options.pop("host", {"kind": "llvm"})
    if asked is None and arch is None:
        raise TargetError(f"the target {text!r} names no architecture, and no GPU is at hand: write cuda -arch=sm_80")
    if asked is not None and arch is not None and asked != arch:
        raise TargetError(f"the target {text!r} is for {asked}, and costs are measured on this GPU, {arch}: write cuda")
    chosen = str(asked or arch)
    try:
        known = known_archs()
    except NvccError as error:
        raise TargetError(f"the target {text!r}: {error}") from error
    if chosen not in known:
        raise TargetError(f"nvcc does not know the architecture {chosen!r}; it knows {', '.join(known)}")
    described = {"kind": "cuda", "arch": chosen, **_LIMITS, **options, "host": host}
    return CudaTarget(json.dumps(described, sort_keys=True), chosen)
