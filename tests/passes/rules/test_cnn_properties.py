"""The rules for convolutional networks on random graphs with boundaries, as in `test_properties`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    ChannelAffine,
    Concat,
    Conv2d,
    MatMul,
    MaxPool2d,
    OperatorError,
    Pad,
    Reshape,
    Split,
    Step,
    literal,
)
from joulec.passes.rules import RULES, Match, find

RULE = {rule.name: rule for rule in RULES}
RELU, BIAS, ADD = Step("activation", "relu"), Step("bias"), Step("add")
EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, database=None)
MORE = settings(EXAMPLES, max_examples=200)
FUNCTIONS = (
    Activation("relu"),
    Activation("clip", (-0.5, 0.5)),
    Activation("leaky_relu", (0.1,)),
    Activation("tanh"),
    Activation("leaky_relu", (-0.5,)),
)
few = st.integers(1, 3)


@pytest.fixture(scope="module")
def tally():
    """How often each rule applied and refused; both must happen, or the property says nothing."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    rare = {name: count for name, count in counts.items() if count["applied"] < 8 or count["refused"] < 5}
    assert not rare, f"rules that hardly ever applied or refused: {rare}"


def check(tools, tally, graph, *names):
    for name in names:
        rules = (RULE[name],)
        count = tally.setdefault(name, Counter())
        count.update("applied" if isinstance(found, Match) else "refused" for _, found in find(graph, rules))
        tools.apply_all(graph, rules)


def pick(draw, *choices):
    return draw(st.sampled_from(choices))


def rarely(draw, often=6):
    return draw(st.integers(0, often - 1)) == often // 2  # the ends of a range are drawn more often than its middle


def image(draw, b, name="x", channels=None, size=None):
    plane = size or (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    return b.input(name, draw(st.integers(1, 2)), channels or draw(few), *plane)


def tail(draw, b, value, *more):
    """A graph that returns the value behind a step, and now and then something in between as well."""
    extra = [one for one in more if rarely(draw)]
    return b.graph(b.node("tail", Activation("tanh"), value), *extra)


def summed(draw, b, first, conv, epilogue):
    """first + conv(...), as a node or in the convolution's epilogue; ``conv`` emits it with a given epilogue."""
    steps = pick(draw, (), (RELU,))
    if draw(st.booleans()):
        return b.node("total", Add(), *draw(st.permutations([first, conv("c1", epilogue)])), epilogue=steps), False
    return conv("c1", (*epilogue, ADD, *steps), first), True


def adding(b, name, x, kernel, epilogue, added, op):
    """A convolution whose epilogue may add a tensor."""
    operands = [
        b.const(kernel.type.shape[0]) if step == BIAS else added for step in epilogue if step.kind != "activation"
    ]
    return b.node(name, op, x, kernel, *operands, epilogue=epilogue)


def two_convolutions(draw, b, x, y, other):
    """conv(x) + conv(y), the second with attributes of its own now and then."""
    out = 2 * draw(few)
    size = pick(draw, (1, 1), (3, 3), (1, 3), (2, 2))
    attributes = {"padding": (size[0] // 2, size[1] // 2) * 2, "strides": pick(draw, (1, 1), (1, 1), (2, 1))}
    groups = 2 if x.type.shape[1] % 2 == 0 and rarely(draw, 4) else 1
    steps = [pick(draw, (), (BIAS,), *([(RELU,)] if rarely(draw, 4) else [])) for _ in range(2)]
    try:
        first = b.conv("c0", x, out, size, steps[0], groups=groups, **attributes)
        wide = other and draw(st.booleans())
        size = (size[0] + 2, size[1]) if wide else size
        padding = (attributes["padding"][0] + wide, attributes["padding"][1]) * 2
        op_attributes = attributes | {"padding": padding}
        if rarely(draw, 8):
            op_attributes["dilation"] = (2, 1)
        shape = (out, y.type.shape[1] // groups, *size)
        op = Conv2d(groups=groups, **op_attributes)
        return first, *summed(
            draw,
            b,
            first,
            lambda name, epilogue, added=None: adding(b, name, y, b.const(*shape), epilogue, added, op),
            steps[1],
        )
    except OperatorError:
        assume(False)


@MORE
@given(data=st.data())
def test_sum_of_convolutions(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=pick(draw, 1, 2, 4))
    first, total, fused = two_convolutions(draw, b, x, x, other=True)
    check(tools, tally, tail(draw, b, total, first), "sum-of-convolutions" + ("-in-epilogue" if fused else ""))


@MORE
@given(data=st.data())
def test_sum_as_convolution_of_concat(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=pick(draw, 1, 2, 4))
    y = b.input("y", x.type.shape[0], pick(draw, 2, 4), *x.type.shape[2:])
    first, total, fused = two_convolutions(draw, b, x, y if y.type.shape[1] % 2 == 0 else x, other=rarely(draw, 3))
    name = "sum-as-convolution-of-concat" + ("-in-epilogue" if fused else "")
    check(tools, tally, tail(draw, b, total, first), name)


@MORE
@given(data=st.data())
def test_absorb_identity(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b)
    channels = x.type.shape[1]
    (height, top), (width, left) = (draw(st.sampled_from([(1, 0), (3, 1), (2, 0), (3, 2), (2, 1)])) for _ in "hw")
    dilation = pick(draw, (1, 1), (2, 2))
    padding = [top * dilation[0], left * dilation[1]]
    padding += [(height - 1) * dilation[0] - padding[0], (width - 1) * dilation[1] - padding[1]]
    if rarely(draw):
        padding = [padding[2] + 1, padding[1], max(padding[0] - 1, 0), padding[3]]
    groups = channels if rarely(draw) else 1
    kernel = b.const(channels, channels // groups, height, width)
    op = Conv2d((1, 1), tuple(padding), dilation, groups)
    epilogue = pick(draw, (), (BIAS,), (BIAS, RELU) if rarely(draw) else ())
    try:
        total, fused = summed(
            draw, b, x, lambda name, epilogue, added=None: adding(b, name, x, kernel, epilogue, added, op), epilogue
        )
        assume(total.type == x.type)
    except OperatorError:
        assume(False)
    extra = [] if fused else [b.nodes[-2].outputs[0]]
    check(tools, tally, tail(draw, b, total, *extra), "absorb-identity" + ("-in-epilogue" if fused else ""))


@EXAMPLES
@given(data=st.data())
def test_convolution_of_concat(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    shape = draw(few), 2, 4, 5
    x, y = b.input("x", *shape), b.input("y", *shape)
    cat = b.concat("k", x, x if rarely(draw) else y, axis=2 if rarely(draw) else 1)
    size = pick(draw, (1, 1), (3, 2))
    groups = 2 if rarely(draw) else 1
    epilogue = pick(draw, (), (BIAS,), (BIAS, RELU))
    conv = b.conv("c", cat, 2 * draw(few), size, epilogue, groups=groups, padding=(1, 0, 1, 1), strides=(2, 1))
    check(tools, tally, tail(draw, b, conv, cat), "convolution-of-concat")


@EXAMPLES
@given(data=st.data())
def test_groups(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    count, depth, inner = draw(st.integers(2, 3)), 2 * draw(few), pick(draw, 1, 1, 2)
    x = b.input("x", draw(few), depth * count, 4, 4)
    parts = b.split(" ".join(f"p{i}" for i in range(count)), x, *[depth] * count)
    order = list(parts) if draw(st.integers(0, 4)) else draw(st.permutations(parts))
    epilogue, out = pick(draw, (), (BIAS,), (BIAS, RELU)), 2 * draw(few)
    size = pick(draw, (1, 1), (3, 2))
    convs = []
    for index, part in enumerate(order):
        own = (RELU,) if rarely(draw, 12) else epilogue
        convs.append(b.conv(f"c{index}", part, out, size, own, groups=inner, padding=(1, 0, 1, 1)))
    cat = b.concat("k", *convs)
    check(tools, tally, tail(draw, b, cat, convs[0]), "group-convolutions")


@EXAMPLES
@given(data=st.data())
def test_ungroup_convolution(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    groups = draw(st.integers(1, 6))
    x = image(draw, b, channels=groups * draw(few), size=(5, 4))
    epilogue = pick(draw, (), (BIAS,), (BIAS, RELU))
    attributes = {"padding": (1, 0, 0, 1), "strides": pick(draw, (1, 1), (1, 2))}
    conv = b.conv("c", x, groups * draw(few), pick(draw, (1, 1), (2, 3)), epilogue, groups=groups, **attributes)
    check(tools, tally, tail(draw, b, conv), "ungroup-convolution")


@MORE
@given(data=st.data())
def test_convolutions_in_a_row(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=2, size=(draw(st.integers(3, 7)), draw(st.integers(3, 7))))
    sizes = [(1, 1), pick(draw, (3, 3), (2, 1), (2, 2), (1, 1))]
    first, second = draw(st.permutations(sizes))

    def attributes(size):
        edge = 1 if rarely(draw, 3 if size != (1, 1) else 8) else 0
        strides = (1, 2) if rarely(draw, 5) else (1, 1)
        return {"padding": (edge, edge, 0, edge), "strides": strides, "dilation": (1, 1)}

    inner = pick(draw, (), (BIAS,), (BIAS,), (RELU,) if rarely(draw, 3) else ())
    outer = pick(draw, (), (BIAS,), (BIAS, RELU))
    try:
        one = b.conv("c", x, 2 * draw(few), first, inner, **attributes(first))
        two = b.conv("d", one, 2 * draw(few), second, outer, groups=2 if rarely(draw) else 1, **attributes(second))
    except OperatorError:
        assume(False)
    check(tools, tally, tail(draw, b, two, one), "pointwise-of-convolution", "convolution-of-pointwise")


@EXAMPLES
@given(data=st.data())
def test_fold_affine(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=pick(draw, 2, 4), size=(5, 4))
    channels = x.type.shape[1]
    scale, shift = b.const(channels), b.const(channels)
    if draw(st.booleans()):
        shift = literal(shift.value() * 0)
    epilogue = (RELU,) if rarely(draw) else ()
    scaled = b.node("s", ChannelAffine(), x, scale, shift, epilogue=epilogue)
    groups, size = pick(draw, 1, 2), pick(draw, (1, 1), (3, 2))
    padding = pick(draw, (0, 0, 0, 0), (1, 0, 0, 1))
    own = pick(draw, (), (BIAS,), (BIAS, RELU))
    conv = b.conv("c", scaled, 2 * draw(few), size, own, groups=groups, padding=padding)
    check(tools, tally, tail(draw, b, conv, scaled), "fold-affine")


@EXAMPLES
@given(data=st.data())
def test_convolution_as_matmul(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=2)
    padding = (1, 0, 0, 0) if rarely(draw) else (0, 0, 0, 0)
    epilogue = pick(draw, (), (BIAS,), (BIAS, RELU))
    groups = 2 if rarely(draw) else 1
    conv = b.conv("c", x, 2 * draw(few), x.type.shape[2:], epilogue, groups=groups, padding=padding)
    check(tools, tally, tail(draw, b, conv), "convolution-as-matmul")


@EXAMPLES
@given(data=st.data())
def test_matmul_as_convolution(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, size=(2, 1) if rarely(draw) else (1, 1))
    flat = b.node("f", Reshape((x.type.shape[0], x.type.size // x.type.shape[0])), x)
    product = b.matmul("m", flat, draw(few), pick(draw, (), (BIAS,), (BIAS, RELU)), draw(st.booleans()))
    check(tools, tally, tail(draw, b, product), "matmul-as-convolution")


@EXAMPLES
@given(data=st.data())
def test_pointwise_as_matmul(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, size=(draw(st.integers(2, 4)), draw(few)))
    conv = b.conv("c", x, draw(few), (1, 1), pick(draw, (), (RELU,), (BIAS,)))
    check(tools, tally, tail(draw, b, conv), "pointwise-as-matmul")


@EXAMPLES
@given(data=st.data())
def test_matmul_as_pointwise(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b)
    batch, channels, height, width = x.type.shape
    whole = rarely(draw) and height > 1
    shape = (batch, channels * height, width) if whole else (batch, channels, height * width)
    flat = b.node("f", Reshape(shape), x)
    batched = rarely(draw)
    matrix = b.const(*([1] if batched else []), draw(few), shape[1])
    product = b.node("m", MatMul(), matrix, flat, epilogue=pick(draw, (), (RELU,)))
    check(tools, tally, tail(draw, b, product), "matmul-as-pointwise")


def window(draw, kind, **more):
    kernel = draw(few), draw(few)
    padding = tuple(draw(st.integers(0, 2)) if draw(st.booleans()) else 0 for _ in range(4))
    dilation = pick(draw, (1, 1), (1, 1), (2, 1))
    return kind(kernel, (draw(few), draw(few)), padding, dilation, draw(st.booleans()), **more)


@EXAMPLES
@given(data=st.data())
def test_activation_and_max_pool(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b)
    function = pick(draw, *FUNCTIONS)
    step = Step("activation", function.kind, function.params)
    pool = window(draw, MaxPool2d)
    before = pick(draw, "node", "epilogue", "conv")
    epilogue = (BIAS, step) if before == "epilogue" else (BIAS,)
    value = b.conv("c", x, draw(few), (1, 1), epilogue)
    if before == "node":
        value = b.node("f", function, value)
    try:
        after = pick(draw, "none", "node", "epilogue")
        pooled = b.node("p", pool, value, epilogue=(step,) if after == "epilogue" else ())
        result = b.node("g", function, pooled) if after == "node" else pooled
    except OperatorError:
        assume(False)
    graph = tail(draw, b, result, value, pooled)
    check(tools, tally, graph, "max-pool-of-activation", "activation-of-max-pool")


@MORE
@given(data=st.data())
def test_average_pool_and_pointwise(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b, channels=pick(draw, 1, 2, 4))
    pool = window(draw, AvgPool2d, count_include_pad=draw(st.booleans()))
    pool = replace(pool, strides=(1, 1)) if draw(st.booleans()) else pool
    epilogue, last = pick(draw, (), (BIAS,), (BIAS, RELU) if rarely(draw, 3) else ()), pick(draw, (), (RELU,))
    try:
        if draw(st.booleans()):
            middle = b.conv("c", x, draw(few), (1, 1), epilogue)
            result = b.node("p", pool, middle, epilogue=last)
        else:
            middle = b.node("p", pool, x, epilogue=last if rarely(draw) else ())
            result = b.conv("c", middle, draw(few), (1, 1), (*epilogue[:1], *last))
    except OperatorError:
        assume(False)
    assume(_averages_something(pool, x.type))
    check(tools, tally, tail(draw, b, result, middle), "avg-pool-of-pointwise", "pointwise-of-avg-pool")


def _averages_something(pool, type):
    (result,) = pool.infer([type])
    return bool((pool.divisors(type, result) > 0).all())


@MORE
@given(data=st.data())
def test_pooling_of_pooling(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    kind = pick(draw, MaxPool2d, AvgPool2d)
    x = image(draw, b, size=(draw(st.integers(5, 9)), draw(st.integers(5, 9))))

    def drawn():
        kernel = draw(few), draw(few)
        strides = kernel if draw(st.integers(0, 2)) else (draw(few), draw(few))
        return kind(kernel, strides, (0, 1, 0, 0) if rarely(draw, 12) else (0, 0, 0, 0), (1, 1), rarely(draw, 12))

    try:
        one = b.node("p", drawn(), x, epilogue=(RELU,) if rarely(draw, 12) else ())
        two = b.node("q", drawn(), one, epilogue=pick(draw, (), (RELU,)))
        assume(kind is MaxPool2d or all(_averages_something(node.op, node.operands[0].type) for node in b.nodes))
    except OperatorError:
        assume(False)
    name = "max-pool-of-max-pool" if kind is MaxPool2d else "avg-pool-of-avg-pool"
    check(tools, tally, tail(draw, b, two, one), name)


@pytest.mark.parametrize("reader", ["convolution", "max-pool", "avg-pool"])
def test_pads(tools, tally, reader):
    @EXAMPLES
    @given(data=st.data())
    def run(data):
        draw = data.draw
        b = tools.Builder(draw(st.integers(0, 3)))
        x = image(draw, b, size=(draw(st.integers(3, 5)), draw(st.integers(3, 5))))
        pads = [(0, 0), (1, 0) if rarely(draw, 8) else (0, 0), *((draw(st.integers(0, 2)), draw(few)) for _ in "hw")]
        fill = -float("inf") if reader == "max-pool" else 0.0
        framed = b.node("f", Pad(tuple(pads), 1.0 if rarely(draw, 8) else fill), x)
        own = (1, 0, 0, 1) if draw(st.booleans()) else (0, 0, 0, 0)
        if reader == "convolution":
            attributes = {"padding": own, "strides": (2, 1), "dilation": pick(draw, (1, 1), (1, 2))}
            result = b.conv("c", framed, draw(few), pick(draw, (1, 1), (3, 2)), (BIAS,), **attributes)
        else:
            kind = MaxPool2d if reader == "max-pool" else AvgPool2d
            more = {} if reader == "max-pool" else {"count_include_pad": draw(st.booleans())}
            result = b.node("p", kind((3, 2), (2, 2), own, (1, 1), rarely(draw, 4), **more), framed)
        check(tools, tally, tail(draw, b, result, framed), f"{reader}-of-pad")

    run()


@MORE
@given(data=st.data())
def test_pools_and_concat(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    axis = pick(draw, 0, 0, 1, 1, 1, 1, 3)
    shape = [draw(few), draw(few), 4, 4]
    inputs = [b.input(f"x{i}", *shape[:axis], draw(few), *shape[axis + 1 :]) for i in range(draw(st.integers(2, 3)))]
    values = [b.relu(f"r{i}", value) for i, value in enumerate(inputs)]
    kind = pick(draw, MaxPool2d, AvgPool2d)
    pool = kind((2, 2), (2, 1), (0, 0, 0, 1), (1, 1), True)
    epilogue = (RELU,) if rarely(draw) else ()
    try:
        if draw(st.integers(0, 2)):
            cat = b.concat("k", *values, *([values[0]] if rarely(draw) else []), axis=axis)
            result = b.node("p", pool, cat, epilogue=epilogue)
            check(tools, tally, tail(draw, b, result, cat), f"{'max' if kind is MaxPool2d else 'avg'}-pool-of-concat")
        else:
            steps = [epilogue if draw(st.integers(0, 9)) else (RELU,) for _ in values]
            pooled = [b.node(f"p{i}", pool, one, epilogue=steps[i]) for i, one in enumerate(values)]
            result = b.concat("k", *pooled, axis=axis)
            check(tools, tally, tail(draw, b, result, pooled[0]), "concat-of-pools")
    except OperatorError:
        assume(False)


@MORE
@given(data=st.data())
def test_activations_and_concat(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = image(draw, b)
    axis = draw(st.integers(0, 3))
    values = [b.conv(f"c{i}", x, 2, epilogue=pick(draw, (), (BIAS,))) for i in range(draw(st.integers(2, 3)))]
    function = pick(draw, *FUNCTIONS)
    if rarely(draw, 3):
        operands = [x if x.type.shape == values[0].type.shape else values[0], *values[1:]]
        cat = b.concat("k", *operands, *([operands[0]] if rarely(draw) else []), axis=axis)
        result = b.node("f", function, cat, epilogue=(RELU,) if rarely(draw) else ())
        check(tools, tally, tail(draw, b, result, cat), "activation-of-concat")
    else:
        parts = [
            b.node(f"f{i}", function if draw(st.integers(0, 9)) else Activation("sigmoid"), value)
            for i, value in enumerate(values)
        ]
        result = b.node("k", Concat(axis), *parts, epilogue=(RELU,) if rarely(draw) else ())
        check(tools, tally, tail(draw, b, result, parts[0]), "concat-of-activations")


@EXAMPLES
@given(data=st.data())
def test_split_of_split(tools, tally, data):
    draw = data.draw
    b = tools.Builder()
    axis = draw(st.integers(0, 2))
    along = axis if draw(st.integers(0, 3)) else draw(st.integers(0, 2))
    shape = [4, 4, 4]
    shape[axis] = 5
    x = b.input("x", *shape)
    first = b.node("a b", Split(axis, (4, 1)), b.relu("r", x))
    cut = draw(st.integers(1, 3))
    second = b.node("c d", Split(along, (cut, 4 - cut)), first[0])
    outputs = [*second, first[1], *([first[0]] if rarely(draw) else [])]
    graph = b.graph(*[value for value in outputs if draw(st.booleans())] or outputs[:1])
    check(tools, tally, graph, "split-of-split")
