"""CPU targets."""

from __future__ import annotations

import json

import pytest

from joulec.passes.kernels.target import TargetError, cpu_target, last_level_bytes


@pytest.mark.parametrize(
    ("text", "lanes", "registers"),
    [
        ("llvm -mtriple=x86_64-linux-gnu -mcpu=znver4", 16, 32),
        ("llvm -mtriple=x86_64-linux-gnu -mcpu=haswell", 8, 16),
        ("llvm -mtriple=x86_64-linux-gnu -mcpu=nehalem", 4, 16),
        ("llvm -mtriple=x86_64-linux-gnu -mattr=+avx2,+fma", 8, 16),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72", 4, 32),
        ('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "sapphirerapids"}', 16, 32),
    ],
)
def test_vectors_follow_the_features(text, lanes, registers):
    target = cpu_target(text, 3)
    assert (target.lanes, target.registers, target.threads) == (lanes, registers, 3)
    assert json.loads(target.target)["kind"] == "llvm"


def test_one_target_written_in_two_ways_is_one():
    assert cpu_target("llvm -mcpu=haswell", 1) == cpu_target('{"mcpu":"haswell","kind":"llvm"}', 1)


def test_this_machine_is_named_by_its_processor():
    assert cpu_target(None, 1) == cpu_target("llvm", 1)
    assert json.loads(cpu_target(None, 1).target)["mcpu"]
    assert last_level_bytes() >= 1024 * 1024 / 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("llvm -mcpu=znver99", "no mcpu 'znver99'"),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=haswell", "no mcpu 'haswell' for aarch64"),
        ("llvm -mtriple=xx-yy-zz", "no code generator"),
        ("cuda", "kind cuda"),
        ("llvm mcpu=haswell", "-name=value"),
        ("{kind", "not valid JSON"),
        ("llvm -nonsense=3", "does not accept"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused(text, words):
    with pytest.raises(TargetError, match=words):
        cpu_target(text, 1)


def test_threads_are_positive():
    with pytest.raises(TargetError, match="at least one"):
        cpu_target("llvm", 0)
