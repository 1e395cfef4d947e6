"""What kernels need to know of a CPU target, from TVM's target text."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from joulec.passes.kernels.kernel import CpuTarget

_VECTORS = (("avx512f", 16, 32), ("avx2", 8, 16), ("avx", 8, 16), ("neon", 4, 32), ("sse2", 4, 16))
"""Feature, float32 lanes, registers; the first that a target has decides."""
_SCALAR = (4, 16)
"""Where no vector unit is known: short vectors, which LLVM takes apart."""
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
DEFAULT_LAST_LEVEL_BYTES = 32 * 1024**2


class TargetError(ValueError):
    """A target that TVM does not know or that is no CPU."""


def cpu_target(target: str | None, threads: int) -> CpuTarget:
    """What kernels must know of a target.

    Args:
        target: ``llvm`` or None for this machine; else TVM's target as JSON (``{"kind": "llvm", "mcpu": "haswell"}``)
            or in words (``llvm -mcpu=haswell -mtriple=x86_64-linux-gnu -mattr=+avx2,+fma``).
        threads: worker threads at run time.

    Raises:
        TargetError: the text cannot be read, the target is no CPU, or LLVM does not know its mcpu.
    """
    if threads < 1:
        raise TargetError(f"{threads} threads: at least one is needed")
    text = target or "llvm"
    options = target_options(text)
    if options.get("kind") != "llvm":
        raise TargetError(f"the target {text!r} is of kind {options.get('kind')}; kernels here are for CPUs: llvm")
    host = set(options) == {"kind"}
    canonical = _validated(json.dumps(_host() if host else options, sort_keys=True))
    widths = ((lanes, registers) for feature, lanes, registers in _VECTORS if _has(canonical, feature))
    lanes, registers = next(widths, _SCALAR)
    if not host:
        return CpuTarget(canonical, lanes, registers, threads)
    first, second = cache_bytes(1), cache_bytes(2)
    defaults = CpuTarget(canonical, lanes, registers, threads)
    return CpuTarget(canonical, lanes, registers, threads, first or defaults.l1_bytes, second or defaults.l2_bytes)


def cache_bytes(level: int) -> int | None:
    """Size of this machine's data cache of a level, as one core sees it; None where the system does not tell."""
    for index in sorted(_CACHES.glob("index*")):
        try:
            described = {name: (index / name).read_text().strip() for name in ("level", "type", "size")}
        except OSError:
            continue
        if described["level"] == str(level) and described["type"] != "Instruction":
            size = described["size"]
            return int(size[:-1]) * _UNITS[size[-1]] if size[-1:] in _UNITS else int(size)
    return None


def last_level_bytes() -> int:
    """Size of this machine's last-level cache (as far as one core reaches), 32 MiB where the system does not tell."""
    return next((size for size in map(cache_bytes, (4, 3, 2)) if size), DEFAULT_LAST_LEVEL_BYTES)


def target_options(text: str) -> dict[str, Any]:
    """A target's text, JSON or words, as TVM's options.

    Raises:
        TargetError: it is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            options: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise TargetError(f"the target {text!r} is not valid JSON: {error}") from error
    else:
        kind, *words = text.split()
        options = {"kind": kind}
        for word in words:
            name, equals, value = word.lstrip("-").partition("=")
            if not equals or not word.startswith("-"):
                raise TargetError(f"the target {text!r}: {word!r} is not of the form -name=value")
            options[name] = value.split(",") if name == "mattr" else value
    return options


@cache
def _host() -> dict[str, str]:
    from tvm.target import codegen

    return {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}


@cache
def _validated(canonical: str) -> str:
    """The text, once TVM and LLVM know it."""
    from tvm.target import Target, codegen

    try:
        parsed = Target(json.loads(canonical))
    except (ValueError, TypeError) as error:
        raise TargetError(f"TVM does not accept the target {canonical}: {error}") from error
    cpu = parsed.attrs.get("mcpu")
    triple = parsed.attrs.get("mtriple") or codegen.llvm_get_system_triple()
    if not _knows_cpu("generic", str(triple)):
        raise TargetError(f"LLVM has no code generator for the mtriple {str(triple)!r}")
    if cpu and not _knows_cpu(str(cpu), str(triple)):
        known = sorted(map(str, codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))))
        near = get_close_matches(str(cpu), known, n=5, cutoff=0.3) or known[:5]
        raise TargetError(
            f"LLVM knows no mcpu {str(cpu)!r} for {triple}; among the {len(known)} that it knows are {', '.join(near)}"
        )
    return canonical


def _knows_cpu(cpu: str, triple: str) -> bool:
    """Whether LLVM has the CPU; TVM 0.19 has a list only."""
    from tvm.target import Target, codegen

    if hasattr(codegen, "llvm_is_valid_cpu"):
        return bool(codegen.llvm_is_valid_cpu(cpu, triple))
    listed = codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))
    return cpu in set(map(str, listed))


@cache
def _has(canonical: str, feature: str) -> bool:
    from tvm.target import Target, codegen

    return bool(codegen.llvm_cpu_has_features(feature, Target(json.loads(canonical))))


def has_feature(target: CpuTarget, feature: str) -> bool:
    """Whether the target's CPU has a feature that LLVM knows by that name."""
    return _has(target.target, feature)
