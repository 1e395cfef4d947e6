"""Outer search with the rules that converge: moves found near a change, against matching every graph anew."""

from __future__ import annotations

import random

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Activation, Add, Concat, Conv2d, Graph, Node, Split, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules import CONVERGENT
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions


def counts(statistics):
    names = ("expanded", "generated", "duplicates", "inadmissible")
    return {name: getattr(statistics, name) for name in names}


class TestRealRules:
    """Moves found only near a change, against matching every graph anew."""

    RELU = Step("activation", "relu")

    class Formula:
        """Costs that a few integers of a spec decide."""

        def __init__(self, toy):
            self.toy, self.made, self.prepared = toy, {}, []

        def prepare(self, specs):
            for spec in specs:
                if spec not in self.made:
                    rng = random.Random(str(spec))
                    base = 1000 + spec.flops // 8 + spec.bytes // 4
                    points = [(base * rng.randint(80, 120), base * rng.randint(80, 120)) for _ in range(2)]
                    self.made[spec] = self.toy.choices(*points)

        def knows(self, spec):
            return spec in self.made

        def options(self, spec):
            return self.made[spec]

        def lower_bound(self, spec):
            return 0.0, 0.0

    @classmethod
    def network(cls, seed):
        """Two modules of parallel convolutions with concats and splits between; both ends are returned."""
        rng = random.Random(seed)
        weights = np.random.default_rng(seed)
        nodes = []

        def add(op, operands, epilogue=()):
            nodes.append(Node.make(op, tuple(operands), epilogue))
            return nodes[-1].outputs

        def conv(value, out, kernel):
            weight = literal(weights.standard_normal((out, value.type.shape[1], kernel, kernel)).astype("float32"))
            pad = kernel // 2
            steps = (cls.RELU,) if rng.random() < 0.7 else ()
            return add(Conv2d(padding=(pad,) * 4), (value, weight), steps)[0]

        x = value = Value.input("x", TensorType((1, 4, 5, 5)))
        outputs = []
        for _ in range(2):
            branches = [conv(value, rng.choice((2, 4)), rng.choice((1, 1, 3))) for _ in range(rng.randint(2, 3))]
            if rng.random() < 0.5:
                branches[0] = add(Activation("tanh"), branches[:1])[0]
            value = add(Concat(1), branches)[0]
            if rng.random() < 0.5:
                half = value.type.shape[1] // 2
                parts = add(Split(1, (half, value.type.shape[1] - half)), [value])
                outputs.append(parts[1])
                value = add(Concat(1), [parts[1], parts[0]])[0]
            outputs.append(value)
        return Graph.build([x], list(dict.fromkeys(outputs)), nodes)

    @staticmethod
    def tidy(graph):
        def fuses(spec, step):
            return isinstance(spec.op, (Conv2d, Add)) and step.kind == "activation" and not spec.epilogue

        return canonicalise(graph, fuses)

    @pytest.mark.parametrize("seed", range(8))
    def test_same_graphs(self, toy, seed):
        graph = self.tidy(self.network(seed))
        objective = as_objective("energy")
        plain = toy.algorithm1(graph, CONVERGENT, self.Formula(toy), objective, alpha=1.2, budget=60, tidy=self.tidy)
        options = SearchOptions(alpha=1.2, budget=60)
        found = OuterSearch(CONVERGENT, self.Formula(toy), objective, options, self.tidy).run(graph)
        assert counts(found.statistics) == {name: getattr(plain, name) for name in counts(found.statistics)}
        assert found.best.graph.key == plain.winner.key
        rng = np.random.default_rng(1)
        given = {"x": rng.standard_normal((1, 4, 5, 5)).astype("float32")}
        for one, two in zip(evaluate(found.best.graph, given), evaluate(graph, given), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)

    def test_some_of_these_graphs_are_rewritten(self, toy):
        applied = set()
        for seed in range(8):
            graph = self.tidy(self.network(seed))
            search = OuterSearch(CONVERGENT, self.Formula(toy), as_objective("energy"), SearchOptions(), self.tidy)
            applied.update(rule for rule, _ in search.run(graph).best.applied)
        assert len(applied) >= 2
