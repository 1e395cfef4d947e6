"""Relay's algorithms: implementations of the operator strategy, each with its AutoTVM configuration."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.digest import external_engine, source_digest
from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    MatMul,
    MaxPool2d,
    NodeSpec,
    Opaque,
    Split,
    TensorType,
)
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.layouts.layout import PLAIN, Relayout, block_of, blocked_shape, layout_name
from joulec.profiler.candidate import Work
from joulec.profiler.roofline import Roofline

Config = tuple[tuple[str, int | tuple[int, ...]], ...]
Way = tuple[str, Config, int, int]
"""Implementation, configuration, layout read and layout written."""

EXTERNAL = "onnx"
DEFAULT = "relay"
"""What TVM's own priorities choose, in plain layouts."""
CONV_BLOCKED = "conv2d_NCHWc.x86"
DEPTHWISE_BLOCKED = "depthwise_conv2d_NCHWc.x86"
BLOCKED = "NCHWc"
"""The one implementation that an operator without AutoTVM template has, on blocked tensors."""
DENSE = ("dense_nopack.x86", "dense_pack.x86")
BATCHED = "batch_matmul.x86"
FAMILIES = (CONV_BLOCKED, DEPTHWISE_BLOCKED, BLOCKED, *DENSE, BATCHED)

_LEAST_ROW, _MOST_ROW = 4, 28
"""Output columns kept in registers: fewer do not hide the latency of a multiply-add, more do not fit."""


@dataclass(frozen=True)
class RelayAlgorithm:
    """An implementation under a configuration, for tensors in given layouts.

    Attributes:
        implementation: its name in the operator strategy, or `DEFAULT`, `BLOCKED`, `EXTERNAL`.
        config: the AutoTVM configuration, knobs by name, of a split all sizes or the innermost; empty for TVM's
            fallback.
        reads: layout of the four-dimensional run-time operands.
        writes: layout of the results.
        target: for what it is compiled.
        roofline: bounds of the device.
    """

    implementation: str
    config: Config
    reads: int
    writes: int
    target: CpuTarget
    roofline: Roofline

    @property
    def family(self) -> str:
        """What ``--exclude-algorithm`` names."""
        return self.implementation

    @property
    def external(self) -> bool:
        """Whether ONNX Runtime (or ONNX's reference evaluator) computes it."""
        return self.implementation == EXTERNAL

    @property
    def name(self) -> str:
        """Implementation, layouts and configuration."""
        blocks = [f"{layout_name(self.reads)}->{layout_name(self.writes)}"] if self.reads or self.writes else []
        shown = ",".join([*blocks, *self.parameters])
        return f"{self.implementation}({shown})" if shown else self.implementation

    @property
    def parameters(self) -> list[str]:
        """The configuration, knob by knob."""
        return [
            f"{key}={'x'.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in self.config
        ]

    @property
    def digest(self) -> str:
        """Digest of what decides what it lowers to."""
        return external_engine() if self.external else source_digest("joulec.passes.relay.lower")

    def operand_shape(self, spec: NodeSpec, index: int) -> tuple[int, ...]:
        """The shape in which it reads an operand."""
        operand = spec.operands[index]
        if isinstance(spec.op, MatMul):
            return flat_shape(spec, operand.type.shape)
        if self.implementation == EXTERNAL or isinstance(spec.op, Opaque) or len(spec.results[0].shape) != 4:
            return operand.type.shape
        if _is_kernel(spec, index):
            return _kernel_shape(operand.type.shape, self) if self.reads or self.writes else operand.type.shape
        if len(operand.type.shape) == 4:
            layout = self.reads if index < len(spec.anchor_operands) else self.writes
            return blocked_shape(operand.type.shape, layout)
        if index < len(spec.anchor_operands) and not isinstance(spec.op, (Conv2d, ChannelAffine)):
            return operand.type.shape
        channels = operand.type.shape[0]
        block = self.writes
        return (1, channels // block, 1, 1, block) if block else (1, channels, 1, 1)

    def result_shape(self, spec: NodeSpec, index: int) -> tuple[int, ...]:
        """The shape in which it writes a result."""
        shape = spec.results[index].shape
        if isinstance(spec.op, MatMul):
            return flat_shape(spec, shape)
        return blocked_shape(shape, self.writes) if self.writes else shape

    def pack(self, spec: NodeSpec, index: int, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A constant operand as the implementation reads it."""
        if _is_kernel(spec, index) and (self.reads or self.writes):
            inner = 1 if self.implementation == DEPTHWISE_BLOCKED else self.reads
            return pack_kernel(array, inner, self.writes)
        return np.ascontiguousarray(array).reshape(self.operand_shape(spec, index))

    def work(self, spec: NodeSpec) -> Work:
        """Arithmetic done and bytes moved."""
        registers = 4.0 * spec.flops / 4 if self.config else 4.0 * spec.flops
        return Work(float(spec.flops), float(spec.bytes), float(spec.bytes), registers)

    def lower_bound_s(self, spec: NodeSpec) -> float:
        """Roofline of the device."""
        return self.roofline.lower_bound_s(self.work(spec))


def kernel_name(spec: NodeSpec, algorithm: RelayAlgorithm) -> str:
    """The name of the compiled function, unique to the spec under the algorithm."""
    digest = hashlib.sha256(f"{spec}|{spec.results}|{algorithm.name}|{algorithm.target.target}".encode())
    if isinstance(spec.op, Opaque):
        digest.update(spec.op.definition)
    plain = "".join(c if c.isalnum() else "_" for c in f"joulec_{spec.op.name}_{algorithm.name}")
    return f"{plain.rstrip('_')}_{digest.hexdigest()[:10]}"


def algorithms_of(
    spec: NodeSpec, target: CpuTarget, roofline: Roofline, tuned: Iterable[Way] = ()
) -> Iterator[RelayAlgorithm]:
    """All that apply, those that the user's own tuning found first, TVM's own choice last."""

    def make(implementation: str, config: Config = (), reads: int = PLAIN, writes: int = PLAIN) -> RelayAlgorithm:
        return RelayAlgorithm(implementation, config, reads, writes, target, roofline)

    op = spec.op
    if isinstance(op, Opaque):
        yield make(EXTERNAL if op.dialect == "onnx" else DEFAULT)
        return
    if isinstance(op, Relayout):
        yield make(DEFAULT, (), op.source, op.target)
        return
    float32 = all(operand.type.dtype == "float32" for operand in spec.operands)
    if float32 and isinstance(op, Conv2d) and spec.operands[1].constant:
        yield from (make(*way) for way in dict.fromkeys([*tuned, *_convolutions(spec, op, target.lanes)]))
    elif float32 and is_dense(spec):
        yield from (make(*way) for way in tuned)
        yield from (make(name) for name in DENSE)
        return
    elif float32 and is_batched(spec):
        yield from (make(*way) for way in tuned)
    elif float32:
        block = _common_block(spec, target.lanes)
        if block:
            yield make(BLOCKED, (), block, block)
    yield make(DEFAULT)


def _convolutions(spec: NodeSpec, op: Conv2d, lanes: int) -> Iterator[Way]:
    channels, filters = spec.operands[0].type.shape[1], spec.results[0].shape[1]
    reads, writes = block_of(channels, lanes), block_of(filters, lanes)
    kernel = spec.operands[1].type.shape
    if op.groups > 1:
        depthwise = op.groups == channels and kernel[1] == 1 and channels == filters and op.dilation == (1, 1)
        if not depthwise:
            return
    width = spec.results[0].shape[3]
    name = DEPTHWISE_BLOCKED if op.groups > 1 else CONV_BLOCKED
    pointwise = kernel[2:] == (1, 1) and op.groups == 1
    for columns, second in _tiles(width):
        tiles = (("tile_ic", reads), ("tile_oc", writes), ("tile_ow", columns))
        yield name, (*tiles, ("tile_oh", 1) if pointwise else ("unroll_kw", second)), reads, writes
        if pointwise and columns == 7 and spec.results[0].shape[2] % 2 == 1 and spec.results[0].shape[2] > 1:
            yield name, (*tiles, ("tile_oh", 2)), reads, writes


def _tiles(width: int) -> list[tuple[int, int]]:
    """Row lengths worth measuring, with whether the kernel's columns are unrolled too.

    The longest that fits the registers, half of it (more rows in flight), and TVM's own choice.
    """
    divisors = [size for size in range(1, width + 1) if width % size == 0]
    fitting = [size for size in divisors if _LEAST_ROW <= size <= _MOST_ROW] or divisors[:1]
    middle = max((size for size in fitting if size <= 14), default=fitting[0])
    own = max(size for size in divisors if size <= 31)
    found = [(middle, 0), (fitting[-1], 0), (max((s for s in fitting if s <= 8), default=middle), 0), (own, 0)]
    return list(dict.fromkeys(found))


def _common_block(spec: NodeSpec, lanes: int) -> int:
    """The block in which an operator without kernel can read and write all its tensors; 0 where there is none."""
    op = spec.op
    values = [operand.type for operand in spec.operands if not operand.constant]
    tensors = [*values, *spec.results]
    if not isinstance(op, (MaxPool2d, AvgPool2d, Activation, Add, Binary, ChannelAffine, Concat, Split)):
        return PLAIN
    if any(len(type.shape) != 4 for type in tensors) or not values:
        return PLAIN
    if isinstance(op, (Concat, Split)):
        if op.axis != 1:
            return PLAIN
    elif any(type.shape != values[0].shape for type in values):
        return PLAIN
    if isinstance(op, AvgPool2d) and op.overhang(values[0], spec.results[0]) != op.padding:
        return PLAIN
    if any(operand.constant for operand in spec.anchor_operands) and not isinstance(op, ChannelAffine):
        return PLAIN
    blocks = {block_of(type.shape[1], lanes) for type in tensors}
    return blocks.pop() if len(blocks) == 1 else PLAIN


def is_dense(spec: NodeSpec) -> bool:
    """Whether Relay's `nn.dense` computes the spec."""
    return isinstance(spec.op, MatMul) and spec.op.transpose_b and len(spec.operands[1].type.shape) == 2


def is_batched(spec: NodeSpec) -> bool:
    """Whether Relay's `nn.batch_matmul` computes the spec."""
    return isinstance(spec.op, MatMul) and len(spec.operands[1].type.shape) > 2


def flat_shape(spec: NodeSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a matrix product reads or writes a tensor: all leading axes are one.

    TVM's schedules take two axes of `nn.dense` and three of `nn.batch_matmul`. What is broadcast keeps its own shape.
    """
    kept = 2 if is_batched(spec) else 1
    lead = spec.results[0].shape[:-kept]
    return (math.prod(lead), *shape[-kept:]) if shape[:-kept] == lead else shape


def _is_kernel(spec: NodeSpec, index: int) -> bool:
    return isinstance(spec.op, Conv2d) and index == 1


def pack_kernel(array: npt.NDArray[Any], inner: int, outer: int) -> npt.NDArray[Any]:
    """A kernel [O, I, kH, kW] as OIHW{inner}i{outer}o."""
    out, into, height, width = array.shape
    split = array.reshape(out // outer, outer, into // inner, inner, height, width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def _kernel_shape(shape: tuple[int, ...], algorithm: RelayAlgorithm) -> tuple[int, ...]:
    out, into, height, width = shape
    inner = 1 if algorithm.implementation == DEPTHWISE_BLOCKED else algorithm.reads
    return (out // algorithm.writes, into // inner, height, width, inner, algorithm.writes)


def types_read(spec: NodeSpec, algorithm: RelayAlgorithm) -> list[TensorType]:
    """The operands' types as the algorithm reads them."""
    return [
        TensorType(algorithm.operand_shape(spec, index), operand.type.dtype)
        for index, operand in enumerate(spec.operands)
    ]
