"""Every rule on random graphs with boundaries: what it rewrites computes the same, and it both applies and does not."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joulec.passes.graph import Binary, Concat, OperatorError, Step
from joulec.passes.rules import RULES, Match, find

RULE = {rule.name: rule for rule in RULES}
RELU, BIAS = Step("activation", "relu"), Step("bias")
EPILOGUES = ((), (RELU,), (BIAS,), (BIAS, RELU))
EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, database=None)

sizes = st.integers(1, 4)


@pytest.fixture(scope="module")
def tally():
    """How often each rule applied and refused; both must happen, or the property says nothing."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    for name, count in counts.items():
        assert count["applied"] >= 30, f"{name} hardly ever applied: {count}"
        assert count["refused"] >= 10, f"{name} hardly ever refused: {count}"


def check(tools, tally, graph, name):
    rules = (RULE[name],)
    count = tally.setdefault(name, Counter())
    count.update("applied" if isinstance(found, Match) else "refused" for _, found in find(graph, rules))
    tools.apply_all(graph, rules)


def pick(draw, *choices):
    return draw(st.sampled_from(choices))


@st.composite
def lengths(draw):
    """Kernel length, padding before and after, dilation of one axis."""
    return draw(sizes), draw(st.integers(0, 3)), draw(st.integers(0, 3)), pick(draw, 1, 1, 2, 3)


def finish(draw, b, values, axis=1):
    """Read the values in random ways: directly, through concats in any order, with strangers between."""
    outputs = []
    for count in range(draw(st.integers(0, 2))):
        chosen = draw(st.permutations(values))[: draw(st.integers(1, len(values)))]
        if draw(st.booleans()):
            chosen.insert(draw(st.integers(0, len(chosen))), b.relu(f"s{count}", values[0]))
        outputs.append(b.concat(f"k{count}", *chosen, axis=axis))
    outputs += [value for value in values if draw(st.booleans())]
    return b.graph(*(outputs or values))


@st.composite
def convolutions(draw, tools, enlarged):
    b = tools.Builder(draw(st.integers(0, 3)))
    x = b.input("x", draw(st.integers(1, 2)), pick(draw, 2, 4), draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    strides = pick(draw, 1, 2, 3), pick(draw, 1, 2)
    base = draw(lengths()), draw(lengths())
    epilogue, groups = pick(draw, *EPILOGUES), pick(draw, 1, 1, 1, 1, 2)
    values = []
    for index in range(draw(st.integers(2, 3))):
        axes = list(base)
        if enlarged and index:
            for axis, (length, before, after, step) in enumerate(base):
                lead = draw(st.integers(0, min(length - 1, before // step)))
                trail = draw(st.integers(0, min(length - 1 - lead, after // step)))
                slack = pick(draw, 0, 0, 0, 1)
                axes[axis] = length - lead - trail, before - lead * step, after - trail * step + slack, step
        if draw(st.integers(0, 9)) == 0:
            axes[draw(st.integers(0, 1))] = draw(lengths())
        own = pick(draw, *EPILOGUES) if draw(st.integers(0, 9)) == 0 else epilogue
        (kh, top, bottom, dh), (kw, left, right, dw) = axes
        attributes = {"strides": strides, "padding": (top, left, bottom, right), "dilation": (dh, dw), "groups": groups}
        try:
            values.append(b.conv(f"c{index}", x, 2 * draw(st.integers(1, 2)), (kh, kw), own, **attributes))
        except OperatorError:
            assume(False)
    try:
        return finish(draw, b, values)
    except OperatorError:  # results of several sizes have no concat
        return b.graph(*values)


@EXAMPLES
@given(data=st.data())
def test_merge_convolutions(tools, tally, data):
    check(tools, tally, data.draw(convolutions(tools, enlarged=False)), "merge-convolutions")


@EXAMPLES
@given(data=st.data())
def test_merge_enlarged_convolutions(tools, tally, data):
    check(tools, tally, data.draw(convolutions(tools, enlarged=True)), "merge-enlarged-convolutions")


@EXAMPLES
@given(data=st.data())
def test_merge_matmuls(tools, tally, data):
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    shape = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(2, 4)))]
    x = b.input("x", *shape)
    epilogue, transposed = pick(draw, *EPILOGUES), draw(st.booleans())
    values = []
    for index in range(draw(st.integers(2, 4))):
        own = pick(draw, *EPILOGUES) if draw(st.integers(0, 7)) == 0 else epilogue
        width = shape[1] if len(shape) == 4 and BIAS in own else draw(sizes)
        values.append(b.matmul(f"m{index}", x, width, own, transposed ^ (draw(st.integers(0, 7)) == 0)))
    check(tools, tally, finish(draw, b, values, axis=len(shape) - 1), "merge-matmuls")


def inputs(draw, b, axis):
    """Operands that a concat along the axis takes."""
    shape = [draw(sizes) for _ in range(3)]
    return [b.input(f"x{i}", *shape[:axis], draw(sizes), *shape[axis + 1 :]) for i in range(draw(st.integers(1, 4)))]


@EXAMPLES
@given(data=st.data())
def test_split_of_concat(tools, tally, data):
    draw = data.draw
    b = tools.Builder()
    axis = draw(st.integers(0, 2))
    operands = inputs(draw, b, axis)
    if draw(st.integers(0, 5)) == 0:
        operands.append(b.const(*operands[0].type.shape))
    cat = b.concat("k", *draw(st.permutations(operands)), axis=axis)
    along = axis if draw(st.integers(0, 9)) else draw(st.integers(0, 2))
    total, bounds = cat.type.shape[along], [0]
    for operand in b.nodes[-1].operands:
        bounds.append(bounds[-1] + operand.type.shape[axis])
    near = sorted({min(bound, total) for bound in bounds})
    allowed = st.sampled_from(near) if draw(st.integers(0, 3)) else st.integers(0, total)
    cuts = sorted({0, total, *draw(st.lists(allowed, max_size=3))})
    widths = [end - begin for begin, end in pairwise(cuts)]
    results = b.split(" ".join(f"p{i}" for i in range(len(widths))), cat, *widths, axis=along)
    results = results if isinstance(results, tuple) else (results,)
    outputs = [b.relu(f"r{i}", value) for i, value in enumerate(results)]
    check(tools, tally, b.graph(*outputs, *([cat] if draw(st.booleans()) else []), results[0]), "split-of-concat")


@EXAMPLES
@given(data=st.data())
def test_concat_of_split(tools, tally, data):
    draw = data.draw
    b = tools.Builder()
    axis = draw(st.integers(0, 2))
    shape = [draw(sizes) for _ in range(3)]
    widths = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(2, 3)))]
    shape[axis] = sum(widths)
    x = b.input("x", *shape)
    data_in = b.relu("r", x) if draw(st.booleans()) else x
    parts = list(b.split(" ".join(f"p{i}" for i in range(len(widths))), data_in, *widths, axis=axis))
    order = parts if draw(st.integers(0, 2)) else draw(st.permutations(parts))
    order = [*([x] if draw(st.booleans()) else []), *order, *(order if draw(st.integers(0, 4)) == 0 else [])]
    epilogue = (RELU,) if draw(st.integers(0, 9)) == 0 else ()
    cat = b.node("k", Concat(axis), *order, epilogue=epilogue)
    outputs = [b.relu("o", cat), *(part for part in parts if draw(st.integers(0, 3)) == 0)]
    check(tools, tally, b.graph(*outputs, *([cat] if draw(st.booleans()) else [])), "concat-of-split")


@EXAMPLES
@given(data=st.data())
def test_flatten_concats(tools, tally, data):
    draw = data.draw
    b = tools.Builder()
    axis = draw(st.integers(0, 2))
    operands = inputs(draw, b, axis)
    inner = [b.node(f"i{n}", Concat(axis), *draw(st.permutations(operands)), epilogue=pick(draw, (), (), (RELU,)))
             for n in range(draw(st.integers(1, 2)))]  # fmt: skip
    around = draw(st.permutations([*inner, *operands, inner[0]]))
    outer = b.node("k", Concat(axis), *around, epilogue=pick(draw, (), (RELU,)))
    extra = [b.node("m", Binary("mul"), inner[0], inner[0])] if draw(st.integers(0, 3)) == 0 else []
    check(tools, tally, b.graph(outer, *extra, *(inner if draw(st.integers(0, 5)) == 0 else [])), "flatten-concats")


@EXAMPLES
@given(data=st.data())
def test_concat_of_branches(tools, tally, data):
    """Convolutions merged while their concats were nested, which are then flattened."""
    draw = data.draw
    b = tools.Builder(draw(st.integers(0, 3)))
    x = b.input("x", 1, 2, draw(st.integers(1, 3)), 2)
    stranger = b.relu("s", x)
    values = [b.conv(f"c{index}", x, draw(sizes), epilogue=(BIAS, RELU)) for index in range(draw(st.integers(2, 4)))]
    outputs = []
    for count in range(draw(st.integers(1, 2))):
        order = draw(st.permutations(values))[: draw(st.integers(2, len(values)))]
        level = order[0]
        for step, value in enumerate(order[1:]):
            first = [stranger] if step == 0 else []
            level = (
                b.concat(f"k{count}_{step}", *first, level, value)
                if draw(st.booleans())
                else b.concat(f"k{count}_{step}", b.concat(f"n{count}_{step}", stranger, level), value)
            )
        outputs.append(level)
    outputs += [value for value in values if draw(st.integers(0, 2)) == 0]
    graph = b.graph(*outputs)
    merged = tools.exhaust(graph, (RULE["merge-convolutions"],), seed=draw(st.integers(0, 9)))
    flat = tools.exhaust(merged, (RULE["flatten-concats"],))
    tools.assert_equal(graph, flat)
    check(tools, tally, flat, "concat-of-branches")
