"""Steps behind convolutions over rows meet them before the change of rank."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import (
    Activation,
    Add,
    ChannelAffine,
    Conv2d,
    Graph,
    Node,
    Reshape,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate

RNG = np.random.default_rng(17)
RELU = Activation("relu")


def weight(*shape: int):
    return literal(RNG.standard_normal(shape).astype(np.float32))


class Rows:
    """Builds a graph over rows x[2,4,9]."""

    def __init__(self) -> None:
        self.x = Value.input("x", TensorType((2, 4, 9)))
        self.nodes: list[Node] = []

    def __call__(self, op, *operands, epilogue=()) -> Value:
        self.nodes.append(Node.make(op, operands, epilogue))
        return self.nodes[-1].outputs[0]

    def conv(self, rows: Value) -> Value:
        """A convolution of width three that keeps the size, rank three before and after."""
        planes = self(Reshape((2, 4, 1, 9)), rows)
        found = self(Conv2d(padding=(0, 1, 0, 1)), planes, weight(4, 4, 1, 3))
        return self(Reshape((2, 4, 9)), found)

    def check(self, *outputs: Value) -> list[str]:
        """Canonicalise everything, compare in numpy, and tell the nodes in order."""
        graph = Graph.build([self.x], outputs, self.nodes)
        canonical = canonicalise(graph, lambda spec, step: not spec.op.is_view)
        assert canonicalise(canonical, lambda spec, step: not spec.op.is_view) is canonical
        feeds = {"x": RNG.standard_normal(self.x.type.shape).astype(np.float32)}
        for got, want in zip(evaluate(canonical, feeds), evaluate(graph, feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
        return ["+".join([node.op.name, *map(str, node.epilogue)]) for node in canonical.nodes]


def test_convolutions_in_a_row_keep_no_change_of_rank_between_them():
    net = Rows()
    first = net(RELU, net.conv(net.x))
    affine = net(ChannelAffine(), net.conv(first), weight(4), weight(4))
    assert net.check(net(Activation("sigmoid"), affine)) == [
        "reshape",
        "conv2d+relu",
        "conv2d+bias+sigmoid",
        "reshape",
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_residual_sum_fuses(swapped):
    net = Rows()
    first = net(RELU, net.conv(net.x))
    second = net.conv(first)
    total = net(Add(), *((first, second) if swapped else (second, first)))
    assert net.check(net(RELU, total)) == ["reshape", "conv2d+relu", "conv2d+add+relu", "reshape"]


def test_what_others_read_stays():
    net = Rows()
    rows = net.conv(net.x)
    assert net.check(net(RELU, rows), rows) == ["reshape", "conv2d", "reshape", "activation"]


def test_other_reshapes_stay():
    net = Rows()
    planes = net(Reshape((2, 4, 1, 9)), net.x)
    found = net(Conv2d(padding=(0, 1, 0, 1)), planes, weight(4, 4, 1, 3))
    assert net.check(net(RELU, net(Reshape((8, 9)), found))) == ["reshape", "conv2d", "reshape", "activation"]


def test_a_sum_of_other_shapes_stays():
    net = Rows()
    rows = net.conv(net.x)
    other = net(Reshape((2, 4, 9)), net(Reshape((8, 9)), net.x))
    column = net(Conv2d(), net(Reshape((2, 4, 9, 1)), other), weight(4, 4, 9, 1))
    assert "add" in net.check(net(Add(), rows, net(Reshape((2, 4, 1)), column)))


def test_a_step_with_an_epilogue_that_reads_stays():
    net = Rows()
    total = net(ChannelAffine(), net.conv(net.x), weight(4), weight(4), net.x, epilogue=(Step("add"),))
    assert net.check(total) == ["reshape", "conv2d", "reshape", "channel_affine+add"]
