"""Each rule before and after, as text; and its side conditions, each broken once."""

from __future__ import annotations

import re

import pytest

from joulec.passes.graph import Conv2d, MatMul, Step
from joulec.passes.rules import CONVERGENT, RULES, Match, Mismatch, equation, find
from joulec.passes.rules.text import show

RULE = {rule.name: rule for rule in RULES}
RELU = Step("activation", "relu")
BIAS = Step("bias")
ADD = Step("add")


def only(graph, name):
    """The rule's single match."""
    [found] = [found for _, found in find(graph, (RULE[name],)) if isinstance(found, Match)]
    return found


def reasons(graph, name):
    """Why the rule does not apply; it must not apply anywhere."""
    found = [found for _, found in find(graph, (RULE[name],))]
    assert all(isinstance(one, Mismatch) for one in found), "the rule applies"
    return "; ".join(one.reason for one in found)


def check(tools, graph, name, before, after):
    assert show(graph) == before.strip()
    rule = RULE[name]
    changed = graph.apply(rule.rewrite(graph, only(graph, name)))
    assert show(changed) == after.strip()
    tools.assert_valid(changed)
    tools.assert_equal(graph, changed)
    return changed


def test_every_rule_has_name_equation_and_place():
    assert len(RULE) == len(RULES)
    for rule in RULES:
        assert re.fullmatch("[a-z]+(-[a-z]+)*", rule.name)
        assert "=" in equation(rule)


def test_merge_convolutions(tools):
    b = tools.Builder(seed=4)
    x = b.input("x", 1, 3, 8, 8)
    left = b.conv("a", x, 4, (3, 3), (BIAS, RELU), strides=(2, 1), padding=(1, 0, 2, 1))
    right = b.conv("b", x, 5, (3, 3), (BIAS, RELU), strides=(2, 1), padding=(1, 0, 2, 1))
    check(
        tools,
        b.graph(left, right),
        "merge-convolutions",
        """
a = conv2d+bias+relu(x, 4x3x3x3, 4, strides=2|1, padding=1|0|2|1)
b = conv2d+bias+relu(x, 5x3x3x3, 5, strides=2|1, padding=1|0|2|1)
return a, b
""",
        """
%0 = conv2d+bias+relu(x, [4x3x3x3 ; 5x3x3x3], [4 ; 5], strides=2|1, padding=1|0|2|1)
a, b = split(%0, axis=1, sizes=4|5)
return a, b
""",
    )


def test_merge_convolutions_grows_a_merged_one_and_drops_the_concat(tools):
    b = tools.Builder(seed=4)
    x = b.input("x", 1, 3, 4, 4)
    one, two, three = (b.conv(name, x, size) for name, size in (("a", 1), ("b", 2), ("c", 3)))
    graph = b.graph(b.concat("k", two, three, one), b.relu("r", three))
    merged = tools.exhaust(graph, (RULE["merge-convolutions"],))
    assert (
        show(merged)
        == """
k = conv2d(x, [2x3x1x1 ; 3x3x1x1 ; 1x3x1x1])
b, c, a = split(k, axis=1, sizes=2|3|1)
r = activation(c, kind=relu)
return k, r
""".strip()
    )


def test_merge_enlarged_convolutions(tools):
    b = tools.Builder()
    x = b.input("x", 1, 3, 9, 9)
    wide = b.conv("wide", x, 4, (3, 5), padding=(2, 4, 2, 4), strides=(2, 2), dilation=(2, 2))
    narrow = b.conv("narrow", x, 2, (1, 3), padding=(0, 2, 0, 2), strides=(2, 2), dilation=(2, 2))
    check(
        tools,
        b.graph(b.concat("k", narrow, wide)),
        "merge-enlarged-convolutions",
        """
narrow = conv2d(x, 2x3x1x3, strides=2|2, padding=0|2|0|2, dilation=2|2)
wide = conv2d(x, 4x3x3x5, strides=2|2, padding=2|4|2|4, dilation=2|2)
k = concat(narrow, wide, axis=1)
return k
""",
        """
k = conv2d(x, [pad(2x3x1x3 to 2x3x3x5) ; 4x3x3x5], strides=2|2, padding=2|4|2|4, dilation=2|2)
return k
""",
    )


def test_merge_enlarged_convolutions_that_each_outgrow_the_other(tools):
    b = tools.Builder()
    x = b.input("x", 1, 2, 6, 6)
    flat = b.conv("flat", x, 1, (1, 3), padding=(0, 1, 0, 1))
    tall = b.conv("tall", x, 2, (3, 1), padding=(1, 0, 1, 0))
    check(
        tools,
        b.graph(b.concat("k", flat, tall)),
        "merge-enlarged-convolutions",
        """
flat = conv2d(x, 1x2x1x3, padding=0|1|0|1)
tall = conv2d(x, 2x2x3x1, padding=1|0|1|0)
k = concat(flat, tall, axis=1)
return k
""",
        """
k = conv2d(x, [pad(1x2x1x3 to 1x2x3x3) ; pad(2x2x3x1 to 2x2x3x3)], padding=1|1|1|1)
return k
""",
    )


def test_a_pointwise_kernel_takes_the_dilation_of_its_partner(tools):
    b = tools.Builder()
    x = b.input("x", 1, 2, 8, 8)
    point = b.conv("point", x, 1)
    atrous = b.conv("atrous", x, 2, (3, 3), padding=(3, 3, 3, 3), dilation=(3, 3))
    graph = b.graph(b.concat("k", point, atrous))
    [changed] = tools.apply_all(graph, (RULE["merge-enlarged-convolutions"],))
    assert "dilation=3|3" in show(changed)


@pytest.mark.parametrize("transposed", [False, True])
def test_merge_matmuls(tools, transposed):
    b = tools.Builder()
    x = b.input("x", 2, 5, 3)
    left = b.matmul("q", x, 4, (BIAS,), transposed)
    right = b.matmul("k", x, 6, (BIAS,), transposed)
    graph = b.graph(left, right)
    weights = ("4x3", "6x3") if transposed else ("3x4", "3x6")
    flag = ", transpose_b=True" if transposed else ""
    check(
        tools,
        graph,
        "merge-matmuls",
        f"""
q = matmul+bias(x, {weights[0]}, 4{flag})
k = matmul+bias(x, {weights[1]}, 6{flag})
return q, k
""",
        f"""
%0 = matmul+bias(x, [{weights[0]} ; {weights[1]}], [4 ; 6]{flag})
q, k = split(%0, axis=2, sizes=4|6)
return q, k
""",
    )


def test_split_of_concat(tools):
    b = tools.Builder()
    one, two, three = (b.input(name, 1, size, 2) for name, size in (("x", 1), ("y", 2), ("z", 3)))
    p, q = b.split("p q", b.concat("k", one, two, three), 1, 5)
    check(
        tools,
        b.graph(b.relu("u", p), b.relu("v", q)),
        "split-of-concat",
        """
k = concat(x, y, z, axis=1)
p, q = split(k, axis=1, sizes=1|5)
u = activation(p, kind=relu)
v = activation(q, kind=relu)
return u, v
""",
        """
u = activation(x, kind=relu)
q = concat(y, z, axis=1)
v = activation(q, kind=relu)
return u, v
""",
    )


def test_concat_of_split(tools):
    b = tools.Builder()
    x, y = b.input("x", 1, 5, 2), b.input("y", 1, 1, 2)
    p, q = b.split("p q", x, 2, 3)
    check(
        tools,
        b.graph(b.concat("k", y, p, q, y)),
        "concat-of-split",
        """
p, q = split(x, axis=1, sizes=2|3)
k = concat(y, p, q, y, axis=1)
return k
""",
        """
k = concat(y, x, y, axis=1)
return k
""",
    )


def test_concat_of_a_whole_split(tools):
    b = tools.Builder()
    p, q = b.split("p q", b.relu("r", b.input("x", 1, 5, 2)), 2, 3)
    check(
        tools,
        b.graph(b.relu("s", b.concat("k", p, q)), q),
        "concat-of-split",
        """
r = activation(x, kind=relu)
p, q = split(r, axis=1, sizes=2|3)
k = concat(p, q, axis=1)
s = activation(k, kind=relu)
return s, q
""",
        """
r = activation(x, kind=relu)
s = activation(r, kind=relu)
p, q = split(r, axis=1, sizes=2|3)
return s, q
""",
    )


def test_flatten_concats(tools):
    b = tools.Builder()
    x, y, z = (b.input(name, 1, 2) for name in "xyz")
    check(
        tools,
        b.graph(b.concat("k", z, b.concat("i", x, y), z)),
        "flatten-concats",
        """
i = concat(x, y, axis=1)
k = concat(z, i, z, axis=1)
return k
""",
        """
k = concat(z, x, y, z, axis=1)
return k
""",
    )


def merged_then_concatenated(tools):
    """A merged convolution whose branches b, a are wanted as a, b: the concat was nested when they were merged."""
    b = tools.Builder()
    x, y = b.input("x", 1, 3, 4, 4), b.input("y", 1, 1, 4, 4)
    one, two = b.conv("a", x, 2), b.conv("b", x, 4)
    graph = b.graph(b.concat("k", b.concat("i", y, one), two), b.relu("r", one))
    merge, flatten = RULE["merge-convolutions"], RULE["flatten-concats"]
    graph = graph.apply(merge.rewrite(graph, only(graph, merge.name)))
    return graph.apply(flatten.rewrite(graph, only(graph, flatten.name)))


def test_concat_of_branches(tools):
    check(
        tools,
        merged_then_concatenated(tools),
        "concat-of-branches",
        """
%0 = conv2d(x, [4x3x1x1 ; 2x3x1x1])
b, a = split(%0, axis=1, sizes=4|2)
k = concat(y, a, b, axis=1)
r = activation(a, kind=relu)
return k, r
""",
        """
%0 = conv2d(x, [2x3x1x1 ; 4x3x1x1])
k = concat(y, %0, axis=1)
a, b = split(%0, axis=1, sizes=2|4)
r = activation(a, kind=relu)
return k, r
""",
    )


CONV = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strides": (1, 2)}, "strides differ"),
        ({"padding": (1, 1, 1, 2)}, "padding differs"),
        ({"dilation": (2, 2)}, "dilation differs"),
        ({"groups": 2}, "grouped"),
        ({"kernel": (1, 3), "padding": (0, 1, 0, 1)}, "kernels differ: (3, 3) and (1, 3)"),
        ({"epilogue": (RELU,)}, "epilogues differ: none and relu"),
        ({"epilogue": (BIAS,)}, "epilogues differ: none and bias"),
    ],
)
def test_convolutions_that_differ_are_not_merged(tools, changes, reason):
    b = tools.Builder()
    x = b.input("x", 1, 4, 8, 8)
    graph = b.graph(b.conv("a", x, 2, **CONV), b.conv("b", x, 2, **(CONV | changes)))
    said = reasons(graph, "merge-convolutions")
    assert all(word in said for word in reason.split(": ")[0].split(" and ")), said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strides": (2, 2), "padding": (0, 0, 0, 0)}, "strides differ"),
        ({"padding": (1, 1, 1, 1)}, "results differ in size"),
        ({"groups": 2}, "grouped"),
        ({"epilogue": (RELU,)}, "epilogues differ"),
        ({"kernel": (2, 2), "padding": (1, 1, 1, 1), "dilation": (2, 2)}, "dilations differ"),
    ],
)
def test_convolutions_that_no_frame_unites_are_not_merged(tools, changes, reason):
    b = tools.Builder()
    x = b.input("x", 1, 4, 8, 8)
    graph = b.graph(b.conv("a", x, 2, **CONV), b.conv("b", x, 2, **({"kernel": (1, 1)} | changes)))
    assert reason in reasons(graph, "merge-enlarged-convolutions")


def test_padding_between_two_dilated_taps_is_refused(tools):
    b = tools.Builder()
    x = b.input("x", 1, 1, 8, 8)
    one = b.conv("a", x, 1, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2))
    two = b.conv("b", x, 1, (2, 3), padding=(1, 2, 1, 2), dilation=(2, 2))
    assert "do not differ by a multiple of the dilation 2" in reasons(b.graph(one, two), "merge-enlarged-convolutions")


def test_computed_weights_and_residual_adds_are_refused(tools):
    b = tools.Builder()
    x, w = b.input("x", 1, 2, 4, 4), b.input("w", 2, 2, 1, 1)
    one = b.conv("a", x, 2)
    computed = b.node("c", Conv2d(), x, w)
    residual = b.node("d", Conv2d(), x, b.const(2, 2, 1, 1), one, epilogue=(ADD,))
    constant = b.node("e", Conv2d(), x, b.const(2, 2, 1, 1), b.const(1, 2, 4, 4), epilogue=(ADD,))
    said = reasons(b.graph(one, computed, residual, constant), "merge-convolutions")
    assert "computed at run time" in said
    assert "adds another tensor" in said


def test_a_kernel_fed_by_the_tensor_is_no_sibling(tools):
    b = tools.Builder()
    x, y = b.input("x", 2, 2, 2, 2), b.input("y", 1, 2, 4, 4)
    graph = b.graph(b.node("a", Conv2d(), y, x), b.conv("b", x, 2))
    assert list(find(graph, CONVERGENT)) == []


def test_matmuls_that_differ_are_not_merged(tools):
    b = tools.Builder()
    x = b.input("x", 2, 3, 3)
    plain = b.matmul("a", x, 3)
    graph = b.graph(
        plain,
        b.matmul("b", x, 3, transpose_b=True),
        b.node("c", MatMul(), x, b.const(2, 3, 3)),
        b.matmul("d", x, 3, (RELU,)),
    )
    said = reasons(graph, "merge-matmuls")
    for reason in ("stored transposed", "do not lie side by side", "epilogues differ"):
        assert reason in said


def test_a_bias_across_the_branches_of_a_matmul_is_refused(tools):
    b = tools.Builder()
    x = b.input("x", 1, 2, 3, 3)  # a bias of a 4-d result lies along axis 1, the branches along axis 3
    one, two = (b.node(n, MatMul(), x, b.const(3, 2), b.const(2), epilogue=(BIAS,)) for n in "ab")
    assert "does not lie along axis 3" in reasons(b.graph(one, two), "merge-matmuls")


def test_movement_that_does_not_cancel_says_why(tools):
    b = tools.Builder()
    x, y = b.input("x", 2, 4), b.input("y", 2, 4)
    cat = b.concat("k", x, y)
    p, q = b.split("p q", cat, 3, 5)
    other, _ = b.split("o u", cat, 1, 1, axis=0)
    swapped = b.concat("s", q, p)
    nested = b.concat("n", swapped, swapped, axis=0)
    graph = b.graph(nested, other, swapped)
    assert "cuts an operand of the concat at 3" in reasons(graph, "split-of-concat")
    assert "axes differ" in reasons(graph, "split-of-concat")
    assert "in their order" in reasons(graph, "concat-of-split")
    assert "different axes" in reasons(graph, "flatten-concats")


def test_an_inner_concat_with_other_readers_stays(tools):
    b = tools.Builder()
    inner = b.concat("i", b.input("x", 1, 2), b.input("y", 1, 2))
    graph = b.graph(b.concat("k", inner, inner), b.relu("r", inner))
    assert "other readers" in reasons(graph, "flatten-concats")


def test_branches_that_another_concat_holds_together_stay(tools):
    b = tools.Builder()
    x = b.input("x", 1, 3, 4, 4)
    one, two = b.conv("a", x, 2), b.conv("b", x, 4)
    graph = b.graph(b.concat("k", one, two), b.concat("l", two, one))
    merged = tools.exhaust(graph, CONVERGENT)
    said = " ".join(f.reason for _, f in find(merged, CONVERGENT) if isinstance(f, Mismatch))
    assert "whole result has readers" in said
    assert show(merged).count("conv2d") == 1


def test_a_branch_order_that_the_model_chose_is_left_alone(tools):
    b = tools.Builder()
    p, q = b.split("p q", b.conv("c", b.input("x", 1, 3, 4, 4), 5), 2, 3)
    assert "not merged from these branches" in reasons(b.graph(b.concat("k", q, p)), "concat-of-branches")


def test_branches_are_not_taken_from_one_concat_for_another(tools):
    b = tools.Builder()
    x = b.input("x", 1, 3, 4, 4)
    stranger, one, two = b.relu("s", x), b.conv("a", x, 2), b.conv("b", x, 4)
    contrary = b.concat("l", b.concat("i", stranger, two), one)
    graph = b.graph(contrary, b.concat("k", one, two, stranger))
    merged = tools.exhaust(graph, (RULE["merge-convolutions"],))
    flat = tools.exhaust(merged, (RULE["flatten-concats"],))
    assert "l = concat(s, b, a, axis=1)" in show(flat)
    assert "stand together for another concat" in reasons(flat, "concat-of-branches")
