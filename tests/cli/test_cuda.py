"""Commands for a GPU target: what is told where something lacks, and a search by estimates on a scripted GPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from joulec.profiler.nvcc import NvccError, find_nvcc

sys.path.append(str(Path(__file__).parents[1] / "support"))

from nvml_device import Device, build_library


def _has(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A card that NVML shows, and that is not there."""
    if _has("libcuda.so.1"):
        pytest.skip("CUDA's driver is installed here")
    device = Device(tmp_path, build_library(tmp_path), virtual=False)
    device.script("like a100")
    for name, value in device.environment.items():
        monkeypatch.setenv(name, value)
    return device


@pytest.fixture
def nvcc():
    try:
        return find_nvcc()
    except NvccError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(_has("libnvidia-ml.so.1"), reason="NVIDIA's driver is installed here")
def test_without_a_gpu_it_is_named(joulec, model):
    done = joulec("compile", model, "-o", "out.joulec", "--target", "cuda")
    assert done.returncode == 2
    assert "the target cuda needs an NVIDIA GPU in this machine" in done.stderr
    assert "install the NVIDIA driver" in done.stderr


def test_a_search_by_estimates_chooses_among_the_gpus_algorithms(joulec, gpu, nvcc, model):
    options = ("--target", "cuda", "--costs", "model", "--meter", "estimate", "--budget", "2")
    found = joulec.json("optimize", model, *options)
    families = {one["algorithm"].partition("(")[0] for one in found["entries"]["1"]["assignment"]}
    assert families <= {"winograd", "im2col", "matmul", "gemv", "reduction", "transpose", "fallback", "tvm", "view"}
    assert families - {"tvm", "view"}


def test_without_cudas_own_driver_nothing_is_measured(joulec, gpu, nvcc, model):
    done = joulec("compile", model, "-o", "out.joulec", "--target", "cuda", "--meter", "estimate")
    assert done.returncode == 2
    assert "CUDA cannot start" in done.stderr
    assert "libcuda.so.1" in done.stderr


def test_what_was_compiled_for_a_gpu_needs_one(joulec, gpu, nvcc, model):
    options = ("--target", "cuda", "--costs", "model", "--meter", "estimate", "--budget", "2", "--no-measure")
    done = joulec("compile", model, "-o", "out.joulec", *options)
    assert done.returncode == 2
    assert "compiled for a GPU (sm_80), and TVM finds none here" in done.stderr
    assert not (joulec.folder / "out.joulec").exists()


def test_another_architecture_than_the_gpus_is_refused(joulec, gpu, nvcc, model):
    done = joulec("compile", model, "-o", "out.joulec", "--target", "cuda -arch=sm_90", "--costs", "model")
    assert done.returncode == 2
    assert "costs are measured on this GPU, sm_80: write cuda" in done.stderr
