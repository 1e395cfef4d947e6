"""A kernel that writes outside its buffers is found out, in the worker, by name and place."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.costdb.memory import MemoryStore
from joulec.passes.graph import TensorType
from joulec.passes.kernels.arena import Arena
from joulec.passes.kernels.fence import GUARD_BYTES, RESULT_GUARD_BYTES, Fence
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.harness import Harness
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter
from joulec.profiler.protocol import Adaptive

SUPPORT = Path(__file__).parent / "support"
sys.path.append(str(SUPPORT))

from overrunning import SIZE, compiled  # noqa: E402

QUICK = Adaptive(least_s=0.002, warmup_s=0.001, budget_s=0.05)


def meter():
    return EstimateMeter(EnergyConstants("test", 10.0, 1e-12, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("kernel"))


def _candidate(library, begin=0, end=SIZE, poke=-1):
    payload = (str(library), begin, end, poke)
    text = dict.fromkeys(CostKey.__dataclass_fields__, "")
    key = CostKey(**{**text, "parameters": repr(payload), "energy_source": "estimated", "protocol": QUICK.version})
    return Candidate(key, "overrunning:relu", payload, Work(1.0, 1.0), repr(payload))


def _measured(*candidates):
    """Outcomes in a worker, by place among the candidates; all are rivals in one race."""
    paths = [str(SUPPORT), str(Path(__file__).parent)]
    with Harness(MemoryStore(), meter, protocol=QUICK, threads=1, paths=paths) as harness:
        found = {one.key: one.outcome for one in harness.measure(candidates)}
    return [found[candidate.key] for candidate in candidates]


def test_one_element_at_either_end_is_one_too_many(library):
    forms = [{}, {"end": SIZE + 1}, {"begin": -1}, {"poke": 500}, {"end": SIZE + 700}]
    inside, *outside = _measured(*(_candidate(library, **form) for form in forms))
    assert isinstance(inside, Cost), "who keeps to its buffers is not blamed for the others"
    reasons = [
        f"wrote outside result 0: at byte {4 * SIZE} of {4 * SIZE}",
        f"wrote outside result 0: at byte -1 of {4 * SIZE}",
        "wrote into operand 0, which it may only read",
        f"wrote outside result 0: at byte {4 * SIZE} of {4 * SIZE}",
    ]
    assert outside == [Failure("run", f"OutOfBoundsError: {reason}") for reason in reasons]


TYPES = (TensorType((5,)), TensorType((3, 7)))


def _fence(types=TYPES):
    data = Arena(0)
    operands, results = data.operands(types), data.results(types)
    return operands, results, Fence([[one] for one in operands], [[one] for one in results])


def _poke(array, offset, value=0x11):
    ctypes.memset(array.ctypes.data + offset, value, 1)


@pytest.mark.parametrize("index", [0, 1])
def test_a_single_byte_is_found_wherever_it_lies_in_the_guards(index):
    operands, results, fence = _fence()
    for buffers, guard, what in ((results, RESULT_GUARD_BYTES, "result"), (operands, GUARD_BYTES, "operand")):
        array = buffers[index].array
        for offset in (-1, -guard // 2, array.nbytes, array.nbytes + guard // 3):
            fence.raise_()
            assert fence.breach(thorough=True) == ""
            kept = ctypes.string_at(array.ctypes.data + offset, 1)
            _poke(array, offset)
            assert fence.breach(thorough=False) == f"wrote outside {what} {index}: at byte {offset} of {array.nbytes}"
            _poke(array, offset, kept[0])


def test_results_may_be_written_and_operands_not():
    operands, results, fence = _fence()
    fence.raise_()
    results[0].array[:] = 3.0
    assert fence.breach(thorough=True) == ""
    operands[1].array[2, 6] += 1.0
    assert fence.breach(thorough=False) == ""
    assert fence.breach(thorough=True) == "wrote into operand 1, which it may only read"


def test_other_types_have_guards_of_their_own():
    types = (TensorType((3,), "int64"), TensorType((5,), "bool"))
    operands, _, fence = _fence(types)
    assert [one.array.dtype for one in operands] == [np.int64, np.bool_]
    assert all(one.array.ctypes.data % 64 == 0 for one in operands)
    fence.raise_()
    _poke(operands[1].array, 5)
    assert fence.breach(thorough=False) == "wrote outside operand 1: at byte 5 of 5"
