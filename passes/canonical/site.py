"""What a simplification sees of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from joulec.passes.graph import Graph, Node, NodeSpec, Step, Value
from joulec.passes.graph.node import Operand

Fuses = Callable[[NodeSpec, Step], bool]
"""Whether the back end can price and run a spec with one more step at the end of its epilogue."""


@dataclass(frozen=True)
class Site:
    """One state of the graph during canonicalisation."""

    graph: Graph
    fuses: Fuses

    @cached_property
    def place(self) -> dict[Node, int]:
        """Each node's position in the graph's own order."""
        return {node: index for index, node in enumerate(self.graph.nodes)}

    def producer(self, operand: Operand) -> Node | None:
        """The node that computes an operand, None for constants and the graph's inputs."""
        return self.graph.producers.get(operand) if isinstance(operand, Value) else None

    def private_producer(self, operand: Operand, reader: Node) -> Node | None:
        """The node that computes an operand if the reader is all that reads it, and reads it once."""
        node = self.producer(operand)
        if node is None or not isinstance(operand, Value) or len(node.outputs) != 1:
            return None
        if self.graph.sole_consumer(operand) != reader or reader.inputs.count(operand) != 1:
            return None
        return node

    def extended(self, node: Node, steps: tuple[Step, ...], operands: tuple[Operand, ...], result: Node) -> Node | None:
        """The node with steps at the end of its epilogue, computing another node's result; None where one won't fuse.

        Args:
            operands: what the steps consume, in their order.
            result: the node whose output value and name the extended node takes over.
        """
        taken = 0
        for index, step in enumerate(steps):
            before = Node(
                node.op,
                (*node.operands, *operands[:taken]),
                (*node.epilogue, *steps[:index]),
                result.outputs,
            )
            if not self.fuses(before.spec, step):
                return None
            taken += step.operands
        return Node.make(
            node.op,
            (*node.operands, *operands),
            (*node.epilogue, *steps),
            outputs=result.outputs,
            name=node.name or result.name,
        )
