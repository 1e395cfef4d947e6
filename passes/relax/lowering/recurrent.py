"""RNN, LSTM and GRU, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from joulec.passes.relax.lowering.binary import broadcast
from joulec.passes.relax.lowering.dense import by_vectors, rows_product, widened
from joulec.passes.relax.lowering.movement import cut
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c

_MOST_STEPS = 512
"""Longer sequences would make a program of that many calls."""

Gate = Callable[[Any], Any]


def _activations(site: Site, per_direction: Sequence[str], direction: int) -> list[Gate] | None:
    names = [str(n.decode() if isinstance(n, bytes) else n) for n in site.attribute("activations", [])]
    names = names or list(per_direction) * (2 if site.attribute("direction", "forward") == "bidirectional" else 1)
    if site.attribute("activation_alpha") or site.attribute("activation_beta"):
        return None
    known: dict[str, Gate] = {
        "sigmoid": lambda x: c(x, 1) / (c(x, 1) + tirx.exp(-x)),
        "tanh": tirx.tanh,
        "relu": lambda x: tirx.max(x, c(x, 0)),
    }
    own = names[direction * len(per_direction) : (direction + 1) * len(per_direction)]
    if len(own) != len(per_direction) or any(name.lower() not in known for name in own):
        return None
    return [known[name.lower()] for name in own]


class _Cell:
    """What the three have in common: one direction of one layer.

    Attributes:
        steps: length of the sequence.
        hidden: size of the state.
        ahead: products of all steps with W, biases of W added: [steps, batch, gates * hidden].
    """

    def __init__(self, site: Site, direction: int, gates: int) -> None:
        self.site, self.direction, self.gates = site, direction, gates
        self._widened: dict[int, Any] = {}
        data = site.operands[0]
        if site.attribute("layout", 0):
            data = site.emit(relax.op.permute_dims(data, [1, 0, 2]))
        self.steps, self.batch, depth = (int(size) for size in data.ty.shape.values)
        self.hidden = site.shape(2)[2]
        flat = site.reshape(data, (self.steps * self.batch, depth))
        ahead = site.reshape(
            self._product(flat, 1, 0, gates * self.hidden), (self.steps, self.batch, gates * self.hidden)
        )
        self.bias: list[Any] = []
        if site.has(3):
            whole = self._own(3)
            wide = gates * self.hidden
            self.bias = [cut(site, whole, 0, part * wide, wide) for part in (0, 1)]
            ahead = broadcast(site, lambda x, b: x + b, [ahead, self.bias[0]])
        self.ahead = ahead
        turned = site.attribute("direction", "forward")
        self.backward = turned == "reverse" or direction == 1

    def _own(self, index: int) -> Any:
        """This direction's part of an operand."""
        part = cut(self.site, self.site.operands[index], 0, self.direction, 1)
        return self.site.reshape(part, [int(size) for size in part.ty.shape.values[1:]])

    def _product(self, data: Any, index: int, begin: int, count: int) -> Any:
        """Products of rows of data with rows of a weight, in this direction."""
        site = self.site
        if by_vectors(data, count):
            return rows_product(site, widened(site, data), self._wide(index), self.direction, begin, count)
        rows = cut(site, self._own(index), 0, begin, count)
        return site.emit(relax.op.matmul(data, site.emit(relax.op.permute_dims(rows))))

    def _wide(self, index: int) -> Any:
        """A weight as `rows_product` takes it, made once for all steps."""
        if index not in self._widened:
            self._widened[index] = widened(self.site, self.site.operands[index])
        return self._widened[index]

    def recurrent(self, state: Any, gate: int | None = None) -> Any:
        """Products of a state with R: of all gates, or of one."""
        if gate is None:
            return self._product(state, 2, 0, self.gates * self.hidden)
        return self._product(state, 2, gate * self.hidden, self.hidden)

    def initial(self, index: int) -> Any:
        """A first state."""
        site = self.site
        if not site.has(index):
            return site.emit(relax.op.zeros((self.batch, self.hidden), "float32"))
        if site.attribute("layout", 0):
            turned = site.emit(relax.op.permute_dims(site.operands[index], [1, 0, 2]))
            return site.reshape(cut(site, turned, 0, self.direction, 1), (self.batch, self.hidden))
        return self._own(index)

    def at(self, step: int) -> Any:
        """Products of one step."""
        return self.site.reshape(cut(self.site, self.ahead, 0, step, 1), (self.batch, self.gates * self.hidden))

    def gate(self, x: Any, index: int) -> Any:
        """A gate's part of the products."""
        return cut(self.site, x, 1, index * self.hidden, self.hidden)

    def masked(self, step: int, new: Any, old: Any) -> Any:
        """The new state where the sequence is not over yet."""
        if not self.site.has(4):
            return new
        lengths = self.site.reshape(self.site.operands[4], (self.batch, 1))
        return broadcast(
            self.site,
            lambda n, o, size: tirx.Select(tirx.const(step, dtype_of(size)) < size, n, o),
            [new, old, lengths],
        )

    def output(self, step: int, state: Any) -> Any:
        """A step's result: the state, zero once the sequence is over."""
        return self.masked(step, state, self.site.emit(relax.op.zeros((self.batch, self.hidden), "float32")))

    def final(self, state: Any) -> Any:
        """A last state: zero, as in ONNX Runtime, where the sequence has no step at all."""
        return self.masked(0, state, self.site.emit(relax.op.zeros((self.batch, self.hidden), "float32")))

    def order(self) -> list[int]:
        """Steps in the order of computation."""
        return list(range(self.steps))[:: -1 if self.backward else 1]


def _clipped(site: Site, x: Any) -> Any:
    bound = site.attribute("clip")
    return x if bound is None else tirx.max(tirx.min(x, c(x, bound)), c(x, -bound))


Step = Callable[[_Cell, Any, list[Any], Sequence[Gate]], list[Any]]
"""New states (the first is the output) from the step's products and the old states."""


def _recurrent(gates: int, activations: Sequence[str], states: int, step: Step) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        if site.dtype(0) != "float32" or site.shape(0)[1 if site.attribute("layout", 0) else 0] > _MOST_STEPS:
            return None
        count = 2 if site.attribute("direction", "forward") == "bidirectional" else 1
        sequences, finals = [], []
        for direction in range(count):
            functions = _activations(site, activations, direction)
            if functions is None:
                return None
            cell = _Cell(site, direction, gates)
            current = [cell.initial(5 + index) for index in range(states)]
            rows: dict[int, Any] = {}
            for place in cell.order():
                new = step(cell, cell.at(place), current, functions)
                rows[place] = site.reshape(cell.output(place, new[0]), (1, 1, cell.batch, cell.hidden))
                current = [cell.masked(place, n, o) for n, o in zip(new, current, strict=True)]
            parts = [rows[place] for place in range(cell.steps)]
            sequences.append(site.emit(relax.op.concat(parts, axis=0)) if len(parts) > 1 else parts[0])
            finals.append([site.reshape(cell.final(state), (1, cell.batch, cell.hidden)) for state in current])
        return _arranged(site, sequences, finals)

    return lowering


def _arranged(site: Site, sequences: list[Any], finals: list[list[Any]]) -> Exprs:
    """Directions side by side, in the layout asked for."""

    def joined(parts: list[Any], axis: int) -> Any:
        return site.emit(relax.op.concat(parts, axis=axis)) if len(parts) > 1 else parts[0]

    found = [joined(sequences, 1), *(joined(list(states), 0) for states in zip(*finals, strict=True))]
    if site.attribute("layout", 0):
        found = [
            site.emit(relax.op.permute_dims(one, order))
            for one, order in zip(found, ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2]), strict=False)
        ]
    return [one for index, one in enumerate(found) if site.wants(index)]


def _rnn_step(cell: _Cell, ahead: Any, states: list[Any], functions: Sequence[Gate]) -> list[Any]:
    site = cell.site
    product = cell.recurrent(states[0])
    terms = [ahead, product, *cell.bias[1:]]
    return [broadcast(site, lambda *x: functions[0](_clipped(site, _sum(x))), terms)]


def _sum(values: Sequence[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _lstm_step(cell: _Cell, ahead: Any, states: list[Any], functions: Sequence[Gate]) -> list[Any]:
    """i = f(..), o = f(..), f = f(..), c' = g(..); C = f·C + i·c'; H = o·h(C); peepholes P look at C."""
    site = cell.site
    f, g, h = functions
    product = cell.recurrent(states[0])
    total = broadcast(site, lambda *x: _sum(x), [ahead, product, *cell.bias[1:]])
    own = [cell.gate(total, index) for index in range(4)]
    peeps: list[Any] = []
    if site.has(7):
        whole = cell._own(7)
        peeps = [cut(site, whole, 0, index * cell.hidden, cell.hidden) for index in range(3)]
    coupled = bool(site.attribute("input_forget", 0))

    def memory(i: Any, forget: Any, new: Any, old: Any, *p: Any) -> Any:
        opened = f(_clipped(site, i + p[0] * old if p else i))
        kept = c(i, 1) - opened if coupled else f(_clipped(site, forget + p[2] * old if p else forget))
        return kept * old + opened * g(_clipped(site, new))

    cells = broadcast(site, memory, [own[0], own[2], own[3], states[1], *peeps])

    def out(o: Any, new: Any, *p: Any) -> Any:
        return f(_clipped(site, o + p[0] * new if p else o)) * h(new)

    return [broadcast(site, out, [own[1], cells, *peeps[1:2]]), cells]


def _gru_step(cell: _Cell, ahead: Any, states: list[Any], functions: Sequence[Gate]) -> list[Any]:
    """z = f(..), r = f(..), h' = g(..); H = (1 - z)·h' + z·H."""
    site, hidden = cell.site, cell.hidden
    f, g = functions
    old = states[0]
    bias = [cut(site, cell.bias[1], 0, index * hidden, hidden) for index in range(3)] if cell.bias else []

    def gate(index: int) -> Any:
        product = cell.recurrent(old, index)
        terms = [cell.gate(ahead, index), product, *bias[index : index + 1]]
        return broadcast(site, lambda *x: f(_clipped(site, _sum(x))), terms)

    update, reset = gate(0), gate(1)
    if site.attribute("linear_before_reset", 0):
        product = cell.recurrent(old, 2)
        inner = broadcast(site, lambda r, *x: r * _sum(x), [reset, product, *bias[2:]])
    else:
        held = broadcast(site, lambda r, o: r * o, [reset, old])
        product = cell.recurrent(held, 2)
        inner = broadcast(site, lambda *x: _sum(x), [product, *bias[2:]])

    def new(z: Any, own: Any, rest: Any, o: Any) -> Any:
        return (c(z, 1) - z) * g(_clipped(site, own + rest)) + z * o

    return [broadcast(site, new, [update, cell.gate(ahead, 2), inner, old])]


LOWERINGS: Mapping[str, Lowering] = {
    "RNN": _recurrent(1, ("Tanh",), 1, _rnn_step),
    "LSTM": _recurrent(4, ("Sigmoid", "Tanh", "Tanh"), 2, _lstm_step),
    "GRU": _recurrent(3, ("Sigmoid", "Tanh"), 1, _gru_step),
}
