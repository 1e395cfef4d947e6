"""CUDA targets."""

from __future__ import annotations

import json

import pytest

from joulec.passes.kernels.cuda import target as module
from joulec.passes.kernels.cuda.target import cuda_target, is_cuda
from joulec.passes.kernels.target import TargetError
from joulec.profiler.nvcc import NvccError


@pytest.fixture(autouse=True)
def archs(monkeypatch):
    monkeypatch.setattr(module, "known_archs", lambda: ("sm_80", "sm_90"))


@pytest.mark.parametrize(
    ("text", "here", "arch"),
    [
        ("cuda", "sm_80", "sm_80"),
        ("cuda -arch=sm_90", None, "sm_90"),
        ('{"kind": "cuda", "arch": "sm_80"}', "sm_80", "sm_80"),
    ],
)
def test_the_architecture_is_the_one_named_or_the_gpus(text, here, arch):
    found = cuda_target(text, here)
    described = json.loads(found.target)
    assert found.arch == described["arch"] == arch
    assert described["host"] == {"kind": "llvm"}


def test_one_target_written_in_two_ways_is_one():
    assert cuda_target("cuda -arch=sm_80") == cuda_target('{"arch": "sm_80", "kind": "cuda"}', "sm_80")


@pytest.mark.parametrize(
    ("text", "here", "words"),
    [
        ("cuda", None, "names no architecture"),
        ("cuda -arch=sm_80", "sm_90", "this GPU, sm_90"),
        ("cuda -arch=sm_12", None, "does not know the architecture 'sm_12'; it knows sm_80, sm_90"),
        ("llvm", None, "no CUDA target"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused(text, here, words):
    with pytest.raises(TargetError, match=words):
        cuda_target(text, here)


def test_a_missing_compiler_is_named(monkeypatch):
    def missing():
        raise NvccError("nvcc is not on the path: install it")

    monkeypatch.setattr(module, "known_archs", missing)
    with pytest.raises(TargetError, match="install it"):
        cuda_target("cuda -arch=sm_80")


def test_kinds_are_told_apart():
    assert is_cuda("cuda -arch=sm_80")
    assert not is_cuda("llvm -mcpu=haswell")
    assert not is_cuda(None)
