"""Canonicalisation: small simplifications, run until none applies."""

from __future__ import annotations

from collections.abc import Callable

from joulec.passes.canonical.affine import affine_of_affine, affine_of_product
from joulec.passes.canonical.fusion import fuse_activation, fuse_bias, fuse_residual
from joulec.passes.canonical.gates import hard_swish, silu
from joulec.passes.canonical.rows import step_before_rank
from joulec.passes.canonical.site import Fuses, Site
from joulec.passes.canonical.views import (
    drop_trivial,
    reshape_of_reshape,
    transpose_as_reshape,
    transpose_of_transpose,
)
from joulec.passes.graph import (
    Activation,
    Add,
    Binary,
    ChannelAffine,
    Concat,
    Graph,
    Node,
    Operator,
    Reshape,
    Rewrite,
    Split,
    Transpose,
    Value,
)

Simplification = Callable[[Site, Node], Rewrite | None]
"""The rewrite that simplifies a node with what is before it, None where there is nothing to simplify."""

SIMPLIFICATIONS: tuple[tuple[Simplification, tuple[type[Operator], ...]], ...] = (
    (drop_trivial, (Reshape, Transpose, Concat, Split, Add)),
    (reshape_of_reshape, (Reshape,)),
    (transpose_of_transpose, (Transpose,)),
    (transpose_as_reshape, (Transpose,)),
    (affine_of_affine, (ChannelAffine,)),
    (affine_of_product, (ChannelAffine,)),
    (silu, (Binary,)),
    (hard_swish, (Binary,)),
    (step_before_rank, (Activation, Add, ChannelAffine)),
    (fuse_bias, (Add, ChannelAffine)),
    (fuse_activation, (Activation,)),
    (fuse_residual, (Add,)),
)
"""Each with the operators of the nodes that it can simplify, in the order in which they are tried on a node."""


def canonicalise(graph: Graph, fuses: Fuses) -> Graph:
    """The canonical form of a graph. Each simplification makes it smaller or moves a step forward, so this ends.

    Args:
        fuses: which steps the back end takes into an epilogue (`BackEnd.fuses`).
    """
    while True:
        simplified = _sweep(graph, fuses)
        if simplified is graph:
            return graph
        graph = simplified


def _sweep(graph: Graph, fuses: Fuses) -> Graph:
    """Simplify what can be simplified side by side, in topological order."""
    site = Site(graph, fuses)
    removed: set[Node] = set()
    added: list[Node] = []
    replaced: dict[Value, Value] = {}
    needed: set[Value] = set()
    gone: set[Value] = set()
    for node in graph.nodes:
        rewrite = _first(site, node)
        if rewrite is None or not removed.isdisjoint(rewrite.remove):
            continue
        kept = {value for fresh in rewrite.add for value in fresh.outputs} | set(rewrite.replace)
        loses = {value for old in rewrite.remove for value in old.outputs} - kept
        reads = {value for fresh in rewrite.add for value in fresh.inputs} | set(rewrite.replace.values())
        if not gone.isdisjoint(reads) or not needed.isdisjoint(loses):
            continue
        removed.update(rewrite.remove)
        added.extend(rewrite.add)
        replaced.update(rewrite.replace)
        needed |= reads
        gone |= loses
    if not removed:
        return graph
    return graph.apply(Rewrite(tuple(removed), tuple(added), replaced))


_SIMPLIFYING: dict[type[Operator], tuple[Simplification, ...]] = {}
"""What is tried on nodes of an operator, once it was met."""


def _first(site: Site, node: Node) -> Rewrite | None:
    operator = type(node.op)
    if operator not in _SIMPLIFYING:
        _SIMPLIFYING[operator] = tuple(one for one, operators in SIMPLIFICATIONS if issubclass(operator, operators))
    for simplify in _SIMPLIFYING[operator]:
        rewrite = simplify(site, node)
        if rewrite is not None:
            return rewrite
    return None
