"""Each rule for convolutional networks before and after, as text; side conditions; inverse rules meet."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    MatMul,
    MaxPool2d,
    Pad,
    Reshape,
    Step,
    literal,
)
from joulec.passes.rules import CONVOLUTIONAL, Mismatch, find, substitutions
from joulec.passes.rules.text import show

RULE = {rule.name: rule for rule in CONVOLUTIONAL}
RELU, BIAS, ADD = Step("activation", "relu"), Step("bias"), Step("add")
SAME = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}


def change(tools, graph, name):
    """The graph after the rule's single match."""
    [changed] = tools.apply_all(graph, (RULE[name],))
    return changed


def reasons(graph, name):
    """Why the rule does not apply; it must not apply anywhere."""
    found = [found for _, found in find(graph, (RULE[name],))]
    assert found
    assert all(isinstance(one, Mismatch) for one in found), "the rule applies"
    return "; ".join(one.reason for one in found)


def pair(b, *, second=None, other=None, **first):
    x = b.input("x", 1, 4, 6, 6)
    one = b.conv("a", x, 4, **first)
    two = b.conv("b", other or x, 4, **(first if second is None else second))
    return one, two


def test_sum_of_convolutions(tools):
    b = tools.Builder()
    graph = b.graph(b.node("s", Add(), *pair(b, epilogue=(BIAS,), **SAME), epilogue=(RELU,)))
    assert show(change(tools, graph, "sum-of-convolutions")) == (
        "s = conv2d+bias+relu(x, (4x4x3x3 + 4x4x3x3), (4 + 4), padding=1|1|1|1)\nreturn s"
    )


def test_sum_of_convolutions_of_two_sizes(tools):
    b = tools.Builder(seed=1)
    graph = b.graph(b.node("s", Add(), *pair(b, second={}, **SAME)))
    changed = show(change(tools, graph, "sum-of-convolutions"))
    assert "pad(4x4x1x1 to 4x4x3x3)" in changed
    assert "padding=1|1|1|1" in changed


def test_sum_of_convolutions_in_an_epilogue(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 6, 6)
    one = b.conv("a", x, 4)
    total = b.node("s", Conv2d(), x, b.const(4, 4, 1, 1), b.const(4), one, epilogue=(BIAS, ADD, RELU))
    changed = change(tools, b.graph(total), "sum-of-convolutions-in-epilogue")
    assert show(changed) == "s = conv2d+bias+relu(x, (4x4x1x1 + 4x4x1x1), 4)\nreturn s"


def test_sums_of_three_meet_whatever_the_order(tools):
    def graph(order):
        b = tools.Builder()
        x = b.input("x", 1, 4, 6, 6)
        parts = [b.conv(name, x, 4) for name in "abc"]
        return b.graph(b.node("s", Add(), b.node("t", Add(), parts[order[0]], parts[order[1]]), parts[order[2]]))

    ends = [tools.exhaust(graph(order), (RULE["sum-of-convolutions"],)) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))]
    assert len({end.key for end in ends}) == 1
    assert show(ends[0]).count("conv2d") == 1


@pytest.mark.parametrize(
    ("epilogue", "second", "reason"),
    [
        ((RELU,), None, "more than a constant bias is fused into a"),
        ((), {"groups": 2}, "grouped"),
        ((), {"kernel": (2, 2), "padding": (0, 1, 1, 0), "dilation": (1, 1), "groups": 2}, "grouped"),
    ],
)
def test_sums_that_are_no_convolution(tools, epilogue, second, reason):
    b = tools.Builder()
    graph = b.graph(b.node("s", Add(), *pair(b, epilogue=epilogue, second=second)))
    assert reason in reasons(graph, "sum-of-convolutions")


def test_a_convolution_with_other_readers_stays(tools):
    b = tools.Builder()
    one, two = pair(b)
    assert "a has other readers" in reasons(b.graph(b.node("s", Add(), one, two), one), "sum-of-convolutions")


@pytest.mark.parametrize("fused", [False, True])
def test_absorb_identity(tools, fused):
    b = tools.Builder()
    x = b.input("x", 1, 4, 6, 6)
    if fused:
        total = b.node("s", Conv2d(padding=(1, 1, 1, 1)), x, b.const(4, 4, 3, 3), x, epilogue=(ADD, RELU))
    else:
        total = b.node("s", Add(), x, b.conv("a", x, 4, **SAME), epilogue=(RELU,))
    name = "absorb-identity" + ("-in-epilogue" if fused else "")
    changed = show(change(tools, b.graph(total), name))
    assert "dirac(4x4x3x3)" in changed
    assert changed.count("(") == 3, "one convolution, whose kernel is a sum"


def test_an_identity_beside_the_window_stays(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 6, 6)
    conv = b.conv("a", x, 4, (2, 2), padding=(1, 3, 0, 0), dilation=(1, 3))
    far = b.conv("c", x, 4, (2, 2), padding=(2, 0, 0, 1), dilation=(2, 1))
    total = b.node("s", Add(), x, b.conv("d", x, 4, (2, 1), padding=(0, 0, 3, 0), dilation=(3, 1)))
    assert conv.type == far.type == x.type
    late = b.node("u", Add(), x, b.conv("e", x, 4, (1, 3), padding=(0, 1, 0, 3), dilation=(1, 2)))
    assert "no element of the window" in reasons(b.graph(late), "absorb-identity")
    assert change(tools, b.graph(total), "absorb-identity")


@pytest.mark.parametrize("fused", [False, True])
def test_sum_as_convolution_of_concat_and_back(tools, fused):
    b = tools.Builder()
    x, y = b.input("x", 1, 4, 6, 6), b.input("y", 1, 2, 6, 6)
    one = b.conv("a", x, 4, epilogue=(BIAS,))
    if fused:
        total = b.node("s", Conv2d(), y, b.const(4, 2, 1, 1), one, epilogue=(ADD, RELU))
    else:
        total = b.node("s", Add(), one, b.conv("b", y, 4), epilogue=(RELU,))
    changed = change(tools, b.graph(total), "sum-as-convolution-of-concat" + ("-in-epilogue" if fused else ""))
    assert show(changed).splitlines()[1].startswith("s = conv2d+bias+relu(%0, [")
    back = change(tools, changed, "convolution-of-concat")
    again = change(tools, back, "sum-as-convolution-of-concat")
    assert again.key == changed.key, "the concat's value and the cut kernel are found again"


def test_groups_and_back(tools):
    b = tools.Builder()
    x = b.input("x", 1, 6, 4, 4)
    parts = b.split("p q", x, 3, 3)
    convs = [b.conv(f"c{i}", part, 4, (3, 3), (BIAS, RELU)) for i, part in enumerate(parts)]
    grouped = change(tools, b.graph(b.concat("k", *convs)), "group-convolutions")
    assert show(grouped) == "k = conv2d+bias+relu(x, [4x3x3x3 ; 4x3x3x3], [4 ; 4], groups=2)\nreturn k"
    apart = change(tools, grouped, "ungroup-convolution")
    assert change(tools, apart, "group-convolutions").key == grouped.key


def test_many_groups_stay(tools):
    b = tools.Builder()
    conv = b.conv("c", b.input("x", 1, 8, 4, 4), 8, (3, 3), groups=8)
    assert "8 groups" in reasons(b.graph(conv), "ungroup-convolution")


def test_convolutions_in_another_order_are_not_grouped(tools):
    b = tools.Builder()
    parts = b.split("p q", b.input("x", 1, 6, 4, 4), 3, 3)
    convs = [b.conv(f"c{i}", part, 4) for i, part in enumerate(parts[::-1])]
    assert "in their order" in reasons(b.graph(b.concat("k", *convs)), "group-convolutions")


def test_pointwise_of_convolution(tools):
    b = tools.Builder()
    inner = b.conv("a", b.input("x", 1, 3, 6, 6), 5, epilogue=(BIAS,), strides=(2, 1), **SAME)
    graph = b.graph(b.conv("b", inner, 4, epilogue=(BIAS, RELU), strides=(1, 2)))
    assert show(change(tools, graph, "pointwise-of-convolution")).startswith(
        "b = conv2d+bias+relu(x, compose(4x5x1x1, "
    )


def test_products_of_three_meet(tools):
    b = tools.Builder()
    value = b.input("x", 1, 3, 6, 6)
    for name in "abc":
        value = b.conv(name, value, 4)
    rule = (RULE["pointwise-of-convolution"],)
    assert len({tools.exhaust(b.graph(value), rule, seed=seed).key for seed in range(4)}) == 1


def test_convolution_of_pointwise(tools):
    b = tools.Builder()
    inner = b.conv("a", b.input("x", 1, 3, 6, 6), 5, epilogue=(BIAS,))
    graph = b.graph(b.conv("b", inner, 4, (3, 3), strides=(2, 2)))
    assert "project(4x5x3x3, 5, 4)" in show(change(tools, graph, "convolution-of-pointwise"))
    padded = b.graph(b.conv("c", inner, 4, **SAME))
    assert "pads with zeros what has a bias" in reasons(padded, "convolution-of-pointwise")


def test_fold_affine(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 6, 6)
    scaled = b.node("n", ChannelAffine(), x, b.const(4), b.const(4))
    changed = change(tools, b.graph(b.conv("c", scaled, 2, (3, 3), (BIAS,), groups=2)), "fold-affine")
    assert "channel_affine" not in show(changed)
    padded = b.graph(b.conv("d", scaled, 2, **SAME))
    assert "pads with zeros what is shifted" in reasons(padded, "fold-affine")
    unshifted = b.node("m", ChannelAffine(), x, b.const(4), literal(np.zeros(4)))
    assert show(change(tools, b.graph(b.conv("e", unshifted, 2, **SAME)), "fold-affine")).startswith(
        "e = conv2d(x, scale"
    )


def test_convolution_as_matmul_and_back(tools):
    b = tools.Builder()
    x = b.input("x", 2, 3, 1, 1)
    graph = b.graph(b.conv("c", x, 4, epilogue=(BIAS, RELU)))
    changed = change(tools, graph, "convolution-as-matmul")
    assert show(changed).splitlines()[1] == "%1 = matmul+bias+relu(%0, reshape(4x3x1x1, 4x3), 4, transpose_b=True)"
    assert "reshape(%1, shape=2|4|1|1)" in show(changed)
    back = change(tools, changed, "matmul-as-convolution")
    assert "conv2d+bias+relu(x, 4x3x1x1, 4)" in show(back)


def test_pointwise_as_matmul_and_back(tools):
    b = tools.Builder()
    graph = b.graph(b.conv("c", b.input("x", 2, 3, 4, 5), 4, epilogue=(RELU,)))
    changed = change(tools, graph, "pointwise-as-matmul")
    assert "matmul+relu(reshape(4x3x1x1, 4x3), %0)" in show(changed)
    assert "conv2d+relu(x, 4x3x1x1)" in show(change(tools, changed, "matmul-as-pointwise"))


def test_matrix_products_that_are_no_convolution(tools):
    b = tools.Builder()
    x = b.input("x", 2, 3, 4, 5)
    flat = b.node("f", Reshape((2, 60)), x)
    assert "is not 1x1" in reasons(b.graph(b.matmul("m", flat, 4)), "matmul-as-convolution")
    rows = b.node("g", Reshape((2, 12, 5)), x)
    product = b.node("n", MatMul(), b.const(4, 12), rows)
    assert "more than the plane" in reasons(b.graph(product), "matmul-as-pointwise")
    biased = b.conv("c", x, 4, epilogue=(BIAS,))
    assert "something is added" in reasons(b.graph(biased), "pointwise-as-matmul")


def test_average_pool_and_pointwise(tools):
    b = tools.Builder()
    conv = b.conv("c", b.input("x", 1, 3, 6, 6), 8, epilogue=(BIAS,))
    graph = b.graph(b.node("p", AvgPool2d((6, 6)), conv, epilogue=(RELU,)))
    assert show(change(tools, graph, "avg-pool-of-pointwise")).splitlines()[1:] == [
        "p = conv2d+bias+relu(%0, 8x3x1x1, 8)",
        "return p",
    ]
    counted = b.node("q", AvgPool2d((3, 3), (3, 3), (1, 1, 1, 1), count_include_pad=True), conv)
    assert "mean of the bias" in reasons(b.graph(counted), "avg-pool-of-pointwise")
    smaller = b.graph(
        b.conv("d", b.node("r", AvgPool2d((3, 3), (3, 3)), b.input("y", 1, 8, 6, 6)), 2, epilogue=(RELU,))
    )
    assert "more arithmetic" in reasons(smaller, "pointwise-of-avg-pool")
    same = AvgPool2d((3, 3), padding=(1, 1, 1, 1))
    narrow = b.graph(b.conv("e", b.node("t", same, b.input("z", 1, 8, 6, 6)), 2, epilogue=(BIAS, RELU)))
    changed = change(tools, narrow, "pointwise-of-avg-pool")
    assert show(changed).startswith("%0 = conv2d+bias(z, 2x8x1x1, 2)\ne = avg_pool2d+relu(%0, ")
    assert "more arithmetic" in reasons(changed, "avg-pool-of-pointwise")


def test_activation_and_max_pool(tools):
    b = tools.Builder()
    x = b.input("x", 1, 3, 6, 6)
    conv = b.conv("c", x, 4, epilogue=(BIAS, RELU))
    changed = change(tools, b.graph(b.node("p", MaxPool2d((2, 2), (2, 2)), conv)), "max-pool-of-activation")
    assert show(changed).splitlines()[:3] == [
        "%0 = conv2d+bias(x, 4x3x1x1, 4)",
        "%1 = max_pool2d(%0, kernel=2|2, strides=2|2)",
        "p = activation(%1, kind=relu)",
    ]
    back = change(tools, changed, "activation-of-max-pool")
    assert [node.op.name for node in back.nodes] == ["conv2d", "activation", "max_pool2d"]
    slope = b.node("l", Activation("leaky_relu", (-0.5,)), x)
    falling = b.graph(b.node("q", MaxPool2d((2, 2)), slope))
    assert "leaky_relu is not known never to fall" in reasons(falling, "max-pool-of-activation")
    hollow = b.graph(b.node("r", MaxPool2d((1, 1), padding=(1, 0, 0, 0)), conv))
    assert "nothing but padding" in reasons(hollow, "max-pool-of-activation")


def test_a_value_that_comes_back_is_the_one_that_went(tools):
    b = tools.Builder()
    conv = b.conv("c", b.input("x", 1, 3, 6, 6), 4)
    graph = b.graph(b.node("p", MaxPool2d((2, 2), (2, 2)), b.relu("r", conv)))
    there = change(tools, graph, "max-pool-of-activation")
    assert change(tools, there, "activation-of-max-pool").key == graph.key


def test_poolings_in_a_row(tools):
    b = tools.Builder()
    x = b.input("x", 1, 2, 9, 9)
    inner = b.node("p", MaxPool2d((3, 3), (2, 2)), x)
    changed = change(tools, b.graph(b.node("q", MaxPool2d((2, 2), (2, 2)), inner)), "max-pool-of-max-pool")
    assert show(changed) == "q = max_pool2d(x, kernel=5|5, strides=4|4)\nreturn q"
    gaps = b.graph(b.node("s", MaxPool2d((2, 2)), b.node("r", MaxPool2d((1, 1), (2, 2)), x)))
    assert "leave gaps" in reasons(gaps, "max-pool-of-max-pool")
    mean = b.node("t", AvgPool2d((3, 3), (3, 3)), x)
    changed = change(tools, b.graph(b.node("u", AvgPool2d((3, 3)), mean)), "avg-pool-of-avg-pool")
    assert show(changed) == "u = avg_pool2d(x, kernel=9|9, strides=3|3, count_include_pad=False)\nreturn u" or (
        show(changed) == "u = avg_pool2d(x, kernel=9|9, strides=3|3)\nreturn u"
    )
    overlap = b.graph(b.node("w", AvgPool2d((2, 2)), b.node("v", AvgPool2d((3, 3), (2, 2)), x)))
    assert "overlap" in reasons(overlap, "avg-pool-of-avg-pool")


def test_pads(tools):
    b = tools.Builder()
    x = b.input("x", 1, 2, 6, 6)
    frame = ((0, 0), (0, 0), (1, 2), (0, 1))
    zeros = b.node("z", Pad(frame), x)
    lows = b.node("l", Pad(frame, -float("inf")), x)
    conv = change(tools, b.graph(b.conv("c", zeros, 3, (3, 3), padding=(1, 1, 0, 0))), "convolution-of-pad")
    assert show(conv) == "c = conv2d(x, 3x2x3x3, padding=2|1|2|1)\nreturn c"
    pool = change(tools, b.graph(b.node("p", MaxPool2d((3, 3)), lows)), "max-pool-of-pad")
    assert show(pool) == "p = max_pool2d(x, kernel=3|3, padding=1|0|2|1)\nreturn p"
    mean = change(tools, b.graph(b.node("a", AvgPool2d((3, 3)), zeros)), "avg-pool-of-pad")
    assert "padding=1|0|2|1, count_include_pad=True" in show(mean)
    assert "pads with 0.0" in reasons(b.graph(b.node("q", MaxPool2d((3, 3)), zeros)), "max-pool-of-pad")
    rounding = b.node("r", MaxPool2d((3, 3), (2, 2), ceil_mode=True), lows)
    assert "rounds its size up" in reasons(b.graph(rounding), "max-pool-of-pad")
    uncounted = b.node("u", AvgPool2d((3, 3), padding=(1, 1, 1, 1)), zeros)
    assert "does not count" in reasons(b.graph(uncounted), "avg-pool-of-pad")
    channels = b.node("w", Pad(((0, 0), (1, 0), (0, 0), (0, 0))), x)
    assert "other axes" in reasons(b.graph(b.conv("d", channels, 3)), "convolution-of-pad")


@pytest.mark.parametrize(("kind", "name"), [(MaxPool2d, "max"), (AvgPool2d, "avg")])
def test_pools_and_concat(tools, kind, name):
    b = tools.Builder()
    values = [b.relu(f"r{i}", b.input(f"x{i}", 1, 2, 4, 4)) for i in range(2)]
    graph = b.graph(b.node("p", kind((2, 2)), b.concat("k", *values)))
    apart = change(tools, graph, f"{name}-pool-of-concat")
    assert show(apart).splitlines()[-2] == "p = concat(%0, %1, axis=1)"
    assert change(tools, apart, "concat-of-pools").key == graph.key
    high = b.graph(b.node("q", kind((2, 2)), b.concat("l", *values, axis=2)))
    assert "along which the pooling's windows lie" in reasons(high, f"{name}-pool-of-concat")


def test_activations_and_concat(tools):
    b = tools.Builder()
    x = b.input("x", 1, 3, 4, 4)
    graph = b.graph(b.relu("r", b.concat("k", b.conv("a", x, 2), b.conv("b", x, 2))))
    apart = change(tools, graph, "activation-of-concat")
    assert [node.op.name for node in apart.nodes] == ["conv2d", "activation", "conv2d", "activation", "concat"]
    assert change(tools, apart, "concat-of-activations").key == graph.key
    plain = b.graph(b.relu("s", b.concat("l", x, b.input("y", 1, 3, 4, 4))))
    assert "could take the activation in" in reasons(plain, "activation-of-concat")


def test_split_of_split(tools):
    b = tools.Builder()
    first = b.split("p q", b.input("x", 1, 5), 4, 1)
    second = b.split("u v", first[0], 1, 3)
    changed = change(tools, b.graph(*second, first[1]), "split-of-split")
    assert show(changed) == "u, v, q = split(x, axis=1, sizes=1|3|1)\nreturn u, v, q"


def test_rules_that_undo_each_other_reach_few_graphs(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 6, 6)
    wide = b.relu("r", b.concat("k", b.conv("a", x, 2, (3, 3)), b.conv("c", x, 2, (3, 3))))
    graph = b.graph(b.node("m", MaxPool2d((2, 2), (2, 2)), wide))

    def takes_activation(spec, step):
        return isinstance(spec.op, Conv2d | MaxPool2d) and step.kind == "activation"

    seen, frontier = {graph.key}, [graph]
    while frontier and len(seen) < 100:
        found = []
        for one in frontier:
            for rule, match in substitutions(one, CONVOLUTIONAL):
                changed = canonicalise(one.apply(rule.rewrite(one, match)), takes_activation)
                if changed.key not in seen:
                    seen.add(changed.key)
                    found.append(changed)
                    tools.assert_equal(graph, changed)
        frontier = found
    assert not frontier, "the rules never run out of graphs"
    assert len(seen) > 20
