"""CPU facts from fake trees, identity, rooflines."""

from __future__ import annotations

import os

import pytest

from joulec.profiler.candidate import Work
from joulec.profiler.cpu import CpuFacts, cpu_facts, default_threads
from joulec.profiler.device import devices, local_cpu
from joulec.profiler.roofline import cpu_roofline

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654
stepping\t: 1
microcode\t: 0xa101148
flags\t\t: fpu sse2 fma avx2 avx512f avx512dq avx512bw avx512vl

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""


def _tree(root, cpuinfo, files=()):
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for name, text in dict(files).items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


CPU = "devices/system/cpu/cpu"
FILES = {
    f"{CPU}0/cpufreq/scaling_governor": "performance",
    f"{CPU}0/cpufreq/scaling_driver": "amd-pstate-epp",
    f"{CPU}0/cpufreq/cpuinfo_max_freq": "3700000",
    f"{CPU}1/cpufreq/scaling_driver": "amd-pstate-epp",
    f"{CPU}1/cpufreq/cpuinfo_max_freq": "3900000",
    f"{CPU}0/cache/index0/level": "1",
    f"{CPU}0/cache/index0/type": "Data",
    f"{CPU}0/cache/index0/size": "32K",
    f"{CPU}0/cache/index1/level": "1",
    f"{CPU}0/cache/index1/type": "Instruction",
    f"{CPU}0/cache/index1/size": "64K",
    f"{CPU}0/cache/index2/level": "2",
    f"{CPU}0/cache/index2/type": "Unified",
    f"{CPU}0/cache/index2/size": "1024K",
    f"{CPU}0/cache/index3/level": "3",
    f"{CPU}0/cache/index3/type": "Unified",
    f"{CPU}0/cache/index3/size": "32M",
    "class/powercap/intel-rapl:0/constraint_0_power_limit_uw": "360000000",
}


def test_a_server_tells_everything(tmp_path):
    facts = cpu_facts(_tree(tmp_path, AMD, FILES), "x86_64")
    assert facts == CpuFacts(
        model="AMD EPYC 9654 (25/17/1)",
        microcode="0xa101148",
        isa="x86-64-avx512",
        lanes=16,
        registers=32,
        pipe_lanes=8,
        governor="performance",
        max_hz=3.9e9,
        power_limit_w=360.0,
        l1_bytes=32 << 10,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
    )
    assert (
        local_cpu(4, facts).fingerprint
        == "cpu|AMD EPYC 9654 (25/17/1)|0xa101148|performance max 3900 MHz|360W|4t|x86-64-avx512"
    )


def test_a_bare_container_tells_little_and_nothing_fails(tmp_path):
    facts = cpu_facts(tmp_path, "x86_64")
    assert (facts.isa, facts.max_hz, facts.power_limit_w, facts.microcode) == ("x86-64", None, None, "")
    assert local_cpu(1, facts).fingerprint.endswith("||||1t|x86-64")


def test_arm_is_recognised(tmp_path):
    facts = cpu_facts(_tree(tmp_path, ARM), "aarch64")
    assert (facts.isa, facts.lanes, facts.registers) == ("aarch64", 4, 32)
    assert facts.model == "0x41 (8/0x3/0xd0c/1)"


@pytest.mark.parametrize(
    ("flags", "isa", "lanes"),
    [
        ("sse2 avx", "x86-64", 4),
        ("avx2", "x86-64", 4),
        ("avx2 fma", "x86-64-avx2", 8),
        ("avx2 fma avx512f", "x86-64-avx2", 8),
        ("avx2 fma avx512f avx512vl avx512dq avx512bw", "x86-64-avx512", 16),
    ],
)
def test_the_instruction_set_is_the_widest_that_is_complete(tmp_path, flags, isa, lanes):
    facts = cpu_facts(_tree(tmp_path, f"vendor_id : GenuineIntel\nflags : {flags}\n"), "x86_64")
    assert (facts.isa, facts.lanes, facts.pipe_lanes) == (isa, lanes, lanes)


def test_a_limit_without_boost_is_not_believed(tmp_path):
    files = {**FILES, f"{CPU}0/cpufreq/scaling_driver": "acpi-cpufreq", f"{CPU}1/cpufreq/scaling_driver": ""}
    assert cpu_facts(_tree(tmp_path, AMD, files), "x86_64").max_hz is None


def test_what_changes_the_cost_changes_the_fingerprint(tmp_path):
    prints = {local_cpu(2, cpu_facts(_tree(tmp_path / "a", AMD, FILES), "x86_64")).fingerprint}
    prints.add(local_cpu(1, cpu_facts(tmp_path / "a", "x86_64")).fingerprint)
    changes = ({f"{CPU}0/cpufreq/scaling_governor": "powersave"}, {f"{CPU}1/cpufreq/cpuinfo_max_freq": "3700000"})
    for number, change in enumerate(changes):
        prints.add(local_cpu(2, cpu_facts(_tree(tmp_path / f"c{number}", AMD, FILES | change), "x86_64")).fingerprint)
    other = AMD.replace("0xa101148", "0xa101149")
    prints.add(local_cpu(2, cpu_facts(_tree(tmp_path / "m", other, FILES), "x86_64")).fingerprint)
    assert len(prints) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_the_default_number_of_threads_follows_the_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads() == 1
        assert local_cpu().threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert default_threads() == len(allowed)


def test_the_roofline_is_the_lower_of_two_bounds():
    facts = CpuFacts("test", "", "x86-64-avx512", 16, 32, 16, max_hz=4e9)
    roofline = cpu_roofline(facts, threads=2)
    assert roofline.flops_per_s == 2 * 4e9 * 2 * 16 * 2
    assert roofline.bytes_per_s == 2 * 4e9 * 64
    assert roofline.lower_bound_s(Work(flops=512e9, dram_bytes=1)) == pytest.approx(1.0)
    assert roofline.lower_bound_s(Work(flops=1, dram_bytes=512e9)) == pytest.approx(1.0)


def test_the_bound_holds_on_this_machine():
    """A large matrix product, the densest work there is, stays below the bound for all of this machine's cores."""
    import time

    import numpy as np

    size = 512
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    a @ a
    best_s = float("inf")
    for _ in range(5):
        start_s = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - start_s)
    bound_s = cpu_roofline(cpu_facts(), os.cpu_count() or 1).lower_bound_s(Work(2 * size**3, 3 * 4 * size**2))
    assert bound_s < best_s


def test_devices_begins_with_the_cpu():
    cpu = devices()[0]
    assert (cpu.id, cpu.kind) == ("cpu", "cpu")
    assert cpu.fingerprint == local_cpu().fingerprint
    assert cpu.meters[-1] == "estimate"
    assert ("rapl" in cpu.meters) == (cpu.note == "")
