"""What the tests of the profiler share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from joulec.costdb.cost import CostKey
from joulec.costdb.memory import MemoryStore
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.harness import Harness, Limits
from joulec.profiler.protocol import Adaptive

SUPPORT = Path(__file__).parent / "support"
QUICK = Adaptive(least_s=0.002, warmup_s=0.001, budget_s=0.05)
WORK = Work(flops=1e6, dram_bytes=0.0)


sys.path.append(str(SUPPORT))  # modules that tests here share with processes of their own
sys.path.append(str(Path(__file__).parents[1] / "support"))  # and with tests of other folders

from nvml_device import gpu, nvml_library  # noqa: E402, F401 - fixtures


@pytest.fixture(scope="session")
def fakes():
    """The module of fake workloads, as the worker imports it."""
    import fake_workloads

    return fake_workloads


@pytest.fixture
def make_candidate():
    """Candidates whose builder is a function of ``fake_workloads``."""

    def make(function, payload=None, name="", protocol=QUICK, source="estimated", shapes=""):
        key = CostKey(
            operator="test",
            attributes="",
            epilogue="",
            shapes=shapes,
            layouts="",
            placement="own",
            algorithm=name or function,
            parameters=repr(payload),
            digest="",
            device="test",
            compiler="none",
            energy_source=source,
            protocol=protocol.version,
        )
        return Candidate(key, f"fake_workloads:{function}", payload, WORK, name or function)

    return make


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def make_harness(store, fakes):
    """Harnesses that are closed when the test ends."""
    made = []

    def make(meter_factory=None, **options):
        limits = Limits(build_s=20, run_s=20)
        options = {"protocol": QUICK, "threads": 1, "limits": limits, "paths": [str(SUPPORT)], **options}
        harness = Harness(store, meter_factory or fakes.meter, **options)
        made.append(harness)
        return harness

    yield make
    for harness in made:
        harness.close()
