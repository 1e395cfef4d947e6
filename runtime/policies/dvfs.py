"""The paper's rival (Section 5.1): one batch size, pseudo-binary search over the clocks."""

from __future__ import annotations

from joulec.runtime.policies.protocol import Configuration, Space
from joulec.runtime.policies.windowed import WindowedPolicy

PAPER_BATCH = 16


def dvfs_policy(space: Space, *, cap_margin: float = 0.8) -> WindowedPolicy:
    """`WindowedPolicy` over the clocks at batch size 16, or the nearest there is.

    Where clocks cannot be set there is one level, and nothing to choose.
    """
    batch = min(space.batches, key=lambda size: (abs(size - PAPER_BATCH), size))
    levels = [Configuration(batch, space.variants[0], clock_hz) for clock_hz in space.clocks_hz]
    return WindowedPolicy(levels, cap_margin=cap_margin, name="dvfs")
