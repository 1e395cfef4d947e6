"""Graphs written as ONNX compute what the graph means, and read back as the same graph."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

from joulec.passes import graph as graphs
from joulec.passes.canonical import canonicalise
from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    Graph,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Opaque,
    Operator,
    Pad,
    PlacedConcat,
    PooledConv2d,
    Reshape,
    Softmax,
    Split,
    Step,
    TensorType,
    Transpose,
    Value,
    concatenated,
    literal,
    padded,
)
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.graph.operators import ACTIVATIONS, BINARIES
from joulec.passes.onnx import import_onnx
from joulec.passes.onnx.exporter import ExportError, export_onnx
from joulec.passes.onnx.exporter_operators import EXPORTERS
from joulec.passes.onnx.reference import onnx_reference

X = (2, 4, 7, 6)

PARAMS = {"clip": (-0.5, 0.7), "leaky_relu": (0.3,), "hard_sigmoid": (0.2, 0.5)}

OPERATORS = [
    *(Activation(kind, PARAMS.get(kind, ())) for kind in ACTIVATIONS),
    *(Binary(kind) for kind in BINARIES),
]
CASES = [
    *((op, [X] * (2 if isinstance(op, Binary) else 1), []) for op in OPERATORS),
    (Activation("clip", (0.0, float("inf"))), [X], []),
    (Add(), [X], []),
    (Add(), [X, (1, 4, 1, 1)], []),
    (Add(), [X, X, X], []),
    (AvgPool2d((3, 2), (2, 1), (1, 0, 1, 1)), [X], []),
    (AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True), [X], []),
    (AvgPool2d((2, 2), (2, 2), (0, 0, 0, 0), ceil_mode=True), [X], []),
    (AvgPool2d((2, 2), (1, 1), dilation=(2, 1)), [X], []),
    (MaxPool2d((3, 2), (2, 1), (1, 0, 1, 1)), [X], []),
    (MaxPool2d((2, 2), (2, 2), (0, 0, 0, 0), (2, 1), ceil_mode=True), [X], []),
    (ChannelAffine(), [X], [(4,), (4,)]),
    (ChannelAffine(), [(2, 4)], [(4,), (4,)]),
    (Concat(1), [X, (2, 3, 7, 6), X], []),
    (PlacedConcat(1), [X, (2, 3, 7, 6)], []),
    (PooledConv2d(Conv2d((1, 2), (1, 0, 1, 0)), MaxPool2d((2, 2))), [X], [(5, 4, 3, 2)]),
    (Conv2d(), [X], [(5, 4, 3, 3)]),
    (Conv2d((2, 1), (1, 0, 2, 1), (1, 2), 2), [X], [(6, 2, 3, 2)]),
    (Conv2d(), [X, (5, 4, 3, 3)], []),
    (LayerNorm(2, 1e-3), [X], []),
    (LayerNorm(3, 0.0625), [X], [(6,)]),
    (LayerNorm(1, 0.125), [X], [(4, 7, 6), (4, 7, 6)]),
    (LocalResponseNorm(3, 0.1, 0.5, 2.0), [X], []),
    (LocalResponseNorm(5), [X], []),
    (MatMul(), [(3, 4)], [(4, 5)]),
    (MatMul(transpose_b=True), [(3, 4)], [(5, 4)]),
    (MatMul(transpose_b=True), [(2, 3, 4)], [(5, 4)]),
    (MatMul(transpose_b=True), [(2, 3, 4), (2, 5, 4)], []),
    (MatMul(), [(2, 1, 3, 4), (3, 4, 5)], []),
    (Pad(((0, 0), (1, 0), (0, 2), (3, 1)), 1.5), [X], []),
    (Pad(((0, 1), (1, 0)), -np.inf), [(2, 3)], []),
    (Reshape((4, 84)), [X], []),
    (Softmax(1), [X], []),
    (Split(1, (1, 3)), [X], []),
    (Transpose((0, 2, 3, 1)), [X], []),
]


def build(op, shapes, weights, epilogue=(), extra=(), seed=0):
    rng = np.random.default_rng(seed)
    inputs = tuple(Value.input(f"in{index}", TensorType(shape)) for index, shape in enumerate(shapes))
    constants = tuple(literal(rng.standard_normal(shape).astype("f")) for shape in weights)
    node = Node.make(op, (*inputs, *constants, *extra), tuple(epilogue), name="node")
    return Graph.build(inputs, node.outputs, [node], [f"out{index}" for index in range(len(node.outputs))])


def feeds_of(graph, seed=1):
    rng = np.random.default_rng(seed)
    return {
        value.name: np.abs(rng.standard_normal(value.type.shape)).astype(value.type.dtype) + 0.1
        if value.type.dtype == "float32"
        else rng.integers(0, 2, value.type.shape).astype(value.type.dtype)
        for value in graph.inputs
    }


def agrees(graph, model, distance):
    feeds = feeds_of(graph)
    for got, wanted in zip(onnx_reference(model).run(feeds), evaluate(graph, feeds), strict=True):
        finite = np.isfinite(wanted)
        assert np.array_equal(got[~finite], wanted[~finite])
        assert distance(np.where(finite, got, 0), np.where(finite, wanted, 0)) <= 1e-5


def is_kept(op, weights):
    """Whether ONNX has the operator in the same words (it has no transposed stack, and no LayerNorm without scale)."""
    if isinstance(op, MatMul):
        return not op.transpose_b
    return bool(weights) if isinstance(op, LayerNorm) else isinstance(op, (Conv2d, MaxPool2d, AvgPool2d, Softmax))


def settled(graph):
    return canonicalise(graph, lambda spec, step: False)


@pytest.mark.parametrize(("op", "shapes", "weights"), CASES, ids=lambda part: str(part)[:50])
def test_every_operator_is_written_and_read_back(op, shapes, weights, distance):
    graph = build(op, shapes, weights)
    model = export_onnx(graph, "one")
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.name == "one"
    assert [value.name for value in model.graph.input] == [value.name for value in graph.inputs]
    assert [value.name for value in model.graph.output] == list(graph.output_names)
    agrees(graph, model, distance)
    back = import_onnx(model).graph
    feeds = feeds_of(graph)
    for got, wanted in zip(evaluate(back, feeds), evaluate(graph, feeds), strict=True):
        assert np.allclose(got, wanted, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("op", "shapes", "weights"),
    [case for case in CASES if is_kept(case[0], case[2])],
    ids=lambda part: str(part)[:50],
)
def test_what_is_read_back_costs_the_same(op, shapes, weights):
    graph = build(op, shapes, weights)
    wanted = [node.spec for node in settled(graph).nodes]
    assert [node.spec for node in settled(import_onnx(export_onnx(graph)).graph).nodes] == wanted


def subclasses(kind):
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_operator_has_an_exporter_and_a_case():
    operators = {one for one in subclasses(Operator) if not one.__name__.startswith("_")}
    operators = {one for one in operators if one.__module__.startswith(graphs.__name__)}
    operators = {one for one in operators if getattr(sys.modules[one.__module__], one.__name__) is one}
    assert operators == set(EXPORTERS)
    assert operators - {Opaque} == {type(op) for op, _, _ in CASES}


def test_an_operator_without_exporter_is_named():
    @dataclasses.dataclass(frozen=True)
    class Mystery(Operator):
        def infer(self, operands):
            return (operands[0],)

    with pytest.raises(ExportError, match=r"cannot write node to ONNX.*Mystery"):
        export_onnx(build(Mystery(), [X], []))


RELU = Step("activation", "relu")
GELU = Step("activation", "gelu")


@pytest.mark.parametrize("steps", ["b", "br", "r", "ba", "bar", "a", "ab", "rb", "bg", "bb"])
@pytest.mark.parametrize(
    ("op", "shapes", "weights", "channels"),
    [
        (Conv2d(padding=(1, 1, 1, 1)), [X], [(4, 4, 3, 3)], 4),
        (MatMul(), [(3, 4)], [(4, 5)], 5),
        (MatMul(transpose_b=True), [(2, 3, 4)], [(5, 4)], 5),
        (MatMul(), [(2, 3, 3, 4)], [(4, 5)], 3),
        (MaxPool2d((3, 3), (1, 1), (1, 1, 1, 1)), [X], [], 4),
    ],
    ids=str,
)
def test_epilogues_are_written_out(op, shapes, weights, channels, steps, distance):
    rng = np.random.default_rng(5)
    result = op.infer([TensorType(shape) for shape in (*shapes, *weights)])[0]
    epilogue, extra = [], []
    for step in steps:
        epilogue.append({"b": Step("bias"), "a": Step("add"), "r": RELU, "g": GELU}[step])
        if step == "b":
            extra.append(literal(rng.standard_normal(channels).astype("f")))
        elif step == "a":
            extra.append(literal(rng.standard_normal(result.shape).astype("f")))
    graph = build(op, shapes, weights, epilogue, extra)
    agrees(graph, export_onnx(graph), distance)


def test_weights_are_folded_and_stored_once_per_content(distance):
    rng = np.random.default_rng(0)
    kernel = literal(rng.standard_normal((3, 4, 1, 1)).astype("f"))
    grown = padded(kernel, ((0, 0), (0, 0), (1, 1), (1, 1)))
    joined = concatenated((grown, grown), 0)
    same = literal(joined.value())
    x = Value.input("x", TensorType(X))
    nodes = [Node.make(Conv2d(padding=(1, 1, 1, 1)), (x, weight), name=name) for name, weight in
             (("first", joined), ("second", same))]  # fmt: skip
    graph = Graph.build([x], [node.outputs[0] for node in nodes], nodes, ["a", "b"])
    model = export_onnx(graph)
    assert [tuple(tensor.dims) for tensor in model.graph.initializer] == [(6, 4, 3, 3)]
    agrees(graph, model, distance)


def test_outputs_that_are_inputs_or_come_twice_keep_their_names(distance):
    x = Value.input("x", TensorType(X))
    node = Node.make(Activation("relu"), (x,), name="a")
    graph = Graph.build([x], [node.outputs[0], x, node.outputs[0]], [node], ["a", "b", "c"])
    model = export_onnx(graph)
    assert [value.name for value in model.graph.output] == ["a", "b", "c"]
    agrees(graph, model, distance)


def test_names_that_would_clash_are_changed(distance):
    x = Value.input("n", TensorType(X))
    first = Node.make(Activation("relu"), (x,), name="n")
    second = Node.make(Activation("tanh"), first.outputs, name="n")
    graph = Graph.build([x], second.outputs, [first, second], ["y"])
    model = export_onnx(graph)
    names = [output for node in model.graph.node for output in node.output]
    assert len({*names, "n"}) == len(names) + 1
    assert len({node.name for node in model.graph.node}) == 2
    agrees(graph, model, distance)


def test_opaque_nodes_are_put_back_as_they_were(make, run, distance):
    weights = np.random.default_rng(0).standard_normal((3, 64, 64)).astype("f")
    model = make(
        [
            helper.make_node("Einsum", ["x", "w"], ["e"], equation="bi,kij->bkj"),
            helper.make_node("Mish", ["e"], ["m"]),
            helper.make_node("CumSum", ["m", "axis"], ["y"], reverse=1),
        ],
        {"x": (2, 64)},
        {"w": weights, "axis": np.array(1)},
        opset=18,
    )
    imported = import_onnx(model)
    assert {node.op.kind for node in imported.graph.nodes if isinstance(node.op, Opaque)} == {
        "Einsum",
        "Mish",
        "CumSum",
    }
    written = export_onnx(imported.graph)
    kept = {node.op_type: node for node in written.graph.node}
    assert helper.get_node_attr_value(kept["CumSum"], "reverse") == 1
    assert helper.get_node_attr_value(kept["Einsum"], "equation") == b"bi,kij->bkj"
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 64)).astype("f")}
    assert distance(run(written, feeds)[0], run(model, feeds)[0]) <= 1e-6


def test_nested_graphs_read_the_right_values(make, run, distance):
    def branch(name, op):
        body = [helper.make_node(op, ["a"], ["t"]), helper.make_node("Mul", ["t", "a"], [f"{name}_out"])]
        out = helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, (2, 3))
        return helper.make_graph(body, name, [], [out])

    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("then", "Exp"), else_branch=branch("else", "Neg")),
    ]
    model = make(nodes, {"x": (2, 3)}, {"zero": np.zeros((), "f")}, opset=17)
    imported = import_onnx(model)
    assert any(isinstance(node.op, Opaque) and node.op.kind == "If" for node in imported.graph.nodes)
    written = export_onnx(imported.graph)
    for sign in (1, -1):
        feeds = {"x": sign * np.abs(np.random.default_rng(2).standard_normal((2, 3))).astype("f")}
        assert distance(run(written, feeds)[0], run(model, feeds)[0]) <= 1e-6


def test_what_relax_alone_defines_is_refused():
    op = Opaque("te", "relax", b"{}", (TensorType(X),), (TensorType(X),))
    with pytest.raises(ExportError, match="Relax"):
        export_onnx(build(op, [X], []))
