"""The contract of a graph substitution, and the search for places where substitutions apply."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from joulec.passes.graph import Graph, Node, Operator, Rewrite


@dataclass(frozen=True, slots=True)
class Match:
    """A place where a rule applies: all that `Rule.rewrite` needs beside the graph. The anchor comes first."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A place where a rule nearly applies, and the side condition that fails there, in words for the user."""

    nodes: tuple[Node, ...]
    reason: str


class Rule(Protocol):
    """An equivalent graph substitution (first paper, section 3.1): a small frozen dataclass named by its equation.

    Its docstring says all that a user asks: the first line is the equation, then come the side conditions, and last,
    after ``Pays:``, where it pays. A rule holds no state, and its results depend on the graph alone:
    matches come in a deterministic order, and a set of interchangeable nodes is reported once. A match reads nothing
    beyond the anchor's neighbours and theirs (nodes are neighbours when they touch a common value; a chain of concats
    and splits counts as one node), so a search need only match again that close to a change. `rewrite` may look
    further, e.g. for the order in which a concat wants its operands; it is given a match found in that very graph.
    """

    @property
    def name(self) -> str:
        """The rule's name in reports, in kebab case."""

    @property
    def anchor(self) -> type[Operator]:
        """The operator of the nodes at which the rule can match, others are never shown to it; `Operator`: all are."""

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        """All places anchored at the node, and those that only just fail."""

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        """The substitution at a match found in this graph."""


def equation(rule: Rule) -> str:
    """What the rule says: the first line of its docstring."""
    return (inspect.getdoc(type(rule)) or rule.name).splitlines()[0]


def conditions(rule: Rule) -> str:
    """When the rule applies: its docstring between the equation and where it pays."""
    return " ".join(_paragraphs(rule)[1:-1])


def pays(rule: Rule) -> str:
    """Where the rule pays: the last paragraph of its docstring."""
    return _paragraphs(rule)[-1].removeprefix("Pays: ")


def _paragraphs(rule: Rule) -> list[str]:
    return [" ".join(part.split()) for part in (inspect.getdoc(type(rule)) or rule.name).split("\n\n")]


def find(
    graph: Graph, rules: tuple[Rule, ...], nodes: Iterable[Node] | None = None
) -> Iterator[tuple[Rule, Match | Mismatch]]:
    """All matches and near-matches of the rules, by anchor in topological order, then in the rules' order.

    Args:
        nodes: the anchors to look at; all nodes of the graph when omitted.
    """
    table, others = _by_anchor(rules)
    for node in graph.nodes if nodes is None else nodes:
        for rule in table.get(type(node.op), others):
            for found in rule.matches(graph, node):
                yield rule, found


def substitutions(
    graph: Graph, rules: tuple[Rule, ...], nodes: Iterable[Node] | None = None
) -> Iterator[tuple[Rule, Match]]:
    """The matches among what `find` yields."""
    for rule, found in find(graph, rules, nodes):
        if isinstance(found, Match):
            yield rule, found


@cache
def _by_anchor(rules: tuple[Rule, ...]) -> tuple[dict[type[Operator], tuple[Rule, ...]], tuple[Rule, ...]]:
    """The rules for each operator that some rule names, and those for all others."""
    anchors = dict.fromkeys(rule.anchor for rule in rules)
    table = {anchor: tuple(rule for rule in rules if rule.anchor in (anchor, Operator)) for anchor in anchors}
    return table, tuple(rule for rule in rules if rule.anchor is Operator)
