"""Random models that move data by index arithmetic, in shapes and types at which vectorised code may go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Draw = Callable[[Any], Any]
Made = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]

SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 24, 31, 32, 33, 48)
TYPES = ("float32", "float32", "float16", "float64", "int32", "int64", "uint8", "bool")
MOST = 1 << 17


def _shape(draw: Draw, rank: int) -> list[int]:
    shape = [draw(st.sampled_from(SIZES)) for _ in range(rank)]
    while math.prod(shape) > MOST:
        shape[shape.index(max(shape))] //= 2
    return shape


def _tile(draw: Draw, shape: list[int]) -> Made:
    repeats = [draw(st.integers(1, 3)) if math.prod(shape) < 4096 else 1 for _ in shape]
    return [helper.make_node("Tile", ["x", "r"], ["y"])], {"r": np.asarray(repeats)}


def _pad(draw: Draw, shape: list[int]) -> Made:
    mode = draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
    most = [min(size - 1 if mode == "reflect" else size, 5) for size in shape]
    pads = [draw(st.integers(0, limit)) for limit in most * 2]
    return [helper.make_node("Pad", ["x", "p"], ["y"], mode=mode)], {"p": np.asarray(pads)}


def _blocks(draw: Draw, shape: list[int]) -> Made:
    """Space to depth or back, through the operators or written out."""
    block = draw(st.sampled_from([2, 3, 4]))
    n, c, h, w = (draw(st.sampled_from(SIZES[:6])) for _ in range(4))
    if draw(st.booleans()):
        shape[:] = [n, c, h * block, w * block]
        return [helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=block)], {}
    shape[:] = [n, c * block * block, h, w]
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    return [helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=block, mode=mode)], {}


def _shuffle(draw: Draw, shape: list[int]) -> Made:
    """Reshape, transpose and reshape again, which TVM fuses to one gather by divisions and remainders."""
    order = draw(st.permutations(range(len(shape))))
    moved = [shape[axis] for axis in order]
    size = math.prod(shape)
    first = draw(st.sampled_from([d for d in range(1, min(size, 64) + 1) if size % d == 0]))
    second = draw(st.sampled_from([d for d in range(1, min(size // first, 64) + 1) if size // first % d == 0]))
    parts = [first, second, size // first // second]
    again = draw(st.permutations(range(3)))
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=order),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=again),
        helper.make_node("Reshape", ["c", "t"], ["y"]),
    ]
    return nodes, {"s": np.asarray(parts), "t": np.asarray(moved)}


def _slice(draw: Draw, shape: list[int]) -> Made:
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    begins = [0 if step > 0 else -1 for step in steps]
    ends = [size if step > 0 else -size - 1 for size, step in zip(shape, steps, strict=True)]
    axes = np.arange(len(shape))
    constants = {"b": np.asarray(begins), "e": np.asarray(ends), "a": axes, "s": np.asarray(steps)}
    return [helper.make_node("Slice", ["x", "b", "e", "a", "s"], ["y"])], constants


def _expand(draw: Draw, shape: list[int]) -> Made:
    wanted = list(shape)
    for axis in range(len(shape)):
        if draw(st.booleans()):
            shape[axis] = 1
    return [helper.make_node("Expand", ["x", "s"], ["y"])], {"s": np.asarray(wanted)}


def _concat(draw: Draw, shape: list[int]) -> Made:
    """The value rolled along an axis: two slices joined the other way round."""
    axis = draw(st.integers(0, len(shape) - 1))
    cut = draw(st.integers(0, shape[axis]))
    nodes = [
        helper.make_node("Slice", ["x", "cut", "end", "axis"], ["a"]),
        helper.make_node("Slice", ["x", "zero", "cut", "axis"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=axis),
    ]
    given = {"cut": [cut], "end": [shape[axis]], "axis": [axis], "zero": [0]}
    return nodes, {name: np.asarray(value) for name, value in given.items()}


def _gather(draw: Draw, shape: list[int]) -> Made:
    axis = draw(st.integers(0, len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        index = rng.integers(-shape[axis], shape[axis], [draw(st.sampled_from(SIZES[:8])) for _ in range(2)])
        return [helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)], {"i": index}
    index = rng.integers(0, shape[axis], shape)
    return [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis)], {"i": index}


def _resize(draw: Draw, shape: list[int]) -> Made:
    scales = np.ones(len(shape), np.float32)
    for axis in range(max(len(shape) - 2, 0), len(shape)):
        scales[axis] = draw(st.sampled_from([1, 2, 3])) if math.prod(shape) < 8192 else 1
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [helper.make_node("Resize", ["x", "", "k"], ["y"], **attributes)], {"k": scales}


MOVES = {
    "tile": _tile, "pad": _pad, "blocks": _blocks, "shuffle": _shuffle, "slice": _slice, "expand": _expand,
    "roll": _concat, "gather": _gather, "resize": _resize,
}  # fmt: skip
_UNSUPPORTED = {"resize": ("float16", "float64", "int64", "bool", "uint8")}
"""Types that ONNX Runtime does not take there."""


@st.composite
def movements(draw: Draw) -> onnx.ModelProto:
    """A model of one movement of data, with an operator that computes after it or none."""
    name = draw(st.sampled_from(sorted(MOVES)))
    shape = _shape(draw, draw(st.integers(1, 5)))
    nodes, constants = MOVES[name](draw, shape)
    dtype = draw(st.sampled_from([one for one in TYPES if one not in _UNSUPPORTED.get(name, ())]))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if dtype.startswith("float") and draw(st.booleans()):
        nodes[-1].output[0] = "moved"
        nodes.append(helper.make_node("Abs", ["moved"], ["y"]))
    outputs = [helper.make_tensor_value_info("y", element, None)]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", element, shape)],
        outputs,
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
