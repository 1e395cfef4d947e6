"""How far operators whose algorithm rounds in its own way lie from float64, in the compiled model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.backend import Algorithm
from joulec.passes.graph import Conv2d, Node, PooledConv2d, TensorType, Weight
from joulec.passes.graph.operators import ACTIVATIONS
from joulec.passes.layouts.layout import PLAIN, blocked_shape, from_layout, layout_read
from joulec.passes.verification import VerificationError
from joulec.report import plan_assignment
from joulec.runtime.model import Model
from joulec.runtime.profile import Matcher
from joulec.variants import Variant

_Array = npt.NDArray[Any]

ROUNDED = ("winograd",)
"""Families whose arithmetic is not the operator's definition."""
SAMPLES = 64
"""Positions of a result that are computed again; all channels of each."""


def operator_errors(
    model: Model, one: Variant, given: Mapping[str, _Array], tolerance: float, seed: int
) -> list[float | None]:
    """The relative error of each operator of an entry that a family of `ROUNDED` computes, None of the others.

    The model runs once, step by step; sampled results of such an operator are computed again in float64, from what it
    read in that run.

    Args:
        given: inputs by name.
        tolerance: what is accepted.
        seed: of the sampled positions.

    Raises:
        VerificationError: an error exceeds the tolerance.
    """
    plan, inputs = one.plan, one.searched.source.graph.inputs
    nodes, assignment = list(plan.assignment), plan_assignment(plan)
    errors: list[float | None] = [None] * len(nodes)
    if not any(_family(assigned.algorithm) in ROUNDED for assigned in assignment):
        return errors
    rng, place = np.random.default_rng(seed), Matcher(assignment)

    def watch(name: str, arrays: Sequence[_Array]) -> None:
        index = place(name)
        if index is not None and _family(assignment[index].algorithm) in ROUNDED:
            errors[index] = _error(nodes[index], plan.assignment[nodes[index]].algorithm, arrays, rng)

    model.watch(one.batch, [np.ascontiguousarray(given[value.name]) for value in inputs], watch, one.name)
    for assigned, error in zip(assignment, errors, strict=True):
        if error is not None and not error <= tolerance:
            family = _family(assigned.algorithm)
            raise VerificationError(
                f"batch {one.batch}: {assigned.algorithm} computes {assigned.node} with a relative error of "
                f"{error:.3g}, more than the tolerance {tolerance:.3g}: leave it out with --exclude-algorithm {family}"
            )
    return errors


def _family(algorithm: str) -> str:
    return algorithm.partition("(")[0]


def _error(node: Node, algorithm: Algorithm, arrays: Sequence[_Array], rng: np.random.Generator) -> float:
    """Of a convolution: arrays are its data, the packed kernel, the epilogue's operands, and its result."""
    reads, writes = (int(getattr(algorithm, end, PLAIN)) for end in ("reads", "writes"))
    op, weight = node.op, node.operands[1]
    assert isinstance(op, Conv2d | PooledConv2d)
    assert isinstance(weight, Weight)
    conv = op if isinstance(op, Conv2d) else op.convolution
    kernel = weight.value().astype(np.float64)
    layouts = [layout_read(node.spec, index, reads, writes) for index in range(len(node.operands))]
    data, result = _shaped(arrays[0], node.operands[0].type, reads), _shaped(arrays[-1], node.outputs[0].type, writes)
    batch, channels, height, width = result.shape
    picks = rng.integers(0, (batch, height, width), (SAMPLES, 3))
    exact = np.empty((SAMPLES, channels))
    for row, (n, y, x) in enumerate(picks):
        places = [(int(y), int(x))] if isinstance(op, Conv2d) else _pooled_places(node, int(y), int(x))
        exact[row] = np.max([_convolved(data[n], conv, kernel, *place) for place in places], axis=0)
    others = zip(arrays[2:-1], node.operands[2:], layouts[2:], strict=True)
    rest = iter(_shaped(array, of.type, layout) for array, of, layout in others)
    at = tuple(picks.T)
    for step in node.epilogue:
        if step.kind == "activation":
            exact = ACTIVATIONS[step.activation](exact, *step.params)
        else:
            other = next(rest)
            exact = exact + (other if step.kind == "bias" else other[at[0], :, at[1], at[2]])
    found = result[at[0], :, at[1], at[2]].astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(found - exact)) / norm if norm else 0.0


def _pooled_places(node: Node, y: int, x: int) -> list[tuple[int, int]]:
    """The positions of the convolution of which a pooled one is the maximum."""
    op = node.op
    assert isinstance(op, PooledConv2d)
    pool, (between,) = op.pooling, op.convolution.infer([operand.type for operand in node.anchor_operands])
    rows, columns = (
        [
            place
            for tap in range(pool.kernel[axis])
            if 0 <= (place := at * pool.strides[axis] - pool.padding[axis] + tap * pool.dilation[axis]) < size
        ]
        for axis, (at, size) in enumerate(zip((y, x), between.shape[2:], strict=True))
    )
    return [(row, column) for row in rows for column in columns]


def _convolved(image: _Array, op: Conv2d, kernel: _Array, y: int, x: int) -> _Array:
    """All channels of one position of the convolution of an image [C,H,W]."""
    channels, _, kernel_h, kernel_w = kernel.shape
    window = _window(image, op, y, x, kernel_h, kernel_w).reshape(op.groups, -1)
    grouped = kernel.reshape(op.groups, channels // op.groups, -1)
    return np.asarray(np.einsum("gk,gok->go", window, grouped).reshape(-1))


def _shaped(array: _Array, type: TensorType, layout: int) -> _Array:
    """A tensor, blocked or not, as row-major; of one that lies inside another the array is flat and runs on.

    Args:
        layout: of a tensor inside another; the shape of any other tells its own.
    """
    inside = array.ndim == 1 and len(type.shape) == 4
    block = layout if inside else array.shape[-1] if array.ndim == 5 else PLAIN
    return from_layout(array.reshape(-1)[: type.size].reshape(blocked_shape(type.shape, block)), block)


def _window(image: _Array, op: Conv2d, y: int, x: int, kernel_h: int, kernel_w: int) -> _Array:
    """What the window of one position reads of an image [C,H,W], zeros beyond its borders."""
    rows = y * op.strides[0] - op.padding[0] + op.dilation[0] * np.arange(kernel_h)
    columns = x * op.strides[1] - op.padding[1] + op.dilation[1] * np.arange(kernel_w)
    inside = np.outer((rows >= 0) & (rows < image.shape[1]), (columns >= 0) & (columns < image.shape[2]))
    clipped = image[:, rows.clip(0, image.shape[1] - 1)][:, :, columns.clip(0, image.shape[2] - 1)]
    return np.asarray(np.where(inside, clipped, 0.0), np.float64)
