"""Which nodes of a graph run only where a condition asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from joulec.passes.graph import Concat, Node, Opaque, Reshape, Value

_ARMS = (1, 2)
"""The operands of a pick that are taken where the condition holds, and where it does not."""


@dataclass(frozen=True)
class Fork:
    """Picks by one condition, and what only one side of them needs.

    Attributes:
        picks: take the results of the one side or the other.
        sides: nodes, in topological order, that run where the condition holds, and where it does not.
    """

    picks: tuple[Node, ...]
    sides: tuple[tuple[Node, ...], tuple[Node, ...]]

    @property
    def condition(self) -> Value:
        """A single truth value."""
        condition = self.picks[0].operands[0]
        assert isinstance(condition, Value)
        return condition

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All of it."""
        return (*self.sides[0], *self.sides[1], *self.picks)


Unit = Node | Fork


def units(nodes: Sequence[Node], outputs: Collection[Value]) -> list[Unit]:
    """The nodes in an order in which they can run, those that a condition decides on inside of forks.

    Args:
        nodes: in topological order.
        outputs: values that are needed outside of them.
    """
    if not any(map(_is_pick, nodes)):
        return list(nodes)
    together = _Plan(nodes, outputs)
    found = together.ordered(together.forks(alone=False))
    if found is None:  # forks of several picks wait for each other, which those of one cannot
        found = together.ordered(together.forks(alone=True))
    assert found is not None, "a fork of one pick depends on itself"
    return found


def _is_pick(node: Node) -> bool:
    if not isinstance(node.op, Opaque) or node.op.kind != "Where" or node.op.dialect != "onnx" or node.epilogue:
        return False
    condition, *arms = node.operands
    whole = all(arm.type == node.outputs[0].type for arm in arms)
    return len(arms) == len(_ARMS) and whole and isinstance(condition, Value) and condition.type.shape == ()


class _Plan:
    """Nodes known by their position, and who reads what."""

    def __init__(self, nodes: Sequence[Node], outputs: Collection[Value]) -> None:
        self._nodes = nodes
        self._makers = {value: index for index, node in enumerate(nodes) for value in node.outputs}
        self._uses: dict[Value, list[tuple[int, int]]] = {value: [] for value in self._makers}
        for index, node in enumerate(nodes):
            for place, operand in enumerate(node.operands):
                if operand in self._uses:
                    self._uses[operand].append((index, place))
        for value in outputs:
            if value in self._uses:
                self._uses[value].append((-1, 0))
        self._sharing = [
            {index, *(self._makers[operand] for operand in self._in_place(node))}
            for index, node in enumerate(nodes)
            if any(True for _ in self._in_place(node))
        ]

    def _in_place(self, node: Node) -> Iterator[Value]:
        """Operands that lie in the node's result."""
        if isinstance(node.op, Concat) and node.op.in_place:
            for operand, stays in zip(node.operands, node.op.in_place, strict=True):
                if stays and operand in self._makers:
                    assert isinstance(operand, Value)
                    yield operand

    def forks(self, alone: bool) -> list[tuple[list[int], list[list[int]]]]:
        """Positions of picks and of their sides' nodes, the outermost forks only."""
        inside: set[int] = set()
        found = []
        for group in sorted(self._groups(alone), key=max, reverse=True):
            picks = [pick for pick in group if pick not in inside]
            sides = [self._needed_by(picks, arm, inside) for arm in _ARMS] if picks else []
            if any(not isinstance(self._nodes[index].op, Reshape) for side in sides for index in side):
                inside.update(*sides, picks)
                found.append((picks, sides))
        return found

    def _groups(self, alone: bool) -> list[list[int]]:
        """Picks by the same condition of which none depends on another."""
        groups: list[list[int]] = []
        above: list[set[int]] = []
        for index, node in enumerate(self._nodes):
            makers = {self._makers[operand] for operand in node.operands if operand in self._makers}
            before = set(makers).union(*(above[maker] for maker in makers))
            above.append({one for one in before if _is_pick(self._nodes[one])})
            if not _is_pick(node):
                continue
            alike = (group for group in groups if self._nodes[group[0]].operands[0] == node.operands[0])
            group = next((group for group in alike if not above[index].intersection(group)), None)
            if group is None or alone:
                groups.append([index])
            else:
                group.append(index)
        return groups

    def _needed_by(self, picks: Collection[int], arm: int, inside: Collection[int]) -> list[int]:
        """Nodes outside of other forks all of whose results only this arm of the picks needs.

        What lies inside of one tensor is written by one function.
        """
        barred = {*inside, *picks}
        while True:
            side = self._behind(picks, arm, barred)
            apart = [one for one in self._sharing if one & side and not one <= side]
            if not apart:
                return sorted(side)
            barred.update(*apart)

    def _behind(self, picks: Collection[int], arm: int, barred: Collection[int]) -> set[int]:
        side: set[int] = set()
        for index in range(max(picks) - 1, -1, -1):
            node = self._nodes[index]
            uses = [use for value in node.outputs for use in self._uses[value]]
            only = all(reader in side or (reader in picks and place == arm) for reader, place in uses)
            pure = not isinstance(node.op, Opaque) or node.op.pure
            if uses and only and pure and index not in barred:
                side.add(index)
        return side

    def ordered(self, forks: Sequence[tuple[list[int], list[list[int]]]]) -> list[Unit] | None:
        """Nodes and forks, each after what it reads; None where some wait for each other."""
        unit = list(range(len(self._nodes)))
        made: dict[int, Unit] = dict(enumerate(self._nodes))
        for picks, (yes, no) in forks:
            for index in (*picks, *yes, *no):
                unit[index] = picks[0]
                made.pop(index)
            made[picks[0]] = Fork(
                tuple(self._nodes[index] for index in picks),
                (tuple(self._nodes[index] for index in yes), tuple(self._nodes[index] for index in no)),
            )
        waits: dict[int, set[int]] = {one: set() for one in made}
        for index, node in enumerate(self._nodes):
            makers = {unit[self._makers[operand]] for operand in node.operands if operand in self._makers}
            waits[unit[index]] |= makers - {unit[index]}
        found: list[Unit] = []
        done: set[int] = set()
        while len(done) < len(made):
            ready = [one for one in sorted(made) if one not in done and waits[one] <= done]
            if not ready:
                return None
            for one in ready:
                found.append(made[one])
                done.add(one)
        return found
