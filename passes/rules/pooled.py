"""Poolings that become a part of the convolution before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from joulec.passes.graph import Activation, Conv2d, Graph, MaxPool2d, Node, NodeSpec, Operator, PooledConv2d, Rewrite
from joulec.passes.rules.merging import label
from joulec.passes.rules.pools import empty_window, not_monotone
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import producer, shared

CanPool = Callable[[NodeSpec], bool]


@dataclass(frozen=True)
class PoolInConvolution:
    """max_pool(f(conv(x, W) + b)) = f(pooled_conv(x, W) + b)

    Only the pooling reads the convolution, whose epilogue has nothing but a bias per channel and activations that never
    fall; each window holds an element of the convolution's result; and the back end has a kernel for it.

    Pays: What is pooled away is neither stored nor read again: large planes behind few multiplications, such as the
    first layers of networks for images.
    """

    can_pool: CanPool
    """Whether the back end has a kernel of its own for a spec."""
    name: str = "pool-in-convolution"
    anchor: type[Operator] = MaxPool2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        before = producer(graph, node.operands[0])
        if before is None or type(before.op) is not Conv2d:
            return
        reason = shared(graph, before, node) or _not_after(before) or empty_window(node)
        if reason is None and not self.can_pool(_joined(node, before).spec):
            reason = f"no kernel pools what {label(before)} computes"
        yield Match((node, before)) if reason is None else Mismatch((node, before), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        """One node in place of two."""
        return Rewrite(match.nodes, (_joined(*match.nodes),))


def _joined(pool: Node, conv: Node) -> Node:
    assert isinstance(conv.op, Conv2d)
    assert isinstance(pool.op, MaxPool2d)
    return Node.make(
        PooledConv2d(conv.op, pool.op),
        (*conv.operands, *pool.epilogue_operands),
        (*conv.epilogue, *pool.epilogue),
        outputs=pool.outputs,
        name=conv.name,
    )


def _not_after(conv: Node) -> str | None:
    """Why the convolution's steps cannot follow the pooling."""
    for step in conv.epilogue:
        if step.kind == "add":
            return f"{label(conv)} adds another tensor"
        if step.kind == "activation":
            reason = not_monotone(Activation(step.activation, step.params))
            if reason is not None:
                return reason
    return None
