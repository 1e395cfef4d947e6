"""ONNX operators that the graph does not model, in Relax: how they run natively all the same.

One file per family. Each lowering follows ONNX's own text; what it does not cover it returns as None, and the operator
runs in an external engine.
"""

from __future__ import annotations

from joulec.passes.relax.lowering.definitions import LOWERINGS, empty, leaves_open, lower, lowers

__all__ = ["LOWERINGS", "empty", "leaves_open", "lower", "lowers"]
