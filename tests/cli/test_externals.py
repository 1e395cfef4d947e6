"""What runs outside of a compiled model is said."""

from __future__ import annotations

import joulec.passes.onnx.engines as engines
from joulec.externals import outside, warn_externals
from joulec.runtime.manifest import Assigned


class Heard:
    """Keeps warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


ROWS = (
    Assigned("conv", "conv2d", "direct_conv(columns=7)", 3e-3, 0.1),
    Assigned("align", "opaque.RoiAlign", "onnxruntime", 1e-3, 0.1),
)


def test_the_table_names_operators_and_their_share():
    rows = [{"node": r.node, "operator": r.operator, "algorithm": r.algorithm, "time_s": r.time_s} for r in ROWS]
    assert outside(rows) == ["in onnxruntime, 25% of the time: RoiAlign (align)"]
    assert outside(rows[:1]) == []
    assert outside([rows[0], {**rows[1], "time_s": None}]) == [
        "in onnxruntime, an unknown part of the time: RoiAlign (align)"
    ]


def test_a_missing_engine_is_named_with_its_extra(monkeypatch):
    heard = Heard()
    slow = (ROWS[0], Assigned("align", "opaque.RoiAlign", "onnx.reference"))
    monkeypatch.setattr(engines, "has_onnxruntime", lambda: False)
    warn_externals(slow, heard)
    (warning,) = heard.warnings
    assert warning.startswith("RoiAlign: ")
    assert "joulec[onnxruntime]" in warning
    monkeypatch.setattr(engines, "has_onnxruntime", lambda: True)
    warn_externals(slow, heard)
    assert len(heard.warnings) == 1
