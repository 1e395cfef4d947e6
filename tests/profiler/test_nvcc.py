"""NVIDIA's compiler."""

from __future__ import annotations

import pytest

from joulec.profiler import nvcc as module
from joulec.profiler.nvcc import NvccError, compile_cubin, find_nvcc, known_archs, nvcc_version

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'


@pytest.fixture
def nvcc():
    try:
        return find_nvcc()
    except NvccError as error:
        pytest.skip(str(error))


def test_source_becomes_an_elf_file_with_the_kernel(nvcc):
    cubin = compile_cubin(KERNEL, "sm_80")
    assert cubin[:4] == b"\x7fELF"
    assert b"twice" in cubin


def test_it_says_what_it_is_and_knows(nvcc):
    assert nvcc_version().startswith("nvcc-1")
    assert "sm_80" in known_archs()


def test_what_it_refuses_is_told_in_a_line(nvcc):
    with pytest.raises(NvccError, match="undefined") as caught:
        compile_cubin("__global__ void f() { nowhere(); }", "sm_80")
    assert "\n" not in str(caught.value)


def test_without_it_the_toolkit_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_FALLBACK", tmp_path / "nvcc")
    with pytest.raises(NvccError, match="install NVIDIA's CUDA toolkit"):
        find_nvcc()


def test_what_does_not_run_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "nvcc"
    broken.write_text("no program")
    broken.chmod(0o755)
    monkeypatch.setattr(module, "find_nvcc", lambda: broken)
    with pytest.raises(NvccError, match="does not run"):
        compile_cubin(KERNEL, "sm_80")
