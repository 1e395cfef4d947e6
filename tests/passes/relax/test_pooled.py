"""Poolings inside convolutions, from the rule to the compiled module."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.graph import Conv2d, Graph, MaxPool2d, Node, PooledConv2d, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.relax.workbench import Setup, Workbench
from joulec.passes.rules import substitutions
from joulec.passes.rules.pooled import PoolInConvolution

RELU = Step("activation", "relu")


@pytest.mark.parametrize("assign", ["native", "plain"])
def test_the_search_is_offered_it_and_it_runs(tools, assign):
    rng = np.random.default_rng(0)
    x = Value.input("x", TensorType((1, 3, 33, 31)))
    kernel, bias = (literal(rng.standard_normal(shape, np.float32)) for shape in ((16, 3, 3, 3), (16,)))
    conv = Node.make(Conv2d((2, 2)), (x, kernel, bias), (Step("bias"),))
    pool = Node.make(MaxPool2d((3, 3), (2, 2)), conv.outputs, (RELU,))
    graph = Graph.build([x], pool.outputs, [conv, pool])
    with Workbench.open(Setup(costs="model", meter="estimate", threads=1)) as bench:
        [changed] = [
            bench.tidy(graph.apply(rule.rewrite(graph, match)))
            for rule, match in substitutions(graph, bench.rules)
            if isinstance(rule, PoolInConvolution)
        ]
    [node] = changed.nodes
    assert isinstance(node.op, PooledConv2d)
    given = tools.given_for(changed.inputs)
    found = tools.run_module(tools.exported(changed, getattr(tools, assign)(changed)), *given.values())
    np.testing.assert_allclose(found[0], evaluate(graph, given)[0], rtol=1e-4, atol=1e-4)
