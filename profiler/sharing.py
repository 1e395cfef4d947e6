"""Measuring beside others who share the cost database: who measures what, and whose turn it is on the device."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from joulec.costdb.cost import CostKey
from joulec.costdb.store import CostStore

POLL_S = 0.02
"""How long to wait before a lock that was taken is tried again."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def rivals(key: CostKey) -> str:
    """Equal for candidates that do the same on the same device by different algorithms; told apart by nothing else."""
    return replace(key, algorithm="", parameters="", digest="", layouts="").id


@contextmanager
def claim(store: CostStore, group: str) -> Iterator[bool]:
    """Claim a group of `rivals` for measuring, until the block ends or the process dies; False where another has it."""
    name = f"claim {group}"
    mine = store.try_lock(name)
    try:
        yield mine
    finally:
        if mine:
            store.unlock(name)


@contextmanager
def turn(
    store: CostStore, fingerprint: str, still: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
) -> Iterator[bool]:
    """Wait for a device, and have it for oneself until the block ends or the process dies.

    There are two locks: who waits holds the first one, so that whoever has just had the device cannot take it again
    before the one who waits. Building is under the lock too, for on a CPU it would disturb another's timing.

    Args:
        store: shared by all who take turns.
        fingerprint: names the device (``CostKey.device``).
        still: asked while waiting; False ends it.
        sleep: waits for some seconds.

    Yields:
        Whether the device is ours; False where the waiting was ended.
    """
    device = f"{fingerprint.partition('|')[0]} of {machine()}"
    held: list[str] = []
    try:
        for name in (f"next on {device}", f"device {device}"):
            while not store.try_lock(name):
                if not still():
                    yield False
                    return
                sleep(POLL_S)
            held.append(name)
        store.unlock(held.pop(0))
        yield True
    finally:
        for name in held:
            store.unlock(name)


@cache
def machine() -> str:
    """What tells this machine from others: containers on one machine have the same, and share its processors."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return platform.node()
