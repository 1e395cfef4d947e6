"""Blocked activations in kernels: NCHWc with as many channels in a block as a vector has lanes.

A schedule says in which layouts its activations are: ``reads`` and ``writes``, channels in a block, row-major where it
says nothing. What an epilogue adds stands in the layout of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Conv2d, NodeSpec, TensorType
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.pooled_spec import convolution_of
from joulec.passes.layouts.layout import PLAIN, blocked_shape, layout_read, to_layout

_ENDS = ("reads", "writes")


def ends(params: Params) -> tuple[int, int]:
    """The layouts that a schedule reads and writes."""
    parts = dict(params)
    return parts.get("reads", PLAIN), parts.get("writes", PLAIN)


def without_ends(params: Params) -> Params:
    """What else a schedule says."""
    return tuple((key, value) for key, value in params if key not in _ENDS)


def with_ends(params: Params, reads: int, writes: int) -> Params:
    """A schedule for activations in given layouts."""
    return (*params, *((key, block) for key, block in zip(_ENDS, (reads, writes), strict=True) if block))


def fits(type: TensorType, target: CpuTarget) -> bool:
    """Whether a tensor has a blocked form: whole blocks, and more than one position."""
    shape = type.shape
    return target.lanes > 1 and len(shape) == 4 and shape[1] % target.lanes == 0 and shape[2] * shape[3] > 1


def convolves_blocks(spec: NodeSpec, target: CpuTarget) -> bool:
    """Whether a convolution's data and result, each group of them, have a blocked form."""
    op = convolution_of(spec).op
    groups = op.groups if isinstance(op, Conv2d) else 1
    ends = spec.operands[0].type, spec.results[0]
    return all(fits(type, target) and type.shape[1] // groups % target.lanes == 0 for type in ends)


def operand_types(spec: NodeSpec, params: Params) -> list[TensorType]:
    """The operands as the schedule reads them; a convolution's kernel is packed otherwise."""
    reads, writes = ends(params)
    return [
        _blocked(operand.type, layout_read(spec, index, reads, writes)) for index, operand in enumerate(spec.operands)
    ]


def result_types(spec: NodeSpec, params: Params) -> list[TensorType]:
    """The results as the schedule writes them."""
    return [_blocked(type, ends(params)[1]) for type in spec.results]


def packed(spec: NodeSpec, params: Params, index: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A constant operand as the schedule reads it, but for a convolution's kernel."""
    layout = layout_read(spec, index, *ends(params))
    blocked = to_layout(array, layout) if array.ndim == 4 else array
    return np.ascontiguousarray(blocked).reshape(blocked.shape)


def _blocked(type: TensorType, block: int) -> TensorType:
    return TensorType(blocked_shape(type.shape, block), type.dtype) if len(type.shape) == 4 else type
