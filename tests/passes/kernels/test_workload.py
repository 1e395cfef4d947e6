"""What the measuring harness calls in its worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from joulec.passes.graph import Activation, Add, Concat, MatMul, Split, Step, TensorType
from joulec.passes.kernels import rotation
from joulec.passes.kernels import workload as module
from joulec.passes.kernels.arena import (
    CONSTANT_SPAN,
    MOST_CONSTANT_COPIES,
    RUNTIME_COPIES,
    Arena,
    constant_copies,
)
from joulec.passes.kernels.registry import KERNELS, kernel_named, kernels_for
from joulec.passes.kernels.target import last_level_bytes
from joulec.passes.kernels.workload import KernelPayload, build

RELU = Step("activation", "relu")


@pytest.fixture
def small_caches(monkeypatch):
    monkeypatch.setattr("joulec.passes.kernels.arena.last_level_bytes", lambda: 1 << 20)


def test_every_schedule_and_tvm_itself_can_be_built_and_run(make, host, small_caches):
    shapes = [(3, 40), (40, 33), (33,)]
    node = make(MatMul(), shapes, constants=[1, 2], epilogue=[Step("bias"), RELU])
    algorithms = [(kernel.name, params) for kernel, params in kernels_for(node.spec, host)]
    for name, params in [*algorithms, ("tvm", ())]:
        payload = pickle.loads(pickle.dumps(KernelPayload(node.spec, name, params, host)))
        built = build(payload)
        built.run(700)
        assert 0 < built.overhead_s() < 1e-3


@pytest.mark.parametrize("name", ["copies", "tvm"])
def test_several_results(name, make, host, small_caches):
    spec = make(Split(1, (2, 5)), [(3, 7)]).spec
    params = () if name == "tvm" else kernels_for(spec, host)[0][1]
    build(KernelPayload(spec, name, params, host)).run(10)


def test_results_are_those_of_the_operator(make, host, small_caches, monkeypatch):
    seen = []
    monkeypatch.setattr(rotation, "_call", lambda function, ring, calls: seen.append((function, next(ring))))
    monkeypatch.setattr(module, "_packed_overhead_s", lambda count: 0.0)
    spec = make(Add(), [(4, 5), (4, 5)], epilogue=[RELU]).spec
    build(KernelPayload(spec, "elementwise", (("parallel", 0),), host, seed=3)).run(1)
    function, (left, right, result) = seen[0]
    function(left, right, result)
    assert np.array_equal(result.numpy(), np.maximum(left.numpy() + right.numpy(), 0))


def test_constants_rotate_further_than_the_last_level_cache_and_the_rest_does_not(make, small_caches):
    spec = make(MatMul(), [(2, 100), (100, 100)], constants=[1]).spec
    types = [operand.type for operand in spec.operands]
    ring = rotation.ring_of(spec, types, spec.results, Arena(0), module._tensor)
    places = [{_address(arguments[index]) for arguments in ring.turns} for index in range(3)]
    assert len(places[1]) * 40000 >= CONSTANT_SPAN * (1 << 20)
    assert len(places[0]) == len(places[2]) == RUNTIME_COPIES
    assert places[0].isdisjoint(places[1])


def _address(tensor):
    return np.from_dlpack(tensor).ctypes.data


def test_small_constants_have_a_limited_number_of_copies():
    assert constant_copies([]) == 1
    assert constant_copies([TensorType((4,))]) == MOST_CONSTANT_COPIES
    assert constant_copies([TensorType((last_level_bytes(),))]) == 1


def test_the_arena_hands_out_aligned_random_numbers_and_grows(small_caches):
    data = Arena(1)
    first = _arrays(data.operands([TensorType((7, 3)), TensorType((5,))]))
    assert all(array.ctypes.data % 64 == 0 for array in first)
    assert not np.shares_memory(*first)
    (large,) = _arrays(data.operands([TensorType((2_000_000,))]))
    assert 0.9 < large.std() < 1.1
    assert (large != 0).all()
    (again,) = _arrays(Arena(1).operands([TensorType((7, 3))]))
    assert np.array_equal(first[0], again)
    results = _arrays(data.results([TensorType((9,)), TensorType((9,))]))
    assert not any(np.shares_memory(result, large) for result in results)
    assert np.array_equal(_arrays(data.operands([TensorType((3,), "int64")])), [[1, 1, 1]])


def _arrays(buffers):
    return [buffer.array for buffer in buffers]


def test_kernels_are_found_by_their_names(make, host):
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)
    assert all(kernel_named(kernel.name, host) is kernel for kernel in KERNELS)
    with pytest.raises(KeyError, match="no kernel is called 'winograd9000'"):
        kernel_named("winograd9000", host)


def test_schedules_of_a_spec_are_distinct(make, host):
    for node in (
        make(Activation("relu"), [(100, 1000)]),
        make(MatMul(), [(64, 512), (512, 512)], constants=[1]),
        make(Concat(1), [(1, 64, 56, 56)] * 2),
    ):
        found = [(kernel.name, params) for kernel, params in kernels_for(node.spec, host)]
        assert found
        assert len(set(found)) == len(found) <= 12
