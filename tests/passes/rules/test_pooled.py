"""Poolings that become a part of the convolution before them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.graph import Activation, Add, Conv2d, MaxPool2d, PooledConv2d, Step
from joulec.passes.rules import find, substitutions
from joulec.passes.rules.pooled import PoolInConvolution

RELU, BIAS, ADD = Step("activation", "relu"), Step("bias"), Step("add")
RULE = PoolInConvolution(lambda spec: True)


def reason(graph, rule=RULE):
    ((_, found),) = find(graph, (rule,))
    return found.reason


def test_one_node_in_place_of_two(tools):
    b = tools.Builder()
    conv = b.conv("a", b.input("x", 1, 4, 9, 9), 4, epilogue=(BIAS, RELU))
    graph = b.graph(b.node("p", MaxPool2d((3, 3), (2, 2)), conv, epilogue=(Step("activation", "tanh"),)))
    [changed] = tools.apply_all(graph, (RULE,))
    [node] = changed.nodes
    assert node.op == PooledConv2d(Conv2d(), MaxPool2d((3, 3), (2, 2)))
    assert [step.kind for step in node.epilogue] == ["bias", "activation", "activation"]
    tools.assert_equal(graph, changed)


def test_why_not(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 9, 9)
    conv = b.conv("a", x, 4)
    pooled = b.node("p", MaxPool2d((2, 2)), conv)
    assert "no kernel" in reason(b.graph(pooled), PoolInConvolution(lambda spec: False))
    assert "has other readers" in reason(b.graph(pooled, conv))
    outside = b.node("o", MaxPool2d((2, 2), (2, 2), (2, 2, 2, 2)), b.conv("c", x, 4))
    assert "padding" in reason(b.graph(outside))
    total = b.node("s", Conv2d(), x, b.const(4, 4, 1, 1), x, epilogue=(ADD,))
    assert "adds another tensor" in reason(b.graph(b.node("q", MaxPool2d((2, 2)), total)))
    falls = b.conv("f", x, 4, epilogue=(Step("activation", "leaky_relu", (-0.5,)),))
    assert "never to fall" in reason(b.graph(b.node("r", MaxPool2d((2, 2)), falls)))


def test_what_no_convolution_computes_is_left_alone(tools):
    b = tools.Builder()
    x = b.input("x", 1, 4, 9, 9)
    summed = b.node("s", Add(), x, b.node("r", Activation("relu"), x))
    assert not list(find(b.graph(b.node("p", MaxPool2d((2, 2)), summed)), (RULE,)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_convolution_under_any_pooling(tools, data):
    pick = lambda *choices: data.draw(st.sampled_from(choices))  # noqa: E731
    b = tools.Builder(seed=pick(0, 1, 2))
    x = b.input("x", pick(1, 2), 4, pick(7, 10), pick(8, 11))
    steps = pick((), (BIAS,), (BIAS, RELU), (Step("activation", "clip", (-0.5, 0.5)),))
    groups = pick(1, 2)
    kernel = b.const(6, 4 // groups, pick(1, 3), pick(1, 2))
    given = [b.const(6)] if BIAS in steps else []
    op = Conv2d(pick((1, 1), (2, 1)), pick((0, 0, 0, 0), (1, 0, 1, 1)), groups=groups)
    conv = b.node("c", op, x, kernel, *given, epilogue=steps)
    window = pick((2, 2), (3, 2)), pick((1, 1), (2, 2)), pick((0, 0, 0, 0), (1, 1, 0, 1))
    pool = MaxPool2d(*window, ceil_mode=pick(False, True))
    graph = b.graph(b.node("p", pool, conv, epilogue=pick((), (RELU,))))
    for rule, match in substitutions(graph, (RULE,)):
        tools.assert_equal(graph, graph.apply(rule.rewrite(graph, match)))
