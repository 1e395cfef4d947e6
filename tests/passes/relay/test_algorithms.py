"""What single operators lower to, and what the user's own tuning adds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import autotvm

from joulec.passes.graph import Conv2d, LocalResponseNorm, MatMul, NodeSpec, OperandSpec, Split, Step, TensorType
from joulec.passes.kernels.target import cpu_target
from joulec.passes.module_errors import TuningRecordsError
from joulec.passes.relay.algorithm import BATCHED, CONV_BLOCKED, DEFAULT, RelayAlgorithm, algorithms_of
from joulec.passes.relay.lower import compiled
from joulec.passes.relay.tuned import tuning_records
from joulec.profiler.roofline import Roofline

TARGET = cpu_target("llvm", 1)
ROOFLINE = Roofline(1e12, 1e12)
RNG = np.random.default_rng(3)


def spec_of(op, *shapes, constant=1):
    types = [TensorType(shape) for shape in shapes]
    operands = tuple(OperandSpec(type, index >= constant) for index, type in enumerate(types))
    return NodeSpec(op, operands, (), op.infer(types))


def drawn(*shape):
    return RNG.standard_normal(shape).astype("float32")


def computed(spec, way: RelayAlgorithm, data, *weights):
    result = tvm.nd.empty(way.result_shape(spec, 0))
    packed = [way.pack(spec, index + 1, weight) for index, weight in enumerate(weights)]
    shape = spec.operands[0].type.shape
    if way.reads:
        data = data.reshape(shape[0], -1, way.reads, *shape[2:]).transpose(0, 1, 3, 4, 2)
    compiled(spec, way)(*(tvm.nd.array(np.ascontiguousarray(array)) for array in (data, *packed)), result)
    found = result.numpy()
    return found.transpose(0, 1, 4, 2, 3).reshape(spec.results[0].shape) if way.writes else found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (1, 5, 4)])
def test_local_response_normalisation_over_any_number_of_channels(size, shape):
    spec = spec_of(LocalResponseNorm(size, 0.3, 0.75, 1.5), shape)
    (way,) = algorithms_of(spec, TARGET, ROOFLINE)
    data = drawn(*shape)
    np.testing.assert_allclose(computed(spec, way, data), spec.op.evaluate(data)[0], rtol=1e-5, atol=1e-6)


def test_a_split_with_an_empty_part():
    spec = spec_of(Split(1, (2, 0, 1)), (2, 3))
    (*_, way) = algorithms_of(spec, TARGET, ROOFLINE)
    data = drawn(2, 3)
    results = [tvm.nd.empty(type.shape) for type in spec.results]
    compiled(spec, way)(tvm.nd.array(data), *results)
    for found, wanted in zip(results, np.split(data, [2, 2], axis=1), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)


def record(workload, entity):
    """A line of a log as AutoTVM writes it."""
    return json.dumps(
        {
            "input": [
                "llvm -keys=cpu",
                workload[0],
                [list(part) if isinstance(part, tuple) else part for part in workload[1:]],
                {},
            ],
            "config": {"index": 1, "code_hash": None, "entity": entity},
            "result": [[1e-4], 0, 0.1, 1.0],
            "version": 0.2,
            "tvm_version": tvm.__version__,
        }
    )


CONV = spec_of(Conv2d(padding=(1, 1, 1, 1)), (1, 16, 12, 12), (32, 16, 3, 3))
CONV_LINE = record(
    (
        CONV_BLOCKED,
        ("TENSOR", (1, 16, 12, 12), "float32"),
        ("TENSOR", (32, 16, 3, 3), "float32"),
        (1, 1),
        (1, 1, 1, 1),
        (1, 1),
        "NCHW",
        "NCHW",
        "float32",
    ),
    [["tile_ic", "sp", [-1, 8]], ["tile_oc", "sp", [-1, 4]], ["tile_ow", "sp", [-1, 3]], ["unroll_kw", "ot", True]],
)
DENSE = spec_of(MatMul(transpose_b=True), (4, 24), (10, 24))
DENSE_LINE = record(
    (
        "dense_pack.x86",
        ("TENSOR", (4, 24), "float32"),
        ("TENSOR", (10, 24), "float32"),
        None,
        "float32",
    ),
    [
        ["tile_y", "sp", [-1, 1, 2]],
        ["tile_x", "sp", [-1, 1, 5]],
        ["tile_k", "sp", [-1, 4]],
        ["tile_inner", "sp", [-1, 1]],
    ],
)
BATCHED_PRODUCT = spec_of(MatMul(), (2, 3, 8, 16), (2, 3, 16, 24), constant=2)
BATCHED_LINE = record(
    (
        BATCHED,
        ("TENSOR", (6, 8, 16), "float32"),
        ("TENSOR", (6, 16, 24), "float32"),
        (6, 8, 24),
        "float32",
        0,
        0,
    ),
    [["tile_y", "sp", [-1, 4]], ["tile_x", "sp", [-1, 12]], ["tile_k", "sp", [-1, 8]]],
)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "tuned.log"
    path.write_text(f"{CONV_LINE}\n{DENSE_LINE}\n{BATCHED_LINE}\n")
    return path


def test_records_of_a_log_come_first(log):
    records = tuning_records(log, TARGET.target)
    first, *others = algorithms_of(CONV, TARGET, ROOFLINE, records.ways(CONV))
    assert (first.implementation, first.reads, first.writes) == (CONV_BLOCKED, 8, 4)
    assert "tile_ow=-1x3" in first.name
    assert all(other.reads in (0, TARGET.lanes) for other in others)
    data, kernel = drawn(1, 16, 12, 12), drawn(32, 16, 3, 3)
    wanted = CONV.op.evaluate(data, kernel)[0]
    np.testing.assert_allclose(computed(CONV, first, data, kernel), wanted, rtol=1e-3, atol=1e-3)


def test_records_of_matrix_products(log):
    records = tuning_records(log, TARGET.target)
    first, *others = algorithms_of(DENSE, TARGET, ROOFLINE, records.ways(DENSE))
    assert first.implementation == "dense_pack.x86"
    assert dict(first.config)["tile_x"] == (-1, 1, 5)
    assert len(others) == 2
    data, other = drawn(4, 24), drawn(10, 24)
    np.testing.assert_allclose(computed(DENSE, first, data, other), data @ other.T, rtol=1e-4, atol=1e-5)


def test_records_of_batched_matrix_products(log):
    records = tuning_records(log, TARGET.target)
    first, *others = algorithms_of(BATCHED_PRODUCT, TARGET, ROOFLINE, records.ways(BATCHED_PRODUCT))
    assert (first.implementation, dict(first.config)["tile_x"]) == (BATCHED, (-1, 12))
    assert [other.implementation for other in others] == [DEFAULT]
    left, right = drawn(2, 3, 8, 16), drawn(2, 3, 16, 24)
    np.testing.assert_allclose(product(BATCHED_PRODUCT, first, left, right), left @ right, rtol=1e-4, atol=1e-5)


def product(spec, way, *arrays):
    """A matrix product with its epilogue, on operands in their own shapes."""
    result = tvm.nd.empty(way.result_shape(spec, 0))
    read = [tvm.nd.array(array.reshape(way.operand_shape(spec, index))) for index, array in enumerate(arrays)]
    compiled(spec, way)(*read, result)
    return result.numpy().reshape(spec.results[0].shape)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 8, 16), (2, 3, 16, 24)),
        ((2, 1, 8, 16), (3, 16, 24)),
        ((8, 16), (2, 3, 16, 24)),
        ((1, 8, 16), (6, 16, 24)),
        ((2, 8, 16), (16, 24)),
        ((2, 3, 8, 16), (16, 24)),
        ((8, 16), (16, 24)),
    ],
)
@pytest.mark.parametrize("transpose_b", [False, True])
def test_matrix_products_of_any_rank(left, right, transpose_b):
    data, other = drawn(*left), drawn(*right)
    plain = data @ other
    bias, added = drawn(plain.shape[1 if plain.ndim == 4 else -1]), drawn(*plain.shape)
    wanted = np.maximum(plain + (bias[:, None, None] if plain.ndim == 4 else bias) + added, 0)
    given = [data, np.ascontiguousarray(other.swapaxes(-1, -2)) if transpose_b else other, bias, added]
    types = [TensorType(array.shape) for array in given]
    op = MatMul(transpose_b=transpose_b)
    steps = (Step("bias"), Step("add"), Step("activation", "relu"))
    spec = NodeSpec(op, tuple(OperandSpec(type, False) for type in types), steps, op.infer(types[:2]))
    for way in algorithms_of(spec, TARGET, ROOFLINE):
        np.testing.assert_allclose(product(spec, way, *given), wanted, rtol=1e-4, atol=1e-5)


def test_records_that_are_active_around_the_pass(log):
    assert tuning_records(None, TARGET.target) is None
    with autotvm.apply_history_best(str(log)):
        assert len(list(tuning_records(None, TARGET.target).ways(CONV))) == 1
    other = spec_of(Conv2d(), (1, 16, 12, 12), (32, 16, 1, 1))
    assert list(tuning_records(log, TARGET.target).ways(other)) == []


@pytest.mark.parametrize("text", ["not a log\n", '{"input": 3}\n'])
def test_a_log_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "broken.log"
    with pytest.raises(TuningRecordsError, match="cannot read"):
        tuning_records(path, TARGET.target)
    path.write_text(text)
    with pytest.raises(TuningRecordsError, match=r"broken\.log"):
        tuning_records(path, TARGET.target)
