"""Windows of signal processing, by their definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site

_TERMS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _window(site: Site) -> Exprs | None:
    """A sum of cosines; periodic or symmetric."""
    if site.result is None or site.result.dtype not in ("float32", "float64"):
        return None
    (size,) = site.result.shape
    span = size if site.attribute("periodic", 1) else size - 1
    angles = 2 * math.pi * np.arange(size) / max(span, 1)
    terms: Sequence[float] = _TERMS[site.node.op_type]
    value = sum(factor * np.cos(order * angles) for order, factor in enumerate(terms))
    return [site.const(value, site.result.dtype)]


LOWERINGS: Mapping[str, Lowering] = {
    "HannWindow": _window,
    "HammingWindow": _window,
    "BlackmanWindow": _window,
}
