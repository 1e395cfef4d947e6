"""Random graphs and the checks that every rule must pass."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from joulec.passes.graph import (
    Activation,
    Concat,
    Conv2d,
    Graph,
    MatMul,
    Node,
    Operator,
    Split,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.graph.values import content_key
from joulec.passes.rules import substitutions

DTYPE = "float64"
RELU = Step("activation", "relu")
BIAS = Step("bias")


@dataclass
class Builder:
    """Writes graphs tersely; every value gets a name, and a key of its name, as an importer would give it."""

    seed: int = 0
    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def const(self, *shape, dtype=DTYPE):
        return literal(self.rng.standard_normal(shape).astype(dtype))

    def input(self, name, *shape):
        self.inputs.append(Value.input(name, TensorType(shape, DTYPE)))
        return self.inputs[-1]

    def node(self, names, op, *operands, epilogue=()):
        names = names.split()
        taken = sum(step.operands for step in epilogue)
        types = op.infer([operand.type for operand in operands[: len(operands) - taken]])
        outputs = tuple(Value(content_key(n, self.seed), t, n) for n, t in zip(names, types, strict=True))
        self.nodes.append(Node.make(op, operands, tuple(epilogue), outputs=outputs, name=names[0]))
        return outputs if len(outputs) > 1 else outputs[0]

    def conv(self, name, x, out, kernel=(1, 1), epilogue=(), groups=1, **attributes):
        weight = self.const(out, x.type.shape[1] // groups, *kernel)
        extra = [self.const(out) for step in epilogue if step.kind == "bias"]
        return self.node(name, Conv2d(groups=groups, **attributes), x, weight, *extra, epilogue=epilogue)

    def matmul(self, name, x, width, epilogue=(), transpose_b=False):
        depth = x.type.shape[-1]
        weight = self.const(*((width, depth) if transpose_b else (depth, width)))
        extra = [self.const(width) for step in epilogue if step.kind == "bias"]
        return self.node(name, MatMul(transpose_b), x, weight, *extra, epilogue=epilogue)

    def concat(self, name, *operands, axis=1):
        return self.node(name, Concat(axis), *operands)

    def split(self, names, x, *sizes, axis=1):
        return self.node(names, Split(axis, sizes), x)

    def relu(self, name, x):
        return self.node(name, Activation("relu"), x)

    def graph(self, *outputs):
        return Graph.build(self.inputs, outputs, self.nodes)


def assert_valid(graph):
    """Topological order, one producer per value, no dead node, types as inferred."""
    known = set(graph.inputs)
    for node in graph.nodes:
        assert all(value in known for value in node.inputs)
        assert not known.intersection(node.outputs)
        known.update(node.outputs)
        remade = Node.make(node.op, node.operands, node.epilogue, outputs=node.outputs)
        assert remade == node
    assert set(graph.producers.values()) == set(graph.nodes)
    for node in graph.nodes:
        assert any(value in graph.outputs or value in graph.consumers for value in node.outputs)
    assert set(graph.outputs) <= known


def assert_equal(first, second):
    """Both graphs compute the same for random inputs."""
    rng = np.random.default_rng(1)
    inputs = {value.name: rng.standard_normal(value.type.shape) for value in first.inputs}
    assert first.output_names == second.output_names
    for one, two in zip(evaluate(first, inputs), evaluate(second, inputs), strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def apply_all(graph, rules):
    """Every graph that one substitution makes; each is checked."""
    graphs = []
    for rule, match in substitutions(graph, rules):
        assert rule.anchor in (Operator, type(match.nodes[0].op))
        changed = graph.apply(rule.rewrite(graph, match))
        assert changed.key != graph.key, f"{rule.name} changed nothing"
        assert_valid(changed)
        assert_equal(graph, changed)
        graphs.append(changed)
    return graphs


def exhaust(graph, rules, seed=None, limit=60):
    """Substitute until nothing applies, at random places where a seed is given."""
    rng = random.Random(seed)
    for _ in range(limit):
        found = list(substitutions(graph, rules))
        if not found:
            return graph
        rule, match = rng.choice(found) if seed is not None else found[0]
        graph = graph.apply(rule.rewrite(graph, match))
    raise AssertionError("substitution does not terminate")


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file (test modules cannot import it)."""
    return SimpleNamespace(
        Builder=Builder,
        apply_all=apply_all,
        exhaust=exhaust,
        assert_equal=assert_equal,
        assert_valid=assert_valid,
        RELU=RELU,
        BIAS=BIAS,
    )
