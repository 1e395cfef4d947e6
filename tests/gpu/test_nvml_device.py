"""The meter and the identity of a real GPU: ``make test-gpu``."""

from __future__ import annotations

import time

import pytest

from joulec.profiler.gpu import gpu_count, local_gpu
from joulec.profiler.meters.nvml import NvmlMeter

pytestmark = pytest.mark.gpu


def test_the_gpu_has_an_identity():
    assert gpu_count() >= 1
    found = local_gpu(0)
    assert found.kind == "cuda"
    assert found.isa.startswith("sm_")
    assert "|" in found.fingerprint


def test_a_window_on_the_gpu_has_a_plausible_power():
    limit_w = local_gpu(0).power_limit_w or 1000.0
    meter = NvmlMeter(0)
    try:
        meter.begin()
        time.sleep(2 * meter.window_s)
        reading = meter.end()
    finally:
        meter.close()
    assert reading.source == "nvml"
    assert reading.seconds == pytest.approx(2 * meter.window_s, rel=0.2)
    assert reading.power_w is not None
    assert 1.0 < reading.power_w < 1.2 * limit_w
