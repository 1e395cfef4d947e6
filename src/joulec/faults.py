"""Naming the substitution or algorithm that makes a result wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy.typing as npt

from joulec.passes.backend import Algorithm
from joulec.passes.graph import Graph, Node, NodeSpec
from joulec.passes.search.choices import Choice
from joulec.passes.search.results import Plan
from joulec.passes.verification import Reference, first_fault, largest_error

_Array = npt.NDArray[Any]
Algorithms = Callable[[NodeSpec], Sequence[Algorithm]]
Variant = Callable[[Graph, Mapping[Node, Choice], Mapping[str, _Array]], Sequence[_Array]]


_NO_CULPRIT = "no single rule or algorithm is at fault: please report it with the model"


def find_culprit(
    original: Graph,
    plan: Plan,
    reference: Reference,
    inputs: Sequence[Mapping[str, _Array]],
    tolerance: float,
    run: Variant,
    algorithms: Algorithms,
) -> str:
    """Bisect from the original graph under TVM's own lowering to the result: substitutions first, then algorithms.

    Args:
        original: the canonical graph before any substitution.
        plan: what the result computes.
        inputs: all that the result was compared on; it may differ on some of them only.
        run: computes a graph under an assignment.
        algorithms: the back end's, its own lowering last.

    Returns:
        A clause for the error message.
    """
    if not plan.assignment:
        return _NO_CULPRIT  # all was folded
    stages = [(list(steps), graph) for graph, steps in groupby(plan.applied, key=lambda step: step[1])]
    graphs = [original, *(graph for _, graph in stages)]
    choices = sorted({(node.spec.op.name, choice.algorithm.name) for node, choice in plan.assignment.items()})
    changed = [pair for pair in choices if _is_native(pair, plan.assignment, algorithms)]
    steps = [_rules(rule for rule, _ in applied) for applied, _ in stages]
    steps += [f"the algorithm {algorithm} on {operator}" for operator, algorithm in changed]

    def agrees(count: int, given: Mapping[str, _Array]) -> bool:
        graph = graphs[min(count, len(graphs) - 1)]
        switched = set(changed[: max(0, count - len(stages))])
        assignment = {
            node: choice if (node.spec.op.name, choice.algorithm.name) in switched else _plain(node, choice, algorithms)
            for node, choice in _assignment(graph, plan.assignment).items()
        }
        return largest_error(run(graph, assignment, given), reference.run(given)) <= tolerance

    telling = next((given for given in inputs if not agrees(len(steps), given)), None)
    culprit = None if telling is None else first_fault(steps, lambda count: agrees(count, telling))
    if culprit is None:
        return _NO_CULPRIT
    return f"{culprit} is at fault (leave an algorithm out with --exclude-algorithm)"


def _rules(names: Iterable[str]) -> str:
    """The rules applied at one stage: one, or all between two graphs of a search by parts."""
    return f"the rule {' or '.join(dict.fromkeys(names))}"


def _is_native(pair: tuple[str, str], assignment: Mapping[Node, Choice], algorithms: Algorithms) -> bool:
    return any(
        (node.spec.op.name, choice.algorithm.name) == pair
        and _plain(node, choice, algorithms).algorithm.name != choice.algorithm.name
        for node, choice in assignment.items()
    )


def _assignment(graph: Graph, final: Mapping[Node, Choice]) -> Mapping[Node, Choice]:
    """The final choices where the graph has the node, any choice elsewhere: it will be made plain."""
    some = next(iter(final.values()))
    return {node: final.get(node, some) for node in graph.nodes}


def _plain(node: Node, choice: Choice, algorithms: Algorithms) -> Choice:
    """The same node under TVM's own lowering (an external call stays one)."""
    known = () if node.spec.op.is_view else algorithms(node.spec)
    return Choice(known[-1], choice.cost) if known else choice
