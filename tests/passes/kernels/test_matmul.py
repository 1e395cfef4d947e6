"""Matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.graph import MatMul, Step
from joulec.passes.kernels.batch_matmul import Matmul
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.matmul import PackedMatmul, Product, tiles

RELU = Step("activation", "relu")


@pytest.mark.parametrize(
    ("transpose", "rows", "depth", "columns"),
    [(True, 1, 37, 10), (False, 1, 129, 200), (True, 7, 20, 50), (False, 31, 33, 65)],
)
def test_constant_right_operand(transpose, rows, depth, columns, make, check):
    right = (columns, depth) if transpose else (depth, columns)
    shapes = [(rows, depth), right, (columns,), (rows, columns)]
    steps = [Step("bias"), Step("add"), RELU]
    assert check(PackedMatmul(), make(MatMul(transpose), shapes, constants=[1, 2], epilogue=steps))


def test_leading_dimensions_of_the_left_operand(make, check):
    assert check(PackedMatmul(), make(MatMul(), [(3, 5, 7, 24), (24, 40)], constants=[1]))


def test_bias_of_a_four_dimensional_product_follows_axis_one(make, check):
    shapes = [(2, 3, 5, 8), (8, 20), (3,)]
    assert check(PackedMatmul(), make(MatMul(), shapes, constants=[1, 2], epilogue=[Step("bias")]))
    shapes = [(2, 3, 5, 8), (2, 3, 8, 20), (3,)]
    assert check(Matmul(), make(MatMul(), shapes, constants=[2], epilogue=[Step("bias")]))


def test_blocks_of_the_depth(make, check, host):
    small = CpuTarget(host.target, host.lanes, host.registers, 2, l1_bytes=4096, l2_bytes=65536)
    node = make(MatMul(), [(17, 700), (700, 40), (40,)], constants=[1, 2], epilogue=[Step("bias"), RELU])
    depths = {dict(params)["depth"] for params in PackedMatmul().schedules(node.spec, small)}
    assert max(depths) == 700
    assert min(depths) < 700
    assert check(PackedMatmul(), node, target=small)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("left", "lead"), [((9, 21), ()), ((3, 9, 21), (3,)), ((9, 21), (2, 3)), ((2, 1, 9, 21), (3,)), ((2, 3, 1, 21), ())]
)
def test_two_run_time_operands(transpose, left, lead, make, check):
    right = (*lead, 35, 21) if transpose else (*lead, 21, 35)
    assert check(Matmul(), make(MatMul(transpose), [left, right], epilogue=[RELU]))


def test_a_batch_of_constant_matrices_is_not_packed(make, check, host):
    node = make(MatMul(), [(3, 4, 8), (3, 8, 5)], constants=[1])
    assert not PackedMatmul().schedules(node.spec, host)
    assert check(Matmul(), node)


def test_constant_matrices_are_left_to_the_packed_kernel(make, host):
    node = make(MatMul(), [(4, 8), (8, 5)], constants=[1])
    assert not Matmul().schedules(node.spec, host)


@pytest.mark.parametrize(("lanes", "registers"), [(16, 32), (8, 16), (4, 16), (4, 32)])
@pytest.mark.parametrize("rows", [1, 2, 13, 64, 197])
def test_tiles_fit_the_registers(lanes, registers, rows):
    target = CpuTarget("", lanes, registers, 2)
    for columns in (1, 10, 1000):
        found = tiles(Product(rows, 100, columns), target)
        assert 1 <= len(found) <= 3
        for height, width in found:
            of_b = width if height > 1 else 0  # a single row multiplies straight from memory
            assert height * width + of_b + 1 <= registers
            assert 1 <= height <= rows
            assert (width - 1) * lanes < columns


def test_packing_keeps_every_element_once(make, host):
    node = make(MatMul(True), [(1, 30), (50, 30)], constants=[1])
    for params in PackedMatmul().schedules(node.spec, host):
        array = np.arange(1, 1501, dtype=np.float32).reshape(50, 30)
        packed = PackedMatmul().pack(node.spec, params, host, 1, array)
        assert np.array_equal(np.sort(packed[packed != 0]), array.reshape(-1))
        assert packed.size == 30 * -(-50 // host.lanes) * host.lanes


def test_work_counts_the_padding_that_is_streamed(make, host):
    spec = make(MatMul(), [(1, 64), (64, host.lanes + 1)], constants=[1]).spec
    work = PackedMatmul().work(spec, PackedMatmul().schedules(spec, host)[0], host)
    assert work.dram_bytes == 4 * (64 + 64 * 2 * host.lanes + host.lanes + 1)
    assert work.flops == 2 * 64 * 2 * host.lanes
