"""Rules of linear algebra and of views, before and after as text; side conditions that random graphs seldom break."""

from __future__ import annotations

import math

import numpy as np
import pytest

from joulec.passes.graph import (
    Activation,
    Add,
    Binary,
    Concat,
    Graph,
    LayerNorm,
    MatMul,
    Node,
    Opaque,
    Reshape,
    Softmax,
    Step,
    TensorType,
    Transpose,
    Value,
    literal,
)
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules import ALGEBRA, Match, Mismatch, find
from joulec.passes.rules.text import show

RULE = {rule.name: rule for rule in ALGEBRA}
RELU, BIAS, ADD = Step("activation", "relu"), Step("bias"), Step("add")
MUL, DIV, SUB = Binary("mul"), Binary("div"), Binary("sub")
NUMBERS = {"half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "zero": 0.0, "root": math.sqrt(2)}


def number(name):
    return literal(np.asarray(NUMBERS[name]))


def chain(b):
    return b.matmul("m", b.matmul("a", b.input("x", 2, 3), 4, (BIAS,)), 5, (BIAS, RELU))


def three(b):
    return [b.input("a", 2, 3), b.input("b", 3, 4), b.input("c", 4, 5)]


def left(b):
    one, two, other = three(b)
    return b.node("m", MatMul(), b.node("i", MatMul(), one, two), other)


def right(b):
    one, two, other = three(b)
    return b.node("m", MatMul(), one, b.node("i", MatMul(), two, other))


def total(b, x, y):
    other = b.matmul("o", y, 4, (BIAS,))
    return b.node("m", MatMul(), x, b.const(x.type.shape[-1], 4), b.const(4), other, epilogue=(BIAS, ADD, RELU))


def twice(b):
    x = b.input("x", 2, 3)
    return total(b, x, x)


def split(b):
    both = b.concat("k", b.input("x", 2, 3), b.input("y", 2, 5))
    return b.matmul("m", both, 4, (BIAS, RELU))


def factor(b, inside):
    one, two = b.input("a", 2, 3), b.input("b", 3, 4)
    if inside:
        return b.node("m", MatMul(), b.node("s", DIV, one, number("two")), two)
    return b.node("s", DIV, b.node("m", MatMul(), one, two), number("two"))


def norm(b):
    scaled = b.node("n", LayerNorm(1), b.input("x", 2, 3), b.const(3), b.const(3))
    return b.node("end", Add(), b.matmul("m", scaled, 4), b.matmul("o", scaled, 4, (BIAS,)))


def one(b, op, *shape, name="f", **options):
    """A node of an operator on an input of a shape."""
    operands = options.pop("more", ())
    return b.node(name, op, b.input("x", *shape), *operands, **options)


def gelu(b):
    x = b.relu("x", b.input("in", 2, 3))
    gate = b.node("g", Add(), b.node("e", Activation("erf"), b.node("d", DIV, x, number("root"))), number("one"))
    return b.node("h", MUL, b.node("p", MUL, x, gate), number("half"))


def equal(b):
    x = b.input("x", 2, 3)
    return b.node("end", SUB, *(b.relu(f"r{i}", b.node(f"t{i}", Activation("tanh"), x)) for i in range(2)))


def pair(b):
    views = [b.node(n, Transpose((1, 0)), b.input(f"{n}in", 2, 3)) for n in "vw"]
    return b.node("f", Add(), *views)


def two_ways(b):
    x = b.input("x", 2, 3)
    return b.node("k", Concat(1), b.matmul("m", x, 2, (RELU,)), b.matmul("o", x, 2, (), transpose_b=True))


EXAMPLES = {
    "fold-weight-chain": (chain, "m = matmul+bias+relu(x, 3x5, (5 + reshape(1x5, 5)))"),
    "associate-right": (left, "%0 = matmul(b, c)\nm = matmul(a, %0)"),
    "associate-left": (right, "%0 = matmul(a, b)\nm = matmul(%0, c)"),
    "add-weights": (twice, "m = matmul+bias+relu(x, (3x4 + 3x4), (4 + 4))"),
    "join-products": (
        lambda b: total(b, b.input("x", 2, 3), b.input("y", 2, 5)),
        "%0 = concat(x, y, axis=1)\nm = matmul+bias+relu(%0, [3x4 ; 5x4], (4 + 4))",
    ),
    "split-product": (
        split,
        "%0 = matmul(y, slice(8x4, 5x4))\nm = matmul+bias+add+relu(x, slice(8x4, 3x4), 4, %0)",
    ),
    "scale-columns": (
        lambda b: b.node("s", DIV, b.matmul("m", b.input("x", 2, 3), 4, (BIAS,)), b.const(4), epilogue=(RELU,)),
        "s = matmul+bias+relu(x, 3x4, 4)",
    ),
    "scale-rows": (
        lambda b: b.matmul("m", one(b, MUL, 2, 3, more=[b.const(3)]), 4, (BIAS,)),
        "m = matmul+bias(x, 3x4, 4)",
    ),
    "shift-into-bias": (
        lambda b: b.matmul("m", one(b, Add(), 2, 3, more=[b.const(3)]), 4, (RELU,)),
        "m = matmul+bias+relu(x, 3x4, reshape(1x4, 4))",
    ),
    "scale-factor": (lambda b: factor(b, inside=False), "%0 = binary(a, , kind=div)\ns = matmul(%0, b)"),
    "scale-result": (lambda b: factor(b, inside=True), "%0 = matmul(a, b)\nm = binary(%0, , kind=div)"),
    "fold-norm-scale": (
        norm,
        "%0 = layer_norm(x, axis=1)\nm = matmul+bias(%0, 3x4, reshape(1x4, 4))\n"
        "o = matmul+bias(%0, 3x4, (4 + reshape(1x4, 4)))\nend = add(m, o)",
    ),
    "reciprocal-scale": (
        lambda b: one(b, DIV, 2, 3, more=[number("three")], epilogue=(RELU,)),
        "f = binary+relu(x, , kind=mul)",
    ),
    "negated-shift": (lambda b: one(b, SUB, 2, 3, more=[b.const(3)]), "f = add(x, 3)"),
    "combine-scales": (
        lambda b: b.node("s", MUL, one(b, DIV, 2, 3, more=[number("three")]), b.const(3)),
        "s = binary(x, 3, kind=mul)",
    ),
    "combine-shifts": (
        lambda b: b.node("s", Add(), one(b, SUB, 2, 3, more=[b.const(3)]), b.const(3)),
        "s = add(x, (3 + 3))",
    ),
    "unit-scale": (lambda b: b.relu("r", one(b, DIV, 2, 3, more=[number("one")])), "r = activation(x, kind=relu)"),
    "zero-shift": (lambda b: b.relu("r", one(b, Add(), 2, 3, more=[number("zero")])), "r = activation(x, kind=relu)"),
    "distribute-scale": (
        lambda b: b.node("s", MUL, one(b, Add(), 2, 3, more=[b.input("y", 2, 3)]), number("two")),
        "%0 = binary(x, , kind=mul)\n%1 = binary(y, , kind=mul)\ns = add(%0, %1)",
    ),
    "factor-scale": (
        lambda b: b.node("t", Add(), *(b.node(n, MUL, b.input(f"{n}in", 2, 3), number("two")) for n in "ab")),
        "%0 = add(ain, bin)\nt = binary(%0, , kind=mul)",
    ),
    "flatten-sums": (
        lambda b: b.node("t", Add(), one(b, Add(), 2, 3, more=[b.input("y", 2, 3)]), b.input("z", 2, 3)),
        "t = add(x, y, z)",
    ),
    "transpose-of-elementwise": (
        lambda b: b.node("v", Transpose((1, 0)), one(b, Activation("tanh"), 2, 3)),
        "%0 = transpose(x, permutation=1|0)\nv = activation(%0, kind=tanh)",
    ),
    "reshape-of-elementwise": (
        lambda b: b.node("v", Reshape((6,)), one(b, DIV, 2, 3, more=[number("two")])),
        "%0 = reshape(x, shape=6)\nv = binary(%0, , kind=div)",
    ),
    "elementwise-of-view": (
        lambda b: b.node("v", Activation("tanh"), one(b, Transpose((1, 0)), 2, 3), epilogue=(RELU,)),
        "v = activation+relu(x, kind=tanh)\nv = transpose(v, permutation=1|0)",
    ),
    "softmax-of-transpose": (
        lambda b: b.node("s", Softmax(2), one(b, Transpose((1, 2, 0)), 2, 3, 4)),
        "%0 = softmax(x, axis=0)\ns = transpose(%0, permutation=1|2|0)",
    ),
    "softmax-of-shift": (
        lambda b: b.node("s", Softmax(1), one(b, Add(), 2, 3, more=[b.const(2, 1)])),
        "s = softmax(x, axis=1)",
    ),
    "combine-transposed": (pair, "%0 = add(vin, win)\nf = transpose(%0, permutation=1|0)"),
    "flip-transposed-operand": (
        lambda b: b.node("m", MatMul(), b.input("a", 2, 3), one(b, Transpose((1, 0)), 4, 3)),
        "m = matmul(a, x, transpose_b=True)",
    ),
    "transpose-of-product": (
        lambda b: b.node("t", Transpose((1, 0)), b.matmul("m", b.input("x", 2, 3), 4, (RELU,))),
        "t = matmul+relu(transpose(3x4, 4x3), x, transpose_b=True)",
    ),
    "gelu-of-erf": (gelu, "x = activation(in, kind=relu)\nh = activation(x, kind=gelu)"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_before_and_after(tools, name):
    make, after = EXAMPLES[name]
    b = tools.Builder()
    graph = b.graph(make(b))
    [match] = [found for _, found in find(graph, (RULE[name],)) if isinstance(found, Match)]
    changed = graph.apply(RULE[name].rewrite(graph, match))
    lines = [line for line in show(changed).splitlines() if not line.startswith("return")]
    tools.assert_valid(changed)
    tools.assert_equal(graph, changed)
    assert "\n".join(lines) == after


def only(graph, name):
    [found] = [found for _, found in find(graph, (RULE[name],))]
    return found


def test_equal_nodes_become_one(tools):
    b = tools.Builder()
    graph = b.graph(equal(b))
    ends = [graph]
    while found := [one for _, one in find(ends[-1], (RULE["share-equal"],))]:
        ends.append(ends[-1].apply(RULE["share-equal"].rewrite(ends[-1], found[0])))
        tools.assert_equal(graph, ends[-1])
    assert [len(end.nodes) for end in ends] == [5, 4, 3]


def test_equal_nodes_with_effects_stay(tools):
    b = tools.Builder()
    type = TensorType((2, 3), "float64")
    x = b.input("x", 2, 3)
    op = Opaque("Dropout", "onnx", b"", (type,), (type,), pure=False)
    graph = b.graph(b.node("k", Concat(1), b.node("p", op, x), b.node("q", op, x)))
    assert "effects" in only(graph, "share-equal").reason


def test_a_weight_is_stored_like_another_so_that_both_merge(tools):
    b = tools.Builder()
    graph = b.graph(two_ways(b))
    found = [match for _, match in find(graph, (RULE["store-transposed"],))]
    assert [type(match) for match in found] == [Match, Match]
    for match in found:
        changed = graph.apply(RULE["store-transposed"].rewrite(graph, match))
        tools.assert_equal(graph, changed)
        assert len({node.op.transpose_b for node in changed.nodes if isinstance(node.op, MatMul)}) == 1


@pytest.mark.parametrize(
    ("name", "op", "constant", "reason"),
    [
        ("reciprocal-scale", DIV, np.zeros(3), "zero somewhere"),
        ("reciprocal-scale", DIV, np.ones(3, np.int64), "integers"),
    ],
)
def test_constants_that_cannot_be_turned_round(name, op, constant, reason):
    x = Value.input("x", TensorType((2, 3), str(constant.dtype)))
    node = Node.make(op, (x, literal(constant)), name="y")
    found = only(Graph.build((x,), node.outputs, (node,), ("y",)), name)
    assert isinstance(found, Mismatch)
    assert reason in found.reason


def test_a_rounded_reciprocal_stays_within_its_tolerance():
    """One and a half units in the last place of float32."""
    rng = np.random.default_rng(2)
    x = Value.input("x", TensorType((2000,)))
    data = rng.standard_normal(2000).astype("f")
    node = Node.make(DIV, (x, literal(np.asarray(3.0, "f"))), name="y")
    graph = Graph.build((x,), node.outputs, (node,), ("y",))
    changed = graph.apply(RULE["reciprocal-scale"].rewrite(graph, only(graph, "reciprocal-scale")))
    (exact,), (rounded,) = (evaluate(one, {"x": data}) for one in (graph, changed))
    assert np.abs(exact - rounded).max() > 0
    assert (np.abs(exact - rounded) <= 1.5 * np.spacing(np.abs(exact))).all()
