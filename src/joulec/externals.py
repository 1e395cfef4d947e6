"""What of a compiled model runs outside of it, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from joulec.progress import Progress
from joulec.runtime.external import ENGINES
from joulec.runtime.manifest import Assigned

FRONTEND = "tvm-frontend"
"""The algorithm of what TVM's own ONNX frontend lowers (`joulec.passes.relax.agreement`)."""


def warn_externals(assignment: Iterable[Assigned], progress: Progress) -> None:
    """Say which operators wait for the slow reference implementation because ONNX Runtime is missing."""
    from joulec.passes.onnx.engines import has_onnxruntime

    if has_onnxruntime():
        return
    slow = sorted({one.operator.removeprefix("opaque.") for one in assignment if one.algorithm in ENGINES})
    if slow:
        progress.warn(
            f"{', '.join(slow)}: computed by ONNX's reference implementation, which is slow; "
            "install joulec[onnxruntime] and compile again"
        )


def outside(assignment: Iterable[Mapping[str, Any]]) -> list[str]:
    """Per engine, the operators that it computes and its share of the predicted time; empty where all is joulec's own.

    What TVM's own ONNX frontend lowers is part of the compiled module, and named all the same.
    """
    rows = list(assignment)
    total = sum(one["time_s"] or 0.0 for one in rows) or 1.0
    lines = []
    for engine in (FRONTEND, *ENGINES):
        own = [one for one in rows if one["algorithm"] == engine]
        if not own:
            continue
        names = ", ".join(dict.fromkeys(f"{one['operator'].removeprefix('opaque.')} ({one['node']})" for one in own))
        share = f"{sum(one['time_s'] or 0.0 for one in own) / total:.0%}"
        if any(one["time_s"] is None for one in own):  # a head or tail that took none of the random inputs
            share = "an unknown part"
        place = "compiled by TVM's ONNX frontend" if engine == FRONTEND else f"in {engine}"
        lines.append(f"{place}, {share} of the time: {names}")
    return lines
