"""Operators on which every algorithm for CUDA is tried, and what a function computes with its threads as loops."""

from __future__ import annotations

import numpy as np
import tvm_ffi
from tvm import tirx

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Pad,
    Softmax,
    Split,
    Step,
    TensorType,
    Transpose,
    Value,
    literal,
)
from joulec.passes.kernels.cuda.registry import CUDA_KERNELS
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.registry import kernels_for

ARCHS = ("sm_80", "sm_90")


def target(arch: str) -> CudaTarget:
    """The target of an architecture, without asking nvcc."""
    described = f'{{"kind": "cuda", "arch": "{arch}", "max_num_threads": 1024, "max_shared_memory_per_block": 49152}}'
    return CudaTarget(described[:-1] + ', "host": {"kind": "llvm"}}', arch)


def _node(op, shapes, constants=(), epilogue=()):
    rng = np.random.default_rng(5)
    operands = [
        literal(rng.standard_normal(shape).astype("float32"))
        if index in constants
        else Value.input(f"x{index}", TensorType(tuple(shape)))
        for index, shape in enumerate(shapes)
    ]
    return Node.make(op, tuple(operands), tuple(epilogue))


_FUSED = (Step("bias"), Step("activation", "relu"))
_RESIDUAL = (Step("bias"), Step("add"), Step("activation", "silu"))

CASES = {
    "3x3": _node(Conv2d((1, 1), (1, 1, 1, 1)), [(2, 8, 9, 7), (9, 8, 3, 3), (9,)], (1, 2), _FUSED),
    "3x3 residual": _node(
        Conv2d((1, 1), (1, 1, 1, 1)), [(1, 8, 6, 6), (8, 8, 3, 3), (8,), (1, 8, 6, 6)], (1, 2), _RESIDUAL
    ),
    "5x5": _node(Conv2d(), [(1, 8, 9, 7), (8, 8, 5, 5)], (1,)),
    "strided": _node(Conv2d((2, 1), (1, 0, 1, 2)), [(2, 5, 9, 8), (7, 5, 3, 2), (7,)], (1, 2), _FUSED),
    "dilated": _node(Conv2d(dilation=(2, 2)), [(1, 3, 9, 9), (4, 3, 3, 3)], (1,)),
    "pointwise": _node(Conv2d(), [(1, 12, 5, 5), (6, 12, 1, 1), (6,)], (1, 2), _FUSED),
    "grouped": _node(Conv2d(groups=2), [(1, 4, 5, 5), (6, 2, 3, 3), (6,)], (1, 2), _FUSED),
    "depthwise": _node(Conv2d((1, 1), (1, 1, 1, 1), groups=4), [(2, 4, 6, 5), (4, 1, 3, 3)], (1,)),
    "dense": _node(MatMul(), [(70, 33), (33, 50), (50,)], (1, 2), _FUSED),
    "batched product": _node(MatMul(), [(2, 3, 20, 30), (3, 30, 10)]),
    "transposed product": _node(MatMul(transpose_b=True), [(4, 65), (40, 65)], (1,)),
    "one row": _node(MatMul(), [(1, 64), (64, 50), (50,)], (1, 2), _FUSED),
    "one row transposed": _node(MatMul(transpose_b=True), [(1, 96), (20, 96)]),
    "max pool": _node(MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), [(1, 3, 13, 12)]),
    "max pool ceil": _node(MaxPool2d((3, 3), (2, 2), ceil_mode=True), [(1, 2, 8, 8)]),
    "mean pool": _node(AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1), ceil_mode=True), [(1, 3, 8, 8)]),
    "mean pool padded": _node(AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True), [(1, 3, 9, 9)]),
    "global average": _node(AvgPool2d((9, 9)), [(2, 3, 9, 9)]),
    "softmax": _node(Softmax(1), [(2, 100)]),
    "softmax inner": _node(Softmax(1), [(2, 30, 5)]),
    "layer norm": _node(LayerNorm(1), [(3, 40), (40,), (40,)], (1, 2)),
    "layer norm of all": _node(LayerNorm(0), [(3, 4)]),
    "local response norm": _node(LocalResponseNorm(5), [(1, 8, 5, 5)]),
    "sum": _node(Add(), [(2, 3, 9, 9), (3, 1, 1)], (), (Step("activation", "relu"),)),
    "quotient": _node(Binary("div"), [(2, 3, 9), (9,)]),
    "affine": _node(ChannelAffine(), [(2, 3, 9), (3,), (3,)], (1, 2)),
    "gelu": _node(Activation("gelu"), [(2, 3, 9)]),
    "pad": _node(Pad(((0, 0), (1, 2)), 1.5), [(3, 4)]),
    "concat": _node(Concat(1), [(2, 3, 9), (2, 5, 9), (2, 1, 9)]),
    "split": _node(Split(1, (3, 5)), [(2, 8, 9)]),
    "transpose": _node(Transpose((1, 0)), [(40, 50)]),
    "permutation": _node(Transpose((0, 3, 1, 2)), [(2, 5, 4, 3)]),
}


def threads_as_loops(function):
    """A scheduled function that one CPU thread runs: each block and thread in turn, as the loops' meaning allows."""

    def serial(loop):
        if loop.kind != tirx.ForKind.THREAD_BINDING:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, serial)))


def one_of_each(chosen):
    """A case of every kind of operator under every algorithm and its parameters."""
    found = {}
    for node in CASES.values():
        for kernel, params in kernels_for(node.spec, chosen):
            name = "_".join([node.spec.op.name, kernel.name, *(str(value) for _, value in params)])
            found.setdefault(name, (node, kernel, params))
    assert {kernel.name for _, kernel, _ in found.values()} == {kernel.name for kernel in CUDA_KERNELS}
    return found


def device_source(module):
    """The CUDA source among what a module imports, at any depth."""
    pending, sources = [module], []
    while pending:
        part = pending.pop()
        pending.extend(list(part.imports))
        if part.kind == "cuda":
            sources.append(part.inspect_source())
    assert len(sources) == 1
    return sources[0]
