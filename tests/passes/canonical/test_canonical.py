"""Each simplification: before, after, where it must not apply, and the same result in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import (
    Activation,
    Add,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    Graph,
    MatMul,
    MaxPool2d,
    Node,
    NodeSpec,
    Opaque,
    Reshape,
    Split,
    Step,
    TensorType,
    Transpose,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate

RNG = np.random.default_rng(11)
BIAS, ADD, RELU = Step("bias"), Step("add"), Step("activation", "relu")


def weight(*shape: int):
    return literal(RNG.standard_normal(shape).astype(np.float32))


def every(spec: NodeSpec, step: Step) -> bool:
    return True


def paper(spec: NodeSpec, step: Step) -> bool:
    """What the replayed measurements can price: bias and ReLU on convolution, ReLU on pooling."""
    if isinstance(spec.op, Conv2d):
        return step in (BIAS, RELU) and RELU not in spec.epilogue
    return isinstance(spec.op, MaxPool2d) and step == RELU and not spec.epilogue


class Net:
    """Builds a graph over one image x[2,4,6,6], or a matrix."""

    def __init__(self, *shape: int) -> None:
        self.x = Value.input("x", TensorType(shape or (2, 4, 6, 6)))
        self.nodes: list[Node] = []

    def __call__(self, op, *operands, epilogue=(), name="") -> Value:
        node = Node.make(op, operands, epilogue, name=name)
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, data, bias=False, channels=4) -> Value:
        operands = (data, weight(channels, data.type.shape[1], 3, 3), *([weight(channels)] if bias else []))
        return self(Conv2d(padding=(1, 1, 1, 1)), *operands, epilogue=(BIAS,) if bias else ())

    def affine(self, data) -> Value:
        return self(ChannelAffine(), data, weight(data.type.shape[1]), weight(data.type.shape[1]))

    def graph(self, *outputs: Value) -> Graph:
        return Graph.build([self.x], outputs, self.nodes)


def check(graph: Graph, fuses: Callable[[NodeSpec, Step], bool] = every) -> list[str]:
    """Canonicalise, compare in numpy, and tell the nodes; a second run must change nothing."""
    canonical = canonicalise(graph, fuses)
    assert canonicalise(canonical, fuses) is canonical
    feeds = {value.name: RNG.standard_normal(value.type.shape).astype(np.float32) for value in graph.inputs}
    for got, want in zip(evaluate(canonical, feeds), evaluate(graph, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    assert canonical.output_names == graph.output_names
    return ["+".join([node.op.name, *map(str, node.epilogue)]) for node in canonical.nodes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fuses", [every, paper])
def test_affine_folds_into_convolution(bias, fuses):
    net = Net()
    out = net(Activation("relu"), net.affine(net.conv(net.x, bias)))
    assert check(net.graph(out), fuses) == ["conv2d+bias+relu"]


@pytest.mark.parametrize("transposed", [False, True])
def test_affine_folds_into_matrix_product(transposed):
    net = Net(3, 5)
    product = net(MatMul(transposed), net.x, weight(7, 5) if transposed else weight(5, 7))
    assert check(net.graph(net.affine(product))) == ["matmul+bias"]


def test_affine_stays_on_a_batched_product_whose_columns_are_no_channels():
    net = Net(2, 3, 5)
    assert check(net.graph(net.affine(net(MatMul(), net.x, weight(5, 7))))) == ["matmul", "channel_affine"]


def test_affine_stays_where_the_convolution_is_read_elsewhere():
    net = Net()
    conv = net.conv(net.x)
    assert check(net.graph(net.affine(conv), conv)) == ["conv2d", "channel_affine"]
    net = Net()
    conv = net.conv(net.x)
    out = net(Concat(1), net.affine(conv), net(MaxPool2d((1, 1)), conv))
    assert sorted(check(net.graph(out))) == ["channel_affine", "concat", "conv2d", "max_pool2d"]


def test_affine_stays_behind_an_activation_or_a_computed_kernel():
    net = Net()
    assert check(net.graph(net.affine(net(Activation("relu"), net.conv(net.x))))) == ["conv2d+relu", "channel_affine"]
    net = Net(4, 4, 3, 3)
    conv = net(Conv2d(), net.x, net.x)
    assert check(net.graph(net.affine(conv))) == ["conv2d", "channel_affine"]


def test_affines_merge():
    net = Net()
    out = net(Activation("relu"), net.affine(net.affine(net.affine(net.x))))
    assert check(net.graph(out)) == ["channel_affine+relu"]
    net = Net()
    first = net.affine(net.x)
    assert check(net.graph(net.affine(first), first)) == ["channel_affine", "channel_affine"]


def test_pure_scale_brings_no_bias():
    net = Net()
    zeros = literal(np.zeros(4, np.float32))
    assert check(net.graph(net(ChannelAffine(), net.conv(net.x), weight(4), zeros))) == ["conv2d"]


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,), ()])
def test_constant_per_channel_is_a_bias(shape):
    net = Net()
    out = net(Add(), weight(*shape), net.conv(net.x))
    assert check(net.graph(out)) == ["conv2d+bias"]
    net = Net()
    assert check(net.graph(net(Add(), net.conv(net.x, bias=True), weight(*shape)))) == ["conv2d+bias"]


def test_constant_along_another_axis_is_no_bias():
    net = Net()
    assert check(net.graph(net(Add(), net.conv(net.x), weight(6)))) == ["conv2d", "add"]


def test_constant_row_is_a_bias_of_a_batched_product():
    net = Net(2, 3, 5)
    assert check(net.graph(net(Add(), net(MatMul(), net.x, weight(5, 7)), weight(7)))) == ["matmul+bias"]


def test_shift_is_a_bias_of_a_convolution_with_a_computed_kernel():
    net = Net(4, 4, 3, 3)
    ones = literal(np.ones(4, np.float32))
    out = net(ChannelAffine(), net(Conv2d(), net.x, net.x), ones, weight(4))
    assert check(net.graph(out)) == ["conv2d+bias"]


def test_residual_goes_to_the_later_convolution():
    net = Net()
    early = net(Activation("relu"), net.conv(net.x))
    late = net.conv(early, bias=True)
    for operands in ((early, late), (late, early)):
        branch = Net()
        branch.nodes, branch.x = list(net.nodes), net.x
        out = branch(Activation("relu"), branch(Add(), *operands))
        assert check(branch.graph(out)) == ["conv2d+relu", "conv2d+bias+add+relu"]
        assert check(branch.graph(out), paper) == ["conv2d+relu", "conv2d+bias", "add", "activation"]


def test_of_two_free_convolutions_one_takes_the_sum():
    net = Net()
    out = net(Add(), net.conv(net.x), net.conv(net.x))
    graph = net.graph(out)
    canonical = canonicalise(graph, every)
    assert check(graph) == ["conv2d", "conv2d+add"]
    assert canonical.nodes[1].operands[1] == graph.nodes[1].operands[1], "the later one takes it"
    assert canonicalise(graph, every).key == canonical.key


def test_sums_that_do_not_fuse():
    net = Net()
    conv = net.conv(net.x)
    assert check(net.graph(net(Add(), conv, conv))) == ["conv2d", "add"]
    net = Net()
    conv = net.conv(net.x)
    assert check(net.graph(net(Add(), conv, net(Activation("relu"), conv)))) == ["conv2d", "activation+add"]
    net = Net()
    row = net(MaxPool2d((6, 6)), net.x)
    assert check(net.graph(net(Add(), row, net.x))) == ["max_pool2d", "add"]
    net = Net()
    assert check(net.graph(net(Add(), net.conv(net.x), net.conv(net.x), net.x))) == ["conv2d", "conv2d", "add"]


def test_activation_fuses_as_far_as_the_back_end_goes():
    net = Net()
    pooled = net(MaxPool2d((2, 2), (2, 2)), net.conv(net.x))
    out = net(Activation("sigmoid"), net(Activation("relu"), pooled))
    graph = net.graph(out)
    assert check(graph) == ["conv2d", "max_pool2d+relu+sigmoid"]
    assert check(graph, paper) == ["conv2d", "max_pool2d+relu", "activation"]
    assert check(graph, lambda spec, step: False) == ["conv2d", "max_pool2d", "activation", "activation"]


def test_product_with_its_own_activation_stays():
    net = Net()
    conv = net.conv(net.x)
    names = check(net.graph(net(Binary("mul"), conv, net(Activation("tanh"), conv))))
    assert names == ["conv2d", "activation", "binary"]


def test_an_intermediate_result_that_is_an_output_stays():
    net = Net()
    conv = net.conv(net.x)
    assert check(net.graph(conv, net(Activation("relu"), conv))) == ["conv2d", "activation"]


def test_views_and_opaque_nodes_take_no_epilogue():
    net = Net()
    out = net(Activation("relu"), net(Transpose((0, 2, 3, 1)), net.x))
    assert check(net.graph(out)) == ["transpose", "activation"]
    opaque = Opaque("Softsign", "onnx", b"", (net.x.type,), (net.x.type,))
    net = Net()
    graph = net.graph(net(Activation("relu"), net(opaque, net.x)))
    assert canonicalise(graph, every) is graph


@pytest.mark.parametrize(
    "op",
    [Reshape((2, 4, 6, 6)), Transpose((0, 1, 2, 3)), Concat(1), Split(2, (6,)), Add()],
    ids=str,
)
def test_what_changes_nothing_is_dropped(op):
    net = Net()
    assert check(net.graph(net(Activation("relu"), net(op, net.x)))) == ["activation"]
    net = Net()
    assert check(net.graph(net(op, net.x))) == [], "an output may be an input"
    net = Net()
    assert check(net.graph(net(op, net(op, net.conv(net.x))))) == ["conv2d"]


def test_views_collapse():
    net = Net()
    out = net(Reshape((2, 144)), net(Reshape((4, 72)), net(Reshape((8, 36)), net.x)))
    assert check(net.graph(out)) == ["reshape"]
    net = Net()
    assert check(net.graph(net(Transpose((0, 3, 1, 2)), net(Transpose((0, 2, 3, 1)), net.x)))) == []
    net = Net()
    assert check(net.graph(net(Transpose((1, 0, 3, 2)), net(Transpose((0, 2, 3, 1)), net.x)))) == ["transpose"]
    net = Net(2, 4, 1, 1)
    assert check(net.graph(net(Transpose((0, 2, 3, 1)), net.x))) == ["reshape"]
    net = Net()
    mixed = net(Reshape((2, 2, 2, 6, 6)), net.x)
    shuffled = net(Reshape((2, 4, 6, 6)), net(Transpose((0, 2, 1, 3, 4)), mixed))
    assert check(net.graph(shuffled)) == ["reshape", "transpose", "reshape"]


def test_values_and_names_survive():
    net = Net()
    conv = net(Conv2d(), net.x, weight(4, 4, 1, 1), name="first")
    out = net(Activation("relu"), conv, name="second")
    canonical = canonicalise(net.graph(out), every)
    assert canonical.outputs == (out,), "the fused node computes the very value that was asked for"
    assert [node.name for node in canonical.nodes] == ["first"]


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_keep_their_meaning(seed):
    rng = np.random.default_rng(seed)
    net = Net()
    values = [net.x]
    for _ in range(14):
        data = values[rng.integers(max(0, len(values) - 4), len(values))]
        other = values[rng.integers(len(values))]
        choice = rng.integers(7)
        if choice == 0:
            values.append(net.conv(data, bool(rng.integers(2))))
        elif choice == 1:
            values.append(net.affine(data))
        elif choice == 2:
            values.append(net(Activation("relu"), data))
        elif choice == 3:
            values.append(net(Add(), data, other))
        elif choice == 4:
            values.append(net(Add(), data, weight(4, 1, 1)))
        elif choice == 5:
            values.append(net(Reshape((2, 4, 6, 6)), net(Reshape((8, 36)), data)))
        else:
            values.append(net(Activation("clip", (-1.0, 1.0)), net(MaxPool2d((3, 3), padding=(1, 1, 1, 1)), data)))
    graph = net.graph(values[-1], values[rng.integers(len(values))])
    for fuses in (every, paper, lambda spec, step: False):
        check(graph, fuses)
