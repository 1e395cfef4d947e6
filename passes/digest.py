"""Digests of what decides what an algorithm lowers to."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from importlib import import_module, metadata
from types import ModuleType


@cache
def external_engine() -> str:
    """What computes external calls: ONNX Runtime, or ONNX's reference evaluator where that is not installed."""
    for engine in ("onnxruntime", "onnx"):
        try:
            return f"{engine}-{metadata.version(engine)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"


@cache
def source_digest(*modules: str) -> str:
    """Digest of the source that decides what an algorithm lowers to, so that an edit makes its rows stale.

    It covers the modules and every module of kernels and of the back ends that they use.
    """
    pending, seen = [*modules], set[str]()
    digest = hashlib.sha256()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending.extend(sorted(_used_modules(import_module(name))))
    for name in sorted(seen):
        digest.update(inspect.getsource(import_module(name)).encode())
    return digest.hexdigest()[:16]


def _used_modules(module: ModuleType) -> set[str]:
    owners = (
        value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        for value in vars(module).values()
    )
    parts = tuple(f"joulec.passes.{part}." for part in ("kernels", "layouts", "relax", "relay"))
    return {owner for owner in owners if isinstance(owner, str) and owner.startswith(parts)} - {module.__name__}
