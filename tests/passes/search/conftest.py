"""A toy world for searches: graphs of elementwise nodes, rules that exchange their kinds, and costs out of a table."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from joulec.costdb.cost import Cost
from joulec.passes.graph import Activation, Add, Graph, Node, Rewrite, TensorType, Value
from joulec.passes.rules import Match, substitutions
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import GraphFigures, Totals

VECTOR = TensorType((4,))
KINDS = ("relu", "tanh", "exp", "sqrt", "sigmoid", "erf")


@dataclass(frozen=True)
class Named:
    """An algorithm that is but a name."""

    name: str


def choices(*points):
    """Options with these (seconds, joules)."""
    return Options(
        [
            Choice(Named(f"a{index}"), Cost(time_s, energy_j, "measured", "estimated"))
            for index, (time_s, energy_j) in enumerate(points)
        ]
    )


@dataclass
class FakeCosts:
    """Costs by the kind of operator, with a record of what was asked.

    Attributes:
        table: (seconds, joules) of each algorithm by kind; a missing kind has none.
        bound: (seconds, joules) below which a spec of unknown cost cannot fall, by kind; zero when missing.
    """

    table: dict
    bound: dict = field(default_factory=dict)
    prepared: list = field(default_factory=list)
    made: dict = field(default_factory=dict)

    @staticmethod
    def kind(spec):
        return getattr(spec.op, "kind", spec.op.name)

    def prepare(self, specs):
        self.prepared.append(Counter(specs))
        for spec in specs:
            if spec not in self.made:
                self.made[spec] = choices(*self.table.get(self.kind(spec), ()))

    def knows(self, spec):
        return spec in self.made

    def options(self, spec):
        return self.made[spec]

    def lower_bound(self, spec):
        return self.bound.get(self.kind(spec), (0.0, 0.0))


@dataclass(frozen=True)
class Exchange:
    """f(x) = g(x), as far as this toy world knows."""

    before: str
    after: str
    anchor: type = Activation

    @property
    def name(self):
        return f"{self.before}-to-{self.after}"

    def matches(self, graph, node):
        if node.op.kind == self.before:
            yield Match((node,))

    def rewrite(self, graph, match):
        (node,) = match.nodes
        return Rewrite((node,), (Node.make(Activation(self.after), node.operands, outputs=node.outputs),))


@dataclass(frozen=True)
class Shorten:
    """f(g(x)) = h(x), where nothing else reads g(x)."""

    outer: str
    inner: str
    after: str
    anchor: type = Activation

    @property
    def name(self):
        return f"{self.outer}-of-{self.inner}-to-{self.after}"

    def matches(self, graph, node):
        producer = graph.producers.get(node.operands[0])
        if node.op.kind != self.outer or producer is None or not isinstance(producer.op, Activation):
            return
        if producer.op.kind == self.inner and graph.sole_consumer(producer.outputs[0]) == node:
            yield Match((node, producer))

    def rewrite(self, graph, match):
        node, producer = match.nodes
        return Rewrite(match.nodes, (Node.make(Activation(self.after), producer.operands, outputs=node.outputs),))


@dataclass(frozen=True)
class Vanish:
    """f(x) = x: readers and outputs take x itself."""

    kind: str
    anchor: type = Activation

    @property
    def name(self):
        return f"{self.kind}-vanishes"

    def matches(self, graph, node):
        if node.op.kind == self.kind:
            yield Match((node,))

    def rewrite(self, graph, match):
        (node,) = match.nodes
        return Rewrite((node,), (), {node.outputs[0]: node.operands[0]})


def chain(*kinds):
    """x through the kinds, one after another."""
    x = value = Value.input("x", VECTOR)
    nodes = []
    for index, kind in enumerate(kinds):
        nodes.append(Node.make(Activation(kind), (value,), outputs=(Value(1000 + index, VECTOR),)))
        value = nodes[-1].outputs[0]
    return Graph.build([x], [value], nodes, ["y"])


def random_graph(rng: random.Random, size: int):
    """A graph of activations and sums with one to three outputs."""
    x = Value.input("x", VECTOR)
    values, nodes = [x], []
    for index in range(size):
        result = (Value(2000 + index, VECTOR),)
        if rng.random() < 0.75:
            node = Node.make(Activation(rng.choice(KINDS[:3])), (rng.choice(values[-3:]),), outputs=result)
        else:
            node = Node.make(Add(), (rng.choice(values), rng.choice(values)), outputs=result)
        nodes.append(node)
        values.append(result[0])
    outputs = list(dict.fromkeys([values[-1], *(rng.choice(values[1:]) for _ in range(rng.randint(0, 2)))]))
    return Graph.build([x], outputs, nodes)


def brute_force(options, figures, objective, origin):
    """The best (excess, value) over all assignments."""
    best = None
    for picks in itertools.product(*(range(len(of)) for of in options)):
        chosen = [of.choices[pick] for of, pick in zip(options, picks, strict=True)]
        totals = figures.totals(sum(c.time_s for c in chosen), sum(c.energy_j for c in chosen))
        rank = (float(objective.bounds.excess(totals)), float(objective.value(totals, origin)))
        best = rank if best is None else min(best, rank)
    return best


def fastest_totals(options, figures):
    """Totals under each node's fastest algorithm, of equally fast ones the first."""
    picks = [min(of.choices, key=lambda choice: choice.time_s) for of in options]
    return figures.totals(sum(c.time_s for c in picks), sum(c.energy_j for c in picks))


def algorithm1(graph, rules, costs, objective, alpha=1.05, budget=10**9, inner="exact", tidy=lambda graph: graph):
    """Algorithm 1 as the design makes it precise, written for clarity: every graph is built and solved as a whole."""
    table = SimpleNamespace(expanded=0, generated=0, duplicates=0, inadmissible=0)

    def options(of):
        costs.prepare({node.spec for node in of.nodes})
        return [costs.options(node.spec) for node in of.nodes]

    origin = fastest_totals(options(graph), GraphFigures.of(graph))
    search = InnerSearch(objective, origin, inner)

    def rank(of):
        return search.solve(options(of), GraphFigures.of(of)).rank

    best = rank(graph)
    winner = graph
    queue = [(*best, graph.key, graph)]
    seen = {graph.key}
    while queue and table.expanded < budget:
        state = heapq.heappop(queue)[-1]
        table.expanded += 1
        for rule, match in substitutions(state, rules):
            table.generated += 1
            new = tidy(state.apply(rule.rewrite(state, match)))
            if new.key in seen:
                table.duplicates += 1
                continue
            seen.add(new.key)
            if not all(map(len, options(new))):
                table.inadmissible += 1
                continue
            found = rank(new)
            improves = found < best
            if improves:
                best, winner = found, new
            near = found[0] <= best[0] + alpha - 1 if found[0] > 0 else found[1] < alpha * best[1]
            if improves or near:
                heapq.heappush(queue, (*found, new.key, new))
    table.best, table.winner, table.seen, table.origin = best, winner, seen, origin
    return table


def make_world(seed, size=7, lame=False):
    """A random graph, rules and costs; costs are whole numbers with few ties, so that sums are exact.

    Args:
        lame: one kind that rules lead to has no algorithm.
    """
    rng = random.Random(seed)

    def points():
        return [(rng.randint(1, 10**6), rng.randint(1, 10**6)) for _ in range(rng.randint(1, 3))]

    table = {kind: points() for kind in (*KINDS, "add")}
    if lame:
        del table["sigmoid"]
    rules = (
        Exchange("relu", "tanh"),
        Exchange("tanh", "exp"),
        Shorten("relu", "tanh", "sqrt"),
        Shorten("exp", "relu", "sigmoid"),
        Vanish("sqrt"),
    )
    return random_graph(rng, size), rules, FakeCosts(table)


def search(graph, rules, costs, objective, bounds=None, **options):
    """The outer search's result."""
    return OuterSearch(rules, costs, as_objective(objective, bounds), SearchOptions(**options)).run(graph)


@pytest.fixture(scope="session")
def toy():
    """The helpers of this file (test modules cannot import it)."""
    return SimpleNamespace(
        Exchange=Exchange,
        FakeCosts=FakeCosts,
        KINDS=KINDS,
        Named=Named,
        Shorten=Shorten,
        Totals=Totals,
        VECTOR=VECTOR,
        Vanish=Vanish,
        algorithm1=algorithm1,
        brute_force=brute_force,
        chain=chain,
        choices=choices,
        fastest_totals=fastest_totals,
        make_world=make_world,
        random_graph=random_graph,
        search=search,
    )
