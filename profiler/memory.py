"""How much memory a measuring worker may take before the machine suffers."""

from __future__ import annotations

from pathlib import Path

MAPPED_BYTES = 4 << 30
"""Address space that a compiler, its libraries and thread stacks map without ever touching most of it."""


def worker_memory_bytes(root: Path = Path("/")) -> int | None:
    """A limit on a worker's address space: what is available now, and what it maps anyway; None where unknown.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    available = _meminfo(root / "proc/meminfo")
    group = root / "sys/fs/cgroup"
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        available = limit - used if available is None else min(available, limit - used)
    return None if available is None else max(available, 0) + MAPPED_BYTES


def _meminfo(file: Path) -> int | None:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
