"""Chains of blocks, their costs, and searches of them by parts and as a whole."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from joulec.costdb.cost import Cost
from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Add, Concat, Conv2d, Graph, Node, Split, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules import RULES
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.large import PartitionedSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions

RELU = (Step("activation", "relu"),)


class FormulaCosts:
    """A fixed cost for each node and some for its work; two algorithms trade time for energy."""

    def __init__(self):
        self.made = {}

    def prepare(self, specs):
        for spec in specs:
            self.options(spec)

    def knows(self, spec):
        return True

    def options(self, spec):
        if spec not in self.made:
            free = spec.op.is_view or isinstance(spec.op, Split)
            base = 0.0 if free else 1.0 + spec.flops / 1e5
            points = [(base, 2 * base), (1.5 * base, 1.5 * base)]
            self.made[spec] = Options(
                [
                    Choice(SimpleNamespace(name=f"a{i}"), Cost(t, e, "replay", "replay"))
                    for i, (t, e) in enumerate(points)
                ]
            )
        return self.made[spec]

    def lower_bound(self, spec):
        options = self.options(spec)
        return float(options.times.min()), float(options.energies.min())


def tidy(graph):
    return canonicalise(graph, lambda spec, step: isinstance(spec.op, Conv2d))


def blocks(count, seed=0, other_weights=True):
    """A chain of blocks: two parallel convolutions of one input, their concat, and every third block a residual."""
    rng = np.random.default_rng(seed)
    x = Value.input("x", TensorType((1, 4, 5, 5)))
    value, nodes = x, []
    for index in range(count):
        generator = rng if other_weights else np.random.default_rng(seed)
        first, second = (literal(generator.standard_normal((2, 4, 1, 1)).astype("f")) for _ in range(2))
        a = Node.make(Conv2d(), (value, first), RELU, name=f"a{index}")
        b = Node.make(Conv2d(), (value, second), RELU, name=f"b{index}")
        c = Node.make(Concat(1), (a.outputs[0], b.outputs[0]), name=f"c{index}")
        nodes += [a, b, c]
        if index % 3 == 2:
            nodes.append(Node.make(Add(), (value, c.outputs[0]), name=f"add{index}"))
        value = nodes[-1].outputs[0]
    return tidy(Graph.build([x], [value], nodes, ["y"]))


def by_parts(graph, objective="time", bounds=None, **options):
    search = PartitionedSearch(RULES, FormulaCosts(), as_objective(objective, bounds), SearchOptions(**options), tidy)
    return search.run(graph)


def whole(graph, objective="time", bounds=None, **options):
    search = OuterSearch(RULES, FormulaCosts(), as_objective(objective, bounds), SearchOptions(**options), tidy)
    return search.run(graph)


def same_meaning(before, after):
    given = {"x": np.random.default_rng(1).standard_normal((1, 4, 5, 5)).astype("f")}
    for wanted, found in zip(evaluate(before, given), evaluate(after, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
