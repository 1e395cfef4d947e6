"""Kernels against the graph's meaning in numpy, with guards around every tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Node, Operator, Step, TensorType, Value, Weight, literal
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.blocks import ends, result_types
from joulec.passes.kernels.kernel import CpuTarget, Kernel
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.kernels.target import cpu_target
from joulec.passes.layouts.layout import from_layout, layout_read, to_layout

GUARD = 64
"""Elements before and after each tensor: NaN around operands, a mark around results."""
MARK = 12345

Make = Callable[..., Node]
Check = Callable[..., int]


@pytest.fixture(scope="session")
def host() -> CpuTarget:
    """This machine, two threads."""
    return cpu_target(None, 2)


@pytest.fixture
def make() -> Make:
    """Builds a node: ``make(op, shapes, constants=indices, epilogue=steps)``; epilogue operands come last."""

    def node(
        op: Operator,
        shapes: Sequence[tuple[int, ...]],
        constants: Sequence[int] = (),
        epilogue: Sequence[Step] = (),
        dtype: str = "float32",
    ) -> Node:
        rng = np.random.default_rng(5)
        operands: list[Value | Weight] = [
            literal(rng.standard_normal(shape).astype(dtype))
            if index in constants
            else Value.input(f"x{index}", TensorType(tuple(shape), dtype))
            for index, shape in enumerate(shapes)
        ]
        return Node.make(op, tuple(operands), tuple(epilogue))

    return node


@pytest.fixture
def check(host: CpuTarget) -> Check:
    """Runs a node under every schedule of a kernel; returns how many there were.

    Operands that are not constant are random, unless they are ``given`` by name; those are not widened for the meaning
    in numpy either, with which all must agree to the last bit where the tolerance is 0.
    """

    def run(
        kernel: Kernel,
        node: Node,
        tolerance: float = 2e-5,
        target: CpuTarget = host,
        given: Mapping[str, Any] | None = None,
    ) -> int:
        rng = np.random.default_rng(7)
        known = given or {}
        arrays = [
            operand.value()
            if isinstance(operand, Weight)
            else known[operand.name]
            if operand.name in known
            else (3 * rng.standard_normal(operand.type.shape)).astype(operand.type.dtype)
            for operand in node.operands
        ]
        expected = evaluate_node(node, arrays if known else [array.astype(_wide(array)) for array in arrays])
        schedules = kernel.schedules(node.spec, target)
        for params in schedules:
            function = kernel.build(node.spec, params, target)
            reads, writes = ends(params)
            packed = [
                kernel.pack(node.spec, params, target, index, array)
                if isinstance(operand, Weight)
                else _laid_out(array, layout_read(node.spec, index, reads, writes))
                for index, (operand, array) in enumerate(zip(node.operands, arrays, strict=True))
            ]
            operands = [_guarded(array, np.nan if array.dtype.kind == "f" else _mark(array)) for array in packed]
            empty = [np.zeros(type.shape, type.dtype) for type in result_types(node.spec, params)]
            results = [_guarded(array, _mark(array)) for array in empty]
            tensors = [tvm.runtime.from_dlpack(array) for _, array in (*operands, *results)]
            _compiled(function, target)(*tensors)
            for (block, result), value in zip(results, expected, strict=True):
                scale = max(1.0, float(np.abs(value.astype(float)).max(initial=0)))
                found = from_layout(result, writes) if result.ndim == 5 else result
                assert found.dtype == value.dtype or not known, params
                np.testing.assert_allclose(found, value, rtol=0, atol=tolerance * scale, err_msg=f"{params}")
                assert (block[:GUARD] == _mark(block)).all(), params
                assert (block[GUARD + result.size :] == _mark(block)).all(), params
            work = kernel.work(node.spec, params, target)
            assert work.dram_bytes >= node.spec.bytes * 0.999
            assert work.flops >= 0
        return len(schedules)

    return run


@pytest.fixture
def compiled() -> Callable[[Any, CpuTarget], Any]:
    """Turns a PrimFunc into something to call."""
    return _compiled


def _compiled(function: Any, target: CpuTarget) -> Any:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(json.loads(target.target)), tir_pipeline=PIPELINE)["main"]


def _laid_out(array: Any, layout: int) -> Any:
    return to_layout(array, layout) if array.ndim == 4 else array


def _wide(array: Any) -> Any:
    return np.float64 if array.dtype == np.float32 else array.dtype


def _mark(array: Any) -> int:
    return MARK if array.dtype.itemsize > 1 else MARK % 128


def _guarded(array: Any, guard: float) -> tuple[Any, Any]:
    """A 64-byte aligned copy inside a larger block, and the block."""
    item = array.dtype.itemsize
    raw = np.empty((array.size + 2 * GUARD) * item + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    block = raw[begin : begin + (array.size + 2 * GUARD) * item].view(array.dtype)
    block[:] = guard
    inner = block[GUARD : GUARD + array.size].reshape(array.shape)
    inner[...] = array
    return block, inner
