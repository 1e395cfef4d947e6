"""What is known of a GPU beside its identity, on a scripted card."""

from __future__ import annotations

import pytest

from joulec.profiler import gpu as module
from joulec.profiler.candidate import Work
from joulec.profiler.gpu import gpu_roofline, require_cuda_driver
from joulec.profiler.meter import MeterError


def test_the_roofline_is_a_bound_even_where_the_card_tells_little(gpu):
    """The stand-in tells the clock (1410 MHz), and not the cores: more than any card has are taken."""
    gpu.script("like a100")
    bound = gpu_roofline(0)
    assert bound.flops_per_s == pytest.approx(2 * 32768 * 1410e6)
    assert bound.flops_per_s > 19.5e12  # what an A100 does
    assert bound.lower_bound_s(Work(0.0, bound.bytes_per_s)) == pytest.approx(1.0)


def test_without_a_card_that_is_said(gpu):
    gpu.script("count 0")
    with pytest.raises(MeterError, match="GPU 0"):
        gpu_roofline(0)


def test_without_cudas_driver_its_library_is_named(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    with pytest.raises(MeterError, match=r"libcuda\.so\.1.*install the NVIDIA driver"):
        require_cuda_driver()


@pytest.mark.parametrize(("code", "usable"), [(0, True), (100, False)])
def test_the_drivers_own_answer_counts(monkeypatch, code, usable):
    class Driver:
        def cuInit(self, flags):
            return code

    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: Driver())
    if usable:
        require_cuda_driver()
        return
    with pytest.raises(MeterError, match="cuInit answers 100"):
        require_cuda_driver()
