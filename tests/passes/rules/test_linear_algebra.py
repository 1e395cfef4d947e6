"""Rules of linear algebra and of views: before and after as text, side conditions, random graphs with boundaries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import (
    Activation,
    Add,
    Binary,
    ChannelAffine,
    Concat,
    LayerNorm,
    MatMul,
    Reshape,
    Softmax,
    Step,
    Transpose,
    literal,
)
from joulec.passes.rules import RULES, find

RULE = {rule.name: rule for rule in RULES}
RELU, BIAS, ADD, ERF = Step("activation", "relu"), Step("bias"), Step("add"), Step("activation", "erf")
MUL, DIV, SUB = Binary("mul"), Binary("div"), Binary("sub")
EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, database=None)
sizes = st.integers(1, 4)


def number(value):
    """A constant number."""
    return literal(np.asarray(value, np.float64))


def pick(draw, *choices):
    return draw(st.sampled_from(choices))


def seldom(draw):
    return draw(st.integers(0, 5)) == 0


# ---------------------------------------------------------------- random graphs, one function per rule or pair of rules


def linear(draw, b, name, data, width, epilogue=None):
    epilogue = pick(draw, (), (BIAS,)) if epilogue is None else epilogue
    if len(data.type.shape) == 4 and BIAS in epilogue:
        epilogue = tuple(step for step in epilogue if step != BIAS)
    return b.matmul(name, data, width, epilogue, draw(st.booleans()))


def shape(draw, ranks=(2, 3, 4)):
    return [draw(sizes) for _ in range(pick(draw, *ranks))]


def ending(draw, b, result, *inner):
    """The result, perhaps with inner values that the graph returns too."""
    return b.graph(result, *(value for value in inner if seldom(draw)))


def constant_like(draw, b, dims, *, anywhere=True):
    """A constant that broadcasts to dims: a number, a vector along the last axis, or along any."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return number(pick(draw, 0.5, 3.0, -2.0))
    if kind == 1:
        return b.const(*([1] * draw(st.integers(0, len(dims)))))
    if kind == 2 or not anywhere:
        return b.const(dims[-1])
    return b.const(*(size if draw(st.booleans()) else 1 for size in dims))


def scale(draw, b, name, data, epilogue=(), *, anywhere=True, always=None):
    kind = draw(st.integers(0, 4)) if always is None else always
    if kind == 4 and len(data.type.shape) >= 2:
        channels = data.type.shape[1]
        factor = literal(np.full(channels, 0.25)) if draw(st.booleans()) else b.const(channels)
        return b.node(name, ChannelAffine(), data, factor, literal(np.zeros(channels)), epilogue=epilogue)
    constant = constant_like(draw, b, data.type.shape, anywhere=anywhere)
    if kind == 0:
        return b.node(name, MUL, constant, data, epilogue=epilogue)
    return b.node(name, DIV if kind == 1 else MUL, data, constant, epilogue=epilogue)


def shift(draw, b, name, data, epilogue=(), *, anywhere=True):
    constant = constant_like(draw, b, data.type.shape, anywhere=anywhere)
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return b.node(name, Add(), constant, data, epilogue=epilogue)
    return b.node(name, SUB if kind == 1 else Add(), data, constant, epilogue=epilogue)


def chains(draw, b):
    x = b.input("x", *shape(draw))
    first = linear(draw, b, "first", x, draw(sizes), (RELU,) if seldom(draw) else None)
    return ending(draw, b, linear(draw, b, "second", first, draw(sizes), pick(draw, (), (BIAS, RELU), (BIAS,))), first)


def products(draw, b):
    """(a · b) · c or a · (b · c), with some factors constant and some leading dimensions of one."""
    rank, m, k, n, p = pick(draw, 2, 3), *(draw(sizes) for _ in range(4))
    lead = [draw(sizes) for _ in range(rank - 2)]

    def factor(name, rows, columns):
        dims = [*(1 if seldom(draw) else size for size in lead), rows, columns]
        return b.const(*dims) if seldom(draw) else b.input(name, *dims)

    turned = draw(st.booleans())
    inner_turned = turned if draw(st.booleans()) else seldom(draw)
    steps = (RELU,) if seldom(draw) else ()
    if draw(st.booleans()):
        one, two = b.input("a", *lead, m, k), factor("b", *((n, k) if inner_turned else (k, n)))
        inner = b.node("inner", MatMul(inner_turned), one, two, epilogue=steps)
        outer = b.node("outer", MatMul(turned), inner, factor("c", *((p, n) if turned else (n, p))))
    else:
        outer_turned = seldom(draw)
        one, two = factor("b", k, n), b.input("c", *lead, *((p, n) if turned else (n, p)))
        inner = b.node("inner", MatMul(turned), one, two, epilogue=steps)
        rows = (m, p) if outer_turned else (m, k)
        outer = b.node("outer", MatMul(outer_turned), factor("a", *rows), inner, epilogue=pick(draw, (), (RELU,)))
    return ending(draw, b, outer, inner)


def sums(draw, b, same):
    dims = shape(draw)
    x = b.input("x", *dims)
    y = x if same else b.input("y", *dims[:-1], draw(sizes))
    width = draw(sizes)
    other = linear(draw, b, "other", y, width, (RELU,) if seldom(draw) else None)
    before = pick(draw, (), (BIAS,), (RELU,)) if len(dims) != 4 else ()
    turned = draw(st.booleans())
    weight = b.const(*((width, dims[-1]) if turned else (dims[-1], width)))
    extra = [b.const(width) for step in before if step == BIAS]
    steps = (*before, ADD, *pick(draw, (), (RELU,)))
    total = b.node("total", MatMul(turned), x, weight, *extra, other, epilogue=steps)
    return ending(draw, b, total, other)


def joined(draw, b):
    dims = shape(draw)
    count = draw(st.integers(1, 3))
    parts = [b.input(f"x{i}", *dims[:-1], draw(sizes)) for i in range(count)]
    if seldom(draw):
        parts.append(b.const(*dims))
    axis = len(dims) - 1
    if seldom(draw) and len({part.type for part in parts}) == 1:
        axis = 0
    both = b.node("k", Concat(axis), *parts, epilogue=(RELU,) if seldom(draw) else ())
    epilogue = pick(draw, (), (BIAS,), (RELU,), (BIAS, RELU))
    return ending(draw, b, linear(draw, b, "m", both, draw(sizes), epilogue), both)


def columns(draw, b):
    x = b.input("x", *shape(draw))
    epilogue = (RELU,) if seldom(draw) else None
    product = linear(draw, b, "m", x, draw(sizes), epilogue)
    return ending(draw, b, scale(draw, b, "s", product, pick(draw, (), (RELU,))), product)


def rows(draw, b, make):
    x = b.input("x", *shape(draw))
    before = make(draw, b, "s", x, (RELU,) if seldom(draw) else ())
    return ending(draw, b, linear(draw, b, "m", before, draw(sizes), pick(draw, (), (BIAS,), (RELU,))), before)


def factors(draw, b):
    """(a · b) · c and (a · c) · b for computed a and b."""
    lead = [draw(sizes) for _ in range(draw(st.integers(0, 2)))]
    m, k, n = (draw(sizes) for _ in range(3))
    turned = draw(st.booleans())
    left, right = b.input("a", *lead, m, k), b.input("b", *lead, *((n, k) if turned else (k, n)))
    steps = (RELU,) if seldom(draw) else ()

    def scaled(data, epilogue):
        if draw(st.integers(0, 2)) == 0:
            return scale(draw, b, "s", data, epilogue)
        return b.node("s", pick(draw, MUL, DIV), data, number(3.0), epilogue=epilogue)

    if draw(st.booleans()):
        inner = b.node("m", MatMul(turned), left, right, epilogue=steps)
        return ending(draw, b, scaled(inner, pick(draw, (), (RELU,))), inner)
    inner = scaled(left, steps)
    return ending(draw, b, b.node("m", MatMul(turned), inner, right, epilogue=(RELU,) if seldom(draw) else ()), inner)


def norms(draw, b):
    dims = shape(draw)
    x = b.input("x", *dims)
    axis = 0 if seldom(draw) else len(dims) - 1
    extra = [b.const(*dims[axis:]) for _ in range(draw(st.integers(0, 2)))]
    norm = b.node("norm", LayerNorm(axis, 0.1), x, *extra, epilogue=(RELU,) if seldom(draw) else ())
    epilogues = pick(draw, (), (BIAS,), (BIAS, RELU), (RELU,))
    readers = [linear(draw, b, f"m{i}", norm, draw(sizes), epilogues) for i in range(draw(st.integers(1, 3)))]
    readers += [b.relu("other", norm)] if seldom(draw) else []
    return ending(draw, b, readers[0], *readers[1:], norm)


def constants(draw, b):
    """Two scales or shifts in a row, with constants of one and of zero among them."""
    x = b.input("x", *shape(draw, (1, 2, 3)))
    steps = (RELU,) if seldom(draw) else ()
    make = pick(draw, scale, shift)
    first = make(draw, b, "first", x, steps)
    if draw(st.booleans()):
        trivial = pick(draw, (MUL, 1.0), (DIV, 1.0), (SUB, 0.0), (Add(), 0.0), (Add(), 0.0))
        second = b.node("second", trivial[0], first, number(trivial[1]), epilogue=(RELU,) if seldom(draw) else ())
    else:
        second = make(draw, b, "second", first, pick(draw, (), (RELU,)))
    return ending(draw, b, b.relu("end", second), first)


def zeros(draw, b):
    x = b.input("x", *shape(draw, (1, 2)))
    zero = literal(np.zeros(pick(draw, (), x.type.shape, (1,))))
    steps = (RELU,) if draw(st.integers(0, 2)) == 0 else ()
    if draw(st.booleans()):
        return b.graph(b.relu("r", b.node("s", Add(), x, zero, epilogue=steps)))
    op, constant = pick(draw, (MUL, literal(np.ones(zero.type.shape))), (DIV, number(1.0)), (SUB, zero))
    return b.graph(b.relu("r", b.node("s", op, x, constant, epilogue=steps)))


def distributed(draw, b):
    dims = shape(draw, (1, 2, 3))
    values = [b.input(f"x{i}", *dims) for i in range(draw(st.integers(2, 3)))]
    if seldom(draw):
        values.append(b.input("row", 1))
    steps = (RELU,) if seldom(draw) else ()
    constant = b.const(dims[-1]) if seldom(draw) else number(3.0)
    if draw(st.booleans()):
        total = b.node("t", Add(), *values, epilogue=steps)
        return ending(
            draw, b, b.node("s", pick(draw, MUL, DIV), total, constant, epilogue=pick(draw, (), (RELU,))), total
        )
    op = pick(draw, MUL, DIV)
    scaled = []
    for index, value in enumerate(values):
        other = number(2.0) if seldom(draw) else constant
        scaled.append(b.node(f"s{index}", op, value, other, epilogue=steps))
    return ending(draw, b, b.node("t", Add(), *scaled, epilogue=pick(draw, (), (RELU,))), scaled[0])


def nested(draw, b):
    dims = shape(draw, (1, 2, 3))
    values = [b.input(f"x{i}", *dims) for i in range(3)]
    inner = b.node("inner", Add(), *values[: draw(st.integers(1, 2))], epilogue=(RELU,) if seldom(draw) else ())
    around = draw(st.permutations([inner, values[2], *([inner] if seldom(draw) else [])]))
    return ending(draw, b, b.node("outer", Add(), *around, epilogue=pick(draw, (), (RELU,))), inner)


def view(draw, b, name, data, epilogue=(), op=None):
    dims = data.type.shape
    if op is None and draw(st.booleans()):
        op = Transpose(tuple(draw(st.permutations(range(len(dims))))))
    elif op is None:
        op = Reshape(pick(draw, (math.prod(dims),), (1, math.prod(dims)), dims[::-1], (*dims, 1)))
    return b.node(name, op, data, epilogue=epilogue)


def pointwise(draw, b, name, data, epilogue=()):
    if draw(st.booleans()):
        return b.node(name, Activation(pick(draw, "tanh", "gelu")), data, epilogue=epilogue)
    if seldom(draw):
        return scale(draw, b, name, data, epilogue)
    return b.node(name, pick(draw, MUL, DIV), data, number(3.0), epilogue=epilogue)


def moved(draw, b, view_last):
    x = b.input("x", *shape(draw, (2, 3)))
    steps, other = pick(draw, (), (), (RELU,)), pick(draw, (), (), (RELU,))
    if view_last:
        inner = pointwise(draw, b, "f", x, steps)
        return ending(draw, b, view(draw, b, "v", inner, other), inner)
    inner = view(draw, b, "v", x, other)
    return ending(draw, b, pointwise(draw, b, "f", inner, steps), inner)


def softmaxes(draw, b):
    x = b.input("x", *shape(draw))
    kind = draw(st.integers(0, 3))
    steps = (RELU,) if seldom(draw) else ()
    rank = len(x.type.shape)
    if kind == 0:
        inner = b.node("v", Transpose(tuple(draw(st.permutations(range(rank))))), x, epilogue=steps)
    elif kind == 1:
        inner = shift(draw, b, "c", x, steps)
    elif kind == 2:
        inner = b.node("c", Add(), x, b.input("y", *(pick(draw, 1, size) for size in x.type.shape)), epilogue=steps)
    else:
        width = x.type.shape[1] if rank == 4 else draw(sizes)
        inner = b.matmul("c", x, width, (BIAS,))
    soft = b.node("s", Softmax(draw(st.integers(0, rank - 1))), inner, epilogue=pick(draw, (), (RELU,)))
    return ending(draw, b, soft, inner)


def paired(draw, b):
    dims = shape(draw, (2, 3))
    x, y = b.input("x", *dims), b.input("y", *dims)
    steps = (RELU,) if seldom(draw) else ()
    first = view(draw, b, "v", x, steps)
    second = view(draw, b, "w", y, steps, None if seldom(draw) else b.nodes[-1].op)
    if first.type.shape != second.type.shape:
        return b.graph(first, second)
    op = pick(draw, Add(), MUL, SUB)
    return ending(draw, b, b.node("f", op, first, second, epilogue=pick(draw, (), (RELU,))), first)


def transposed_operands(draw, b):
    m, k, n, lead = draw(sizes), draw(sizes), draw(sizes), [draw(sizes) for _ in range(draw(st.integers(0, 2)))]
    turned = draw(st.booleans())
    wanted = [*lead, *((n, k) if turned else (k, n))]
    permutation = draw(st.permutations(range(len(wanted))))
    if draw(st.booleans()):
        permutation = [*range(len(lead)), len(lead) + 1, len(lead)]
    source = [0] * len(wanted)
    for axis, place in enumerate(permutation):
        source[place] = wanted[axis]
    flipped = b.node(
        "t", Transpose(tuple(permutation)), b.input("b", *source), epilogue=(RELU,) if seldom(draw) else ()
    )
    return ending(draw, b, b.node("m", MatMul(turned), b.input("a", *lead, m, k), flipped), flipped)


def stored(draw, b):
    x = b.input("x", *shape(draw, (2, 3)))
    depth = x.type.shape[-1]
    turned = draw(st.booleans())
    dims = [depth, draw(sizes)][:: -1 if turned else 1]
    lead = [x.type.shape[0]] if len(x.type.shape) == 3 and seldom(draw) else []
    first = b.node("m", MatMul(turned), x, b.const(*lead, *dims))
    return b.graph(first, b.matmul("n", x, draw(sizes), (), not turned if draw(st.booleans()) else turned))


def turned_products(draw, b):
    lead = [draw(sizes) for _ in range(draw(st.integers(0, 2)))]
    m, k, n = (draw(sizes) for _ in range(3))
    turned = draw(st.booleans())
    dims = (n, k) if turned else (k, n)
    right = b.const(*dims) if draw(st.booleans()) else b.input("b", *lead, *dims)
    bias = (BIAS,) if seldom(draw) and len(lead) < 2 else ()
    extra = [b.const(n) for _ in bias]
    steps = (*bias, *pick(draw, (), (RELU,)))
    product = b.node("m", MatMul(turned), b.input("a", *lead, m, k), right, *extra, epilogue=steps)
    rank = len(lead) + 2
    permutation = (
        [*range(rank - 2), rank - 1, rank - 2] if draw(st.integers(0, 3)) else draw(st.permutations(range(rank)))
    )
    flipped = b.node("t", Transpose(tuple(permutation)), product, epilogue=(RELU,) if seldom(draw) else ())
    return ending(draw, b, flipped, product)


def gelus(draw, b):
    x = b.relu("x", b.input("in", *shape(draw, (1, 3))))
    root = math.sqrt(2) if draw(st.integers(0, 4)) else 1.0
    fused = draw(st.booleans())
    scaled = b.node("d", *pick(draw, (DIV, x, number(root)), (MUL, number(1 / root), x)), epilogue=(ERF,) * fused)
    error = scaled if fused else b.node("e", Activation("erf"), scaled)
    gate = b.node("g", Add(), *draw(st.permutations([error, number(1.0)])))

    def half(name, value, epilogue=()):
        return b.node(name, *pick(draw, (MUL, value, number(0.5)), (DIV, value, number(2.0))), epilogue=epilogue)

    def product(*values):
        return b.node("p", MUL, *draw(st.permutations(values)))

    form = draw(st.integers(0, 2))
    if form == 0:
        result = half("h", product(x, gate), pick(draw, (), (RELU,)))
    else:
        result = product(half("h", x), gate) if form == 1 else product(x, half("h", gate))
    return ending(draw, b, result, gate)


def equals(draw, b):
    x, y = b.input("x", 2, 3), b.input("y", 2, 3)
    weight = b.const(3, 2)
    steps = pick(draw, (), (RELU,))

    def one(name, kind):
        own = (RELU,) if seldom(draw) else steps
        if kind == 0:
            return b.node(name, MatMul(), x, weight, epilogue=own)
        if kind == 1:
            return b.node(name, pick(draw, Add(), Add(), MUL), *draw(st.permutations([x, y])), epilogue=own)
        if kind == 2:
            return b.node(name, SUB, *draw(st.permutations([x, y])), epilogue=own)
        return b.node(name, Reshape((3, 2)), x, epilogue=own)

    kind = draw(st.integers(0, 3))
    values = [one("p", kind), one("q", kind)]
    values = [value if seldom(draw) else b.relu(f"r{i}", value) for i, value in enumerate(values)]
    return b.graph(*values)


PROPERTIES = {
    "fold-weight-chain": chains,
    "associate-right": products,
    "associate-left": products,
    "add-weights": lambda draw, b: sums(draw, b, same=True),
    "join-products": lambda draw, b: sums(draw, b, same=False),
    "split-product": joined,
    "scale-columns": columns,
    "scale-rows": lambda draw, b: rows(draw, b, scale),
    "shift-into-bias": lambda draw, b: rows(draw, b, shift),
    "scale-factor": factors,
    "scale-result": factors,
    "fold-norm-scale": norms,
    "reciprocal-scale": constants,
    "negated-shift": constants,
    "combine-scales": constants,
    "combine-shifts": constants,
    "unit-scale": zeros,
    "zero-shift": zeros,
    "distribute-scale": distributed,
    "factor-scale": distributed,
    "flatten-sums": nested,
    "transpose-of-elementwise": lambda draw, b: moved(draw, b, view_last=True),
    "reshape-of-elementwise": lambda draw, b: moved(draw, b, view_last=True),
    "elementwise-of-view": lambda draw, b: moved(draw, b, view_last=False),
    "softmax-of-transpose": softmaxes,
    "softmax-of-shift": softmaxes,
    "combine-transposed": paired,
    "flip-transposed-operand": transposed_operands,
    "store-transposed": stored,
    "transpose-of-product": turned_products,
    "gelu-of-erf": gelus,
    "share-equal": equals,
}

NEVER_REFUSED = {"reciprocal-scale", "negated-shift", "store-transposed"}
"""Rules whose refusals are tested one by one below."""


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_a_rule_rewrites_computes_the_same(tools, name):
    count: Counter[str] = Counter()

    @EXAMPLES
    @given(data=st.data())
    def run(data):
        b = tools.Builder(data.draw(st.integers(0, 3)))
        graph = PROPERTIES[name](data.draw, b)
        rule = (RULE[name],)
        count.update(type(found).__name__ for _, found in find(graph, rule))
        for changed in tools.apply_all(graph, rule):
            assert changed.inputs == graph.inputs

    run()
    assert count["Match"] >= 10, f"{name} hardly ever applied: {count}"
    assert count["Mismatch"] >= 3 or name in NEVER_REFUSED, f"{name} hardly ever refused: {count}"
