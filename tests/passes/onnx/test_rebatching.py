"""Other batches than the file's: what is mended, what is refused, and that examples are computed one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import ModelError, import_onnx

_RNG = np.random.default_rng(11)
Case = tuple[list[onnx.NodeProto], dict[str, tuple[int | str, ...]], dict[str, np.ndarray]]


def _f(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _i(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def _n(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    names = [name.replace("_", "") if name == "_" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"{kind}_{outputs.split()[0]}", **attributes)


def _reshape_of_rank(*target: int) -> Callable[[int], Case]:
    def case(lead: int) -> Case:
        return [_n("Reshape", "x t", "y")], {"x": (lead, 2, 3, 4)}, {"t": _i(*(lead if d == 99 else d for d in target))}

    return case


def _attention(lead: int) -> Case:
    """Heads merged with the batch into one axis and parted again, with the batch baked in everywhere."""
    nodes = [
        _n("MatMul", "x wq", "q0"), _n("MatMul", "x wk", "k0"), _n("MatMul", "x wv", "v0"),
        _n("Reshape", "q0 split", "q1"), _n("Reshape", "k0 split", "k1"), _n("Reshape", "v0 split", "v1"),
        _n("Transpose", "q1", "q2", perm=[0, 2, 1, 3]), _n("Transpose", "k1", "k2", perm=[0, 2, 3, 1]),
        _n("Transpose", "v1", "v2", perm=[0, 2, 1, 3]),
        _n("Reshape", "q2 heads", "q"), _n("Reshape", "k2 heads_t", "k"), _n("Reshape", "v2 heads", "v"),
        _n("MatMul", "q k", "s"), _n("Softmax", "s", "p", axis=-1), _n("MatMul", "p v", "o"),
        _n("Reshape", "o parted", "o1"), _n("Transpose", "o1", "o2", perm=[0, 2, 1, 3]),
        _n("Reshape", "o2 merged", "o3"), _n("Add", "o3 x", "y"),
    ]  # fmt: skip
    constants = {
        "wq": _f(8, 8), "wk": _f(8, 8), "wv": _f(8, 8), "split": _i(lead, 5, 2, 4), "heads": _i(lead * 2, 5, 4),
        "heads_t": _i(lead * 2, 4, 5), "parted": _i(lead, 2, 5, 4), "merged": _i(lead, 5, 8),
    }  # fmt: skip
    return nodes, {"x": (lead, 5, 8)}, constants


def _packed_attention(lead: int) -> Case:
    """Queries, keys and values lead: (3, batch, heads, …) flattened to (3, batch × heads, …), as Swin and BEiT do."""
    nodes = [
        _n("MatMul", "x w", "a"), _n("Reshape", "a parted", "b"), _n("Transpose", "b", "c", perm=[2, 0, 3, 1, 4]),
        _n("Reshape", "c flat", "d"), _n("Split", "d", "q0 k0 v0", axis=0), _n("Reshape", "q0 one", "q"),
        _n("Reshape", "k0 one", "k"), _n("Reshape", "v0 one", "v"), _n("Mul", "q k", "s"), _n("Add", "s v", "t"),
        _n("Reshape", "t back", "u"), _n("Transpose", "u", "y0", perm=[0, 2, 1, 3]), _n("Reshape", "y0 out", "y"),
    ]  # fmt: skip
    constants = {
        "w": _f(8, 24), "parted": _i(lead, 5, 3, 2, 4), "flat": _i(3, lead * 2, 5, 4), "one": _i(lead * 2, 5, 4),
        "back": _i(lead, 2, 5, 4), "out": _i(lead, 5, 8),
    }  # fmt: skip
    return nodes, {"x": (lead, 5, 8)}, constants


def _token(lead: int) -> Case:
    """A learned token expanded to the batch before the patches, then a position for each (ViT)."""
    nodes = [
        _n("Conv", "x w", "c", strides=[2, 2]), _n("Reshape", "c flat", "p0"),
        _n("Transpose", "p0", "p", perm=[0, 2, 1]), _n("Expand", "token shape", "cls"),
        _n("Concat", "cls p", "s", axis=1), _n("Add", "s positions", "z"),
        _n("Gather", "z zero", "y", axis=1),
    ]  # fmt: skip
    constants = {
        "w": _f(6, 3, 2, 2), "flat": _i(lead, 6, 4), "token": _f(1, 1, 6), "shape": _i(lead, 1, 6),
        "positions": _f(1, 5, 6), "zero": np.asarray(0),
    }  # fmt: skip
    return nodes, {"x": (lead, 3, 4, 4)}, constants


def _lstm(lead: int) -> Case:
    """Time-major, with zero states of the file's batch."""
    nodes = [
        _n("Transpose", "x", "t", perm=[1, 0, 2]), _n("LSTM", "t w r b _ h c", "a last", hidden_size=4),
        _n("Squeeze", "a one", "s"), _n("Transpose", "s", "u", perm=[1, 0, 2]), _n("Reshape", "u flat", "v"),
        _n("MatMul", "v m", "y"),
    ]  # fmt: skip
    constants = {
        "w": _f(1, 16, 3), "r": _f(1, 16, 4), "b": _f(1, 32), "h": np.zeros((1, lead, 4), np.float32),
        "c": np.zeros((1, lead, 4), np.float32), "one": _i(1), "flat": _i(lead, 20), "m": _f(20, 2),
    }  # fmt: skip
    return nodes, {"x": (lead, 5, 3)}, constants


def _gru_last(lead: int) -> Case:
    """The last state of both directions, (2, batch, hidden) to (batch, 2 × hidden)."""
    nodes = [
        _n("Transpose", "x", "t", perm=[1, 0, 2]),
        _n("GRU", "t w r _ _ h", "a last", hidden_size=4, direction="bidirectional"),
        _n("Transpose", "last", "u", perm=[1, 0, 2]), _n("Reshape", "u flat", "y"),
    ]  # fmt: skip
    constants = {"w": _f(2, 12, 3), "r": _f(2, 12, 4), "h": np.tile(_f(2, 1, 4), (1, lead, 1)), "flat": _i(lead, 8)}
    return nodes, {"x": (lead, 5, 3)}, constants


def _time_merged(lead: int) -> Case:
    """Time and batch merged outside of a product: (T, batch, C) to (T × batch, C) and back."""
    nodes = [
        _n("Transpose", "x", "t", perm=[1, 0, 2]), _n("Reshape", "t flat", "f"), _n("Gemm", "f m", "g"),
        _n("Reshape", "g back", "h"), _n("Transpose", "h", "y", perm=[1, 0, 2]),
    ]  # fmt: skip
    return nodes, {"x": (lead, 5, 3)}, {"flat": _i(5 * lead, 3), "m": _f(3, 2), "back": _i(5, lead, 2)}


def _two_inputs(lead: int) -> Case:
    nodes = [_n("Concat", "a b", "c", axis=1), _n("Reshape", "c t", "d"), _n("Add", "d k", "y")]
    return nodes, {"a": (lead, 2, 3), "b": (lead, 4, 3)}, {"t": _i(lead, 18), "k": np.tile(_f(1, 18), (lead, 1))}


def _concat_constant(lead: int) -> Case:
    return [_n("Concat", "k x", "y", axis=1)], {"x": (lead, 3)}, {"k": np.full((lead, 2), 0.5, np.float32)}


def _shape_arithmetic(lead: int) -> Case:
    """Zeros of the input's batch, joined with it, as exporters with dynamic axes write it."""
    nodes = [
        _n("Shape", "x", "s"), _n("Gather", "s zero", "n"), _n("Concat", "n two", "t", axis=0),
        _n("ConstantOfShape", "t", "k"), _n("Concat", "x k", "y", axis=1),
    ]  # fmt: skip
    return nodes, {"x": (lead, 3)}, {"zero": _i(0), "two": _i(2)}


def _expanded(lead: int) -> Case:
    return [_n("Expand", "x t", "y")], {"x": (lead, 1, 3)}, {"t": _i(lead, 4, 3)}


def _resized(lead: int) -> Case:
    return [_n("Resize", "x _ _ t", "y", mode="nearest")], {"x": (lead, 2, 3, 3)}, {"t": _i(lead, 2, 6, 6)}


def _gathered(lead: int) -> Case:
    index = np.tile(np.asarray([[2, 0]]), (lead, 1))
    return [_n("GatherElements", "x i", "y", axis=1)], {"x": (lead, 3)}, {"i": index}


def _sliced(lead: int) -> Case:
    return [_n("Slice", "x b e a", "y")], {"x": (lead, 5)}, {"b": _i(0, 1), "e": _i(lead, 4), "a": _i(0, 1)}


def _norm_and_pool(lead: int) -> Case:
    nodes = [
        _n("BatchNormalization", "x s b m v", "n"), _n("GlobalAveragePool", "n", "p"), _n("Flatten", "p", "f"),
        _n("Softmax", "f", "y", axis=1),
    ]  # fmt: skip
    statistics = {"s": _f(3), "b": _f(3), "m": _f(3), "v": np.abs(_f(3)) + 1}
    return nodes, {"x": (lead, 3, 4, 4)}, statistics


def _mask(lead: int) -> Case:
    """A mask of the file's batch, by Where."""
    mask = np.tile(np.asarray([[True, False, True]]), (lead, 1))
    return [_n("Where", "m x k", "y")], {"x": (lead, 3)}, {"m": mask, "k": np.full((lead, 3), -9, np.float32)}


def _constant_output(lead: int) -> Case:
    return [_n("Mul", "k k", "y"), _n("Relu", "x", "z")], {"x": (lead, 3)}, {"k": np.tile(_f(1, 2), (lead, 1))}


MENDED: dict[str, Callable[[int], Case]] = {
    "reshape to rows": _reshape_of_rank(99, 24),
    "reshape with a rest": _reshape_of_rank(99, -1),
    "reshape where the batch is the rest": _reshape_of_rank(-1, 6, 4),
    "reshape with copied sizes": _reshape_of_rank(99, 0, -1),
    "reshape to more axes": _reshape_of_rank(99, 2, 3, 2, 2),
    "attention": _attention,
    "packed attention": _packed_attention,
    "learned token": _token,
    "LSTM": _lstm,
    "GRU's last states": _gru_last,
    "time and batch merged": _time_merged,
    "two inputs": _two_inputs,
    "concat with a constant": _concat_constant,
    "shape arithmetic": _shape_arithmetic,
    "expand": _expanded,
    "resize to sizes": _resized,
    "gather elements": _gathered,
    "slice up to the batch": _sliced,
    "norm, pool, flatten, softmax": _norm_and_pool,
    "mask": _mask,
    "constant output": _constant_output,
}


@pytest.mark.parametrize(("old", "new"), [(1, 3), (2, 3), (2, 1), (3, 8)], ids=str)
@pytest.mark.parametrize("name", MENDED)
def test_a_baked_batch_is_mended(name, old, new, make, run, distance):
    nodes, inputs, constants = MENDED[name](old)
    made = {output for node in nodes for output in node.output}
    outputs = [name for name in ("y", "z") if name in made]
    model = make(nodes, inputs, constants, outputs=outputs)
    imported = import_onnx(model, batch=new)
    assert imported.batch == new
    feeds = {value.name: _f(*value.type.shape) for value in imported.graph.inputs}
    ours = run(imported.model, feeds)
    for first in range(new):
        rows = np.resize(np.arange(first, min(first + old, new)), old)
        wanted = run(model, {name: array[rows] for name, array in feeds.items()})
        for got, want in zip(ours, wanted, strict=True):
            assert distance(got[first], want[0]) <= 1e-5
    if all(node.op.name != "opaque" for node in imported.graph.nodes):
        for got, want in zip(evaluate(imported.graph, feeds), ours, strict=True):
            assert distance(got, want) <= 1e-5


def _across(kind: str, **attributes: object) -> Case:
    return [_n("Relu", "x", "a"), _n(kind, "a", "y", **attributes)], {"x": (1, 4)}, {}


def _training(lead: int) -> Case:
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "rm", "rv"], training_mode=1)
    node.name = "BatchNormalization_y"
    return [node], {"x": (lead, 3, 4, 4)}, {"s": _f(3), "b": _f(3), "m": _f(3), "v": np.abs(_f(3)) + 1}


def _centred(lead: int) -> Case:
    nodes = [_n("ReduceMean", "x", "m", axes=[0], keepdims=1), _n("Sub", "x m", "y")]
    return nodes, {"x": (lead, 4)}, {}


def _similar(lead: int) -> Case:
    return [_n("Transpose", "x", "t", perm=[1, 0]), _n("MatMul", "x t", "y")], {"x": (lead, 4)}, {}


def _first(lead: int) -> Case:
    return [_n("Gather", "x zero", "f", axis=0), _n("Unsqueeze", "f zero1", "y")], {"x": (lead, 4)}, {
        "zero": np.asarray(0), "zero1": _i(0)
    }  # fmt: skip


def _per_row(lead: int) -> Case:
    """A constant that is another one for each example."""
    return [_n("Add", "x k", "y")], {"x": (lead, 4)}, {"k": _f(lead, 4)}


def _batch_in_time(lead: int) -> Case:
    """A recurrence over the batch axis."""
    nodes = [_n("Reshape", "x t", "a"), _n("RNN", "a w r", "b", hidden_size=4), _n("Reshape", "b u", "y")]
    return nodes, {"x": (lead, 3)}, {"w": _f(1, 4, 3), "r": _f(1, 4, 4), "t": _i(-1, 1, 3), "u": _i(-1, 4)}


REFUSED: dict[str, tuple[Case, str]] = {
    "softmax over the batch": (_across("Softmax", axis=0), "node 'Softmax_y'"),
    "cumulated over the batch": (
        ([_n("CumSum", "x zero", "y")], {"x": (1, 4)}, {"zero": np.asarray(0)}),
        "node 'CumSum_y'",
    ),
    "mean over the batch": (_across("ReduceMean", axes=[0], keepdims=1), "node 'ReduceMean_y'"),
    "normalised in training": (_training(2), "node 'BatchNormalization_y'"),
    "centred over the batch": (_centred(2), "node 'ReduceMean_m'"),
    "examples against each other": (_similar(1), "node 'MatMul_y'"),
    "the first example": (_first(1), "node 'Gather_f'"),
    "a constant for each example": (_per_row(2), "node 'Add_y'"),
    "a recurrence over the batch": (_batch_in_time(2), "node 'RNN_b'"),
    "normalised over the batch": (_across("LpNormalization", axis=0), "node 'LpNormalization_y'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_examples_is_refused_and_its_node_named(name, make):
    (nodes, inputs, constants), where = REFUSED[name]
    model = make(nodes, inputs, constants, opset=15)
    import_onnx(model)
    with pytest.raises(ModelError, match=f"{where}.*cannot become 5"):
        import_onnx(model, batch=5)


def test_an_open_batch_is_proven_too(make):
    model = make([_n("Softmax", "x", "y", axis=0)], {"x": ("N", 4)})
    import_onnx(model, {"x": [5, 4]})
    with pytest.raises(ModelError, match=r"node 'Softmax_y' .* one by one"):
        import_onnx(model, batch=5)


def test_a_baked_batch_beside_an_open_one_is_mended(make, run, distance):
    model = make([_n("Reshape", "x t", "y")], {"x": ("N", 2, 3)}, {"t": _i(1, -1)})
    imported = import_onnx(model, batch=4)
    x = _f(4, 2, 3)
    assert distance(run(imported.model, {"x": x})[0], x.reshape(4, 6)) == 0
