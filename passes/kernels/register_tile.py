"""The register tile of a matrix product whose sums, weights and one factor all stay in registers."""

from __future__ import annotations

from joulec.passes.kernels.conv_tir import ceil_div, spread
from joulec.passes.kernels.kernel import CpuTarget

_LATENCY = 8
"""Independent sums that hide the latency of a multiply-add."""


def product_tile(positions: int, channels: int, target: CpuTarget) -> tuple[int, int]:
    """(positions, vectors of channels) that compute least in vain and load least per multiply-add.

    Args:
        positions: rows of the product, each a factor that is broadcast.
        channels: columns of the product, along vectors.
        target: whose registers and lanes count.
    """
    scored = []
    for vectors in (1, 2, 3, 4):
        width = vectors * target.lanes
        if width - target.lanes >= channels:
            break
        rows = spread(positions, (target.registers - 1 - vectors) // vectors)
        computed = ceil_div(channels, width) * width * ceil_div(positions, rows) * rows
        held = rows * vectors
        scored.append((computed * max(1.0, _LATENCY / held) * (1 + (vectors + 0.5 * rows) / held), rows, vectors))
    _, rows, vectors = min(scored)
    return rows, vectors
