"""Graphs with their assignment to Relax modules."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from joulec.passes.graph import (
    Activation,
    Concat,
    Conv2d,
    Graph,
    MatMul,
    MaxPool2d,
    Node,
    Reshape,
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
from joulec.passes.kernels.target import cpu_target
from joulec.passes.relax.export import Exporter
from joulec.passes.search.choices import Choice

RNG = np.random.default_rng(0)
RELU = Step("activation", "relu")


def constant(*shape):
    return literal(RNG.standard_normal(shape).astype("float32"))


def network(kernel=None, batch=1):
    """Convolution with epilogue, split, pool, concat, transpose, reshape, matmul."""
    x = Value.input("x", TensorType((batch, 4, 6, 6)))
    kernel = kernel if kernel is not None else literal(np.ones((8, 4, 3, 3), "float32"))
    bias = literal(np.arange(8, dtype="float32"))
    conv = Node.make(Conv2d(padding=(1, 1, 1, 1)), (x, kernel, bias), (Step("bias"), RELU))
    parts = Node.make(Split(1, (3, 5)), conv.outputs)
    pooled = Node.make(MaxPool2d((2, 2), (2, 2)), parts.outputs[:1])
    other = Node.make(MaxPool2d((3, 3), (2, 2), (1, 1, 0, 0)), parts.outputs[1:])
    joined = Node.make(Concat(1), (other.outputs[0], pooled.outputs[0]))
    turned = Node.make(Transpose((0, 2, 3, 1)), joined.outputs)
    flat = Node.make(Reshape((batch, 72)), turned.outputs)
    dense = Node.make(MatMul(), (flat.outputs[0], literal(np.full((72, 3), 0.01, "float32"))))
    nodes = [conv, parts, pooled, other, joined, turned, flat, dense]
    return Graph.build([x], [dense.outputs[0], conv.outputs[0]], nodes, ["scores", "features"])


def assert_means(tools, graph, assignment, **options):
    """The exported module computes what the graph means."""
    given = tools.given_for(graph.inputs)
    found = tools.run_module(tools.exported(graph, assignment, **options), *given.values())
    wanted = evaluate(graph, given)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("assign", ["plain", "native"])
def test_a_graph_means_the_same_under_any_assignment(tools, assign):
    graph = network()
    assert_means(tools, graph, getattr(tools, assign)(graph))


@pytest.mark.parametrize(("threads", "size", "shared"), [(2, 64, True), (2, 8, False), (1, 64, False)])
def test_whether_a_module_starts_threads(tools, threads, size, shared):
    x = Value.input("x", TensorType((1, 16, size, size)))
    node = Node.make(Conv2d(), (x, constant(16, 16, 1, 1)))
    graph = Graph.build([x], node.outputs, [node])
    algorithm = tools.back_end(target=cpu_target("llvm", threads)).algorithms(node.spec)[0]
    assert algorithm.kernel is not None
    exporter = Exporter()
    exporter.add("main", graph, {node: Choice(algorithm, tools.FREE)})
    assert exporter.finish().parallel is shared


def test_weight_expressions_are_folded(tools):
    a, b = constant(3, 4, 3, 3), constant(5, 4, 1, 1)
    kernel = concatenated((a, padded(b, ((0, 0), (0, 0), (1, 1), (1, 1)))), 0)
    graph = network(kernel)
    assert_means(tools, graph, tools.native(graph))


class TestOutputs:
    """What a function returns."""

    X = Value.input("x", TensorType((2, 3)))

    def test_an_input_itself(self, tools):
        assert_means(tools, Graph.build([self.X], [self.X], []), {})

    def test_a_view_of_an_input_beside_the_input(self, tools):
        view = Node.make(Reshape((3, 2)), (self.X,))
        graph = Graph.build([self.X], [view.outputs[0], self.X], [view])
        assert_means(tools, graph, tools.plain(graph))

    def test_one_value_twice(self, tools):
        node = Node.make(Activation("tanh"), (self.X,))
        graph = Graph.build([self.X], [node.outputs[0], self.X, node.outputs[0]], [node])
        assert_means(tools, graph, tools.native(graph))

    def test_a_single_output_comes_in_a_tuple_or_alone(self, tools):
        node = Node.make(Activation("tanh"), (self.X,))
        graph = Graph.build([self.X], node.outputs, [node])
        for always, kind in ((True, relax.TupleType), (False, relax.TensorType)):
            exported = tools.exported(graph, tools.native(graph), always_tuple=always)
            assert isinstance(exported["main"].ret_ty, kind)

    def test_one_result_of_a_split(self, tools):
        node = Node.make(Split(1, (1, 2)), (self.X,))
        graph = Graph.build([self.X], node.outputs[1:], [node])
        for assign in (tools.plain, tools.native):
            assert_means(tools, graph, assign(graph))


@pytest.mark.parametrize(
    "names",
    [["a/b:0", "a_b_0"], ["0", "1"], ["", "input"], ["x", "x_2"], ["data-1", "data.1"], ["été", "日本"]],
)
def test_odd_parameter_names(tools, names):
    a, b = (Value(index + 1, TensorType((2,)), name) for index, name in enumerate(names))
    node = Node.make(Activation("exp"), (a,))
    graph = Graph.build([a, b], [node.outputs[0], b], [node], ["p", "q"])
    exported = tools.exported(graph, tools.native(graph))
    parameters = [parameter.name for parameter in exported["main"].params]
    assert len(set(parameters)) == 2
    assert all(name and not name[0].isdigit() for name in parameters)
    found = tools.run_module(exported, np.zeros(2, "float32"), np.full(2, 7, "float32"))
    np.testing.assert_equal(found, [[1, 1], [7, 7]])


class TestSharing:
    """Several entries in one module."""

    def test_weights_of_equal_content_are_kept_once(self, tools):
        exporter = Exporter()
        for batch in (1, 2):
            graph = network(batch=batch)
            exporter.add(f"main_b{batch}", graph, tools.plain(graph))
        exported = exporter.finish()
        one, two = exported.entries
        assert (one.function, two.function) == ("main_b1", "main_b2")
        assert one.weights == two.weights
        assert len(exported.weights) == len(one.weights) == 3
        contents = {(array.shape, array.tobytes()) for array in exported.weights.values()}
        assert len(contents) == len(exported.weights)
        for entry in exported.entries:
            function = exported.module[entry.function]
            assert int(function.attrs["num_input"]) == 1
            assert len(function.params) == 1 + len(entry.weights)

    def test_two_operands_of_equal_content_are_one_weight(self, tools):
        x = Value.input("x", TensorType((2, 3)))
        first = Node.make(MatMul(), (x, literal(np.eye(3, dtype="float32"))))
        second = Node.make(MatMul(), (first.outputs[0], literal(np.eye(3, dtype="float32"))))
        graph = Graph.build([x], second.outputs, [first, second])
        exporter = Exporter()
        exporter.add("main", graph, tools.native(graph))
        exported = exporter.finish()
        assert len(exported.weights) == len(exported.entries[0].weights) == 1

    def test_nodes_of_one_spec_share_their_kernel(self, tools):
        exporter = Exporter()
        for name in ("first", "second"):
            graph = network()
            exporter.add(name, graph, tools.native(graph))
        exported = exporter.finish()
        kernels = [f for f in exported.module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
        running = {node.spec for node in network().nodes if not node.op.is_view}
        assert len(kernels) == len(running)

    def test_a_weight_is_packed_once_for_each_reader_that_packs_it_otherwise(self, tools):
        x = Value.input("x", TensorType((4, 64)))
        shared = constant(64, 64)
        first = Node.make(MatMul(), (x, shared))
        second = Node.make(MatMul(True), (first.outputs[0], shared))
        graph = Graph.build([x], second.outputs, [first, second])
        assert_means(tools, graph, tools.native(graph))

    def test_parameters_come_in_the_order_of_the_digests(self, tools):
        graph = network()
        exporter = Exporter()
        exporter.add("main", graph, tools.native(graph))
        exported = exporter.finish()
        given = tools.given_for(graph.inputs)
        weights = [exported.weights[digest] for digest in exported.entries[0].weights]
        found = tools.run_module(exported.module, *given.values(), *weights)
        np.testing.assert_allclose(found[0], evaluate(graph, given)[0], rtol=1e-4, atol=1e-4)

    def test_functions_of_the_base_come_along(self, tools):
        base = tools.module(lambda builder, x: relax.op.exp(x), (2,))
        x = Value.input("x", TensorType((2,)))
        node = Node.make(Activation("tanh"), (x,))
        exporter = Exporter(base, embed=True)
        exporter.add(
            "other",
            Graph.build([x], node.outputs, [node]),
            {node: tools.native(Graph.build([x], node.outputs, [node]))[node]},
        )
        exported = exporter.finish().module
        zero = np.zeros(2, "float32")
        np.testing.assert_equal(tools.run_module(exported, zero)[0], [1, 1])
        np.testing.assert_equal(tools.run_module(exported, zero, function="other")[0], [0, 0])


def test_attributes_are_the_callers(tools):
    x = Value.input("x", TensorType((2,)))
    node = Node.make(Activation("tanh"), (x,))
    graph = Graph.build([x], node.outputs, [node])
    exported = tools.exported(graph, tools.native(graph), attributes={"mine": "kept"})
    assert exported["main"].attrs["mine"] == "kept"
    assert "num_input" not in exported["main"].attrs
