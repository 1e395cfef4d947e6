"""Operators: what they accept, and what they mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Opaque,
    OperatorError,
    Reshape,
    Softmax,
    Split,
    TensorType,
    Transpose,
)


def types(*shapes, dtype="float32"):
    return [TensorType(shape, dtype) for shape in shapes]


DOUBLE = TensorType((2, 4), "float64")


@pytest.mark.parametrize(
    ("op", "operands", "reason"),
    [
        (Conv2d(), types((1, 2, 4, 4)), "takes data and kernel"),
        (Conv2d(), types((2, 4, 4), (3, 2, 1, 1)), "4-d"),
        (Conv2d(), [*types((1, 2, 4, 4)), TensorType((3, 2, 1, 1), "float64")], "one dtype"),
        (Conv2d(), types((1, 2, 4, 4), (3, 3, 1, 1)), "do not fit"),
        (Conv2d(groups=2), types((1, 4, 4, 4), (3, 2, 1, 1)), "do not fit"),
        (Conv2d(), types((1, 2, 4, 4), (3, 2, 5, 1)), "larger"),
        (Conv2d(dilation=(3, 3)), types((1, 2, 6, 6), (3, 2, 3, 3)), "larger"),
        (MatMul(), types((2, 3)), "two operands"),
        (MatMul(), types((3,), (3, 4)), "matrices"),
        (MatMul(), [*types((2, 4)), DOUBLE], "one dtype"),
        (MatMul(), types((2, 3), (4, 3)), "do not agree"),
        (MatMul(transpose_b=True), types((2, 3), (3, 4)), "do not agree"),
        (MatMul(), types((2, 2, 3), (3, 3, 4)), "broadcast"),
        (MaxPool2d((2, 2)), types((4, 4)), "4-d"),
        (MaxPool2d((5, 5)), types((1, 1, 4, 4)), "larger"),
        (AvgPool2d((3, 3), dilation=(2, 2)), types((1, 1, 4, 4)), "larger"),
        (Activation("mish3"), types((2,)), "unknown activation"),
        (Activation("relu"), types((2,), (2,)), "one operand"),
        (Add(), [], "at least one"),
        (Add(), types((2, 3), (2, 4)), "do not broadcast"),
        (Add(), [*types((2, 4)), DOUBLE], "one dtype"),
        (Binary("pow"), types((2,), (2,)), "unknown binary"),
        (Binary("sub"), types((2,)), "two operands"),
        (ChannelAffine(), types((2, 3, 4), (3,)), "data, scale and shift"),
        (ChannelAffine(), types((2, 3, 4), (4,), (4,)), "do not fit"),
        (ChannelAffine(), types((3,), (3,), (3,)), "do not fit"),
        (Softmax(2), types((2, 3)), "axis 2"),
        (Softmax(-1), types((2, 3)), "axis -1"),
        (LocalResponseNorm(3), types((3,)), "channels"),
        (Concat(0), [], "at least one"),
        (Concat(2), types((2, 3)), "axis 2"),
        (Concat(0), types((2, 3), (2, 4)), "do not agree"),
        (Concat(0), types((2, 3), (2, 3, 1)), "do not agree"),
        (Concat(0), [*types((2, 4)), DOUBLE], "do not agree"),
        (Split(0, (1, 2)), types((4,)), "do not add up"),
        (Split(1, (4,)), types((4,)), "axis 1"),
        (Reshape((3, 2)), types((5,)), "other elements"),
        (Transpose((0, 0)), types((2, 3)), "transpose"),
        (Transpose((0,)), types((2, 3)), "transpose"),
        (Opaque("Einsum", "onnx", b"", tuple(types((2,))), tuple(types((2,)))), types((3,)), "other operands"),
    ],
)
def test_operands_that_do_not_fit_are_refused(op, operands, reason):
    with pytest.raises(OperatorError, match=reason):
        op.infer(operands)


def test_convolution_sizes_flops_and_names():
    op = Conv2d((2, 1), (1, 0, 2, 3), (1, 2), 2)
    data, kernel = types((2, 4, 9, 9), (6, 2, 3, 3))
    result = op.infer([data, kernel])[0]
    assert result.shape == (2, 6, 5, 8)
    assert op.flops([data, kernel], [result]) == 2 * result.size * 2 * 9
    assert op.name == "conv2d"
    assert AvgPool2d((1, 1)).name == "avg_pool2d"
    assert LocalResponseNorm(1).name == "local_response_norm"


def naive_conv(x, w, op):
    """The definition, with loops."""
    top, left, bottom, right = op.padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    shape = op.infer(types(x.shape, w.shape))[0].shape if not any(op.padding) else None
    kh, kw = w.shape[2:]
    out_h = (x.shape[2] - op.dilation[0] * (kh - 1) - 1) // op.strides[0] + 1
    out_w = (x.shape[3] - op.dilation[1] * (kw - 1) - 1) // op.strides[1] + 1
    y = np.zeros((x.shape[0], w.shape[0], out_h, out_w))
    per_in, per_out = w.shape[1], w.shape[0] // op.groups
    for o in range(w.shape[0]):
        begin = (o // per_out) * per_in
        for i in range(out_h):
            for j in range(out_w):
                for a in range(kh):
                    for b in range(kw):
                        row, column = i * op.strides[0] + a * op.dilation[0], j * op.strides[1] + b * op.dilation[1]
                        y[:, o, i, j] += (x[:, begin : begin + per_in, row, column] * w[o, :, a, b]).sum(axis=1)
    assert shape is None or shape == y.shape
    return y


@pytest.mark.parametrize(
    ("op", "data", "kernel"),
    [
        (Conv2d(), (1, 2, 4, 5), (3, 2, 2, 3)),
        (Conv2d((2, 1), (1, 0, 2, 3), (1, 2), 2), (2, 4, 6, 7), (6, 2, 3, 2)),
        (Conv2d(groups=4, padding=(1, 1, 1, 1)), (1, 4, 3, 3), (4, 1, 3, 3)),
    ],
)
def test_convolution_means_its_definition(op, data, kernel):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(data), rng.standard_normal(kernel)
    np.testing.assert_allclose(op.evaluate(x, w)[0], naive_conv(x, w, op), rtol=1e-12, atol=1e-12)


def naive_pool(x, op, reduce):
    """Each window by its definition: what lies outside the padded tensor takes no part."""
    result = op.infer(types(x.shape))[0].shape
    top, left, bottom, right = op.padding
    y = np.zeros(result)
    for i in range(result[2]):
        for j in range(result[3]):
            cells, padding = [], 0
            for a in range(op.kernel[0]):
                for b in range(op.kernel[1]):
                    row = i * op.strides[0] + a * op.dilation[0] - top
                    column = j * op.strides[1] + b * op.dilation[1] - left
                    if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                        cells.append(x[:, :, row, column])
                    elif row < x.shape[2] + bottom and column < x.shape[3] + right:
                        padding += 1
            y[:, :, i, j] = reduce(np.stack(cells), padding)
    return y


@given(st.data())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_pooling_means_its_definition(data):
    def pair(low, high):
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, strides, dilation = pair(1, 3), pair(1, 3), pair(1, 2)
    reach = [min((k - 1), 2) for k in kernel]
    padding = tuple(data.draw(st.integers(0, reach[axis])) for axis in (0, 1, 0, 1))
    ceil, counted = data.draw(st.booleans()), data.draw(st.booleans())
    size = pair(3, 7)
    assume(all(d * (k - 1) + 1 <= s for d, k, s in zip(dilation, kernel, size, strict=True)))
    x = np.random.default_rng(0).standard_normal((1, 2, *size))
    highest = MaxPool2d(kernel, strides, padding, dilation, ceil)
    mean = AvgPool2d(kernel, strides, padding, dilation, ceil, counted)
    try:
        wanted = naive_pool(x, highest, lambda cells, _: cells.max(axis=0))
    except ValueError:  # a window that lies in the padding alone has no value
        return
    np.testing.assert_allclose(highest.evaluate(x)[0], wanted)
    wanted = naive_pool(x, mean, lambda cells, pads: cells.sum(axis=0) / (len(cells) + (pads if counted else 0)))
    np.testing.assert_allclose(mean.evaluate(x)[0], wanted, rtol=1e-12, atol=1e-12)


def test_ceil_mode_adds_a_window_but_none_that_starts_in_the_trailing_padding():
    (data,) = types((1, 1, 6, 6))
    assert MaxPool2d((3, 3), (2, 2), ceil_mode=False).infer([data])[0].shape[2:] == (2, 2)
    assert MaxPool2d((3, 3), (2, 2), ceil_mode=True).infer([data])[0].shape[2:] == (3, 3)
    assert MaxPool2d((2, 2), (3, 3), (0, 0, 1, 1), ceil_mode=True).infer([data])[0].shape[2:] == (2, 2)


def test_overhang_is_the_padding_with_the_same_windows():
    (data,) = types((1, 1, 6, 6))
    op = MaxPool2d((3, 3), (2, 2), ceil_mode=True)
    result = op.infer([data])[0]
    assert op.overhang(data, result) == (0, 0, 1, 1)
    floor = MaxPool2d((3, 3), (2, 2), op.overhang(data, result))
    assert floor.infer([data])[0] == result
    x = np.random.default_rng(0).standard_normal(data.shape)
    np.testing.assert_equal(floor.evaluate(x)[0], op.evaluate(x)[0])


def test_what_hangs_over_never_counts_in_a_mean():
    op = AvgPool2d((2, 2), (2, 2), ceil_mode=True, count_include_pad=True)
    x = np.ones((1, 1, 3, 3))
    np.testing.assert_equal(op.evaluate(x)[0], np.ones((1, 1, 2, 2)))
    padded = AvgPool2d((2, 2), (2, 2), (1, 1, 0, 0), count_include_pad=True)
    assert padded.evaluate(x)[0][0, 0, 0, 0] == 0.25


def test_matmul_broadcasts_and_transposes():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 3, 4)), rng.standard_normal((5, 6, 4))
    (result,) = MatMul(transpose_b=True).evaluate(a, b)
    np.testing.assert_allclose(result, np.einsum("xymk,ynk->xymn", np.broadcast_to(a, (2, 5, 3, 4)), b))
    assert MatMul(transpose_b=True).infer(types(a.shape, b.shape))[0].shape == result.shape
    assert MatMul().flops(types((3, 4), (4, 5)), types((3, 5))) == 120


def test_local_response_norm_means_its_definition():
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    for size in (1, 2, 3, 4, 5, 9):
        op = LocalResponseNorm(size, alpha=0.3, beta=0.6, bias=1.5)
        wanted = np.empty_like(x)
        for c in range(5):
            low, high = max(0, c - (size - 1) // 2), min(4, c + size // 2)
            wanted[:, c] = x[:, c] / (1.5 + 0.3 / size * (x[:, low : high + 1] ** 2).sum(axis=1)) ** 0.6
        np.testing.assert_allclose(op.evaluate(x)[0], wanted)


def test_softmax_is_stable():
    (result,) = Softmax(1).evaluate(np.array([[1e4, 1e4, -1e4]], "f"))
    np.testing.assert_allclose(result, [[0.5, 0.5, 0.0]])


def test_elementwise_meanings():
    x = np.array([-2.0, 0.0, 3.0], "f")
    for op, wanted in [
        (Activation("relu"), [0, 0, 3]),
        (Activation("clip", (-1.0, 1.0)), [-1, 0, 1]),
        (Activation("leaky_relu", (0.5,)), [-1, 0, 3]),
        (Activation("sigmoid"), 1 / (1 + np.exp(-x))),
        (Activation("erf"), [-0.9953223, 0, 0.9999779]),
    ]:
        (result,) = op.evaluate(x)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, wanted, rtol=1e-6)
    np.testing.assert_equal(Add().evaluate(x)[0], x)
    np.testing.assert_equal(Add().evaluate(x, x, np.float32(1))[0], 2 * x + 1)
    np.testing.assert_equal(Binary("sub").evaluate(x, x[1:2])[0], x)
    np.testing.assert_equal(ChannelAffine().evaluate(x[np.newaxis], x, x)[0], [x * x + x])
    assert Add().flops(types((3,), (3,), (3,)), types((3,))) == 6


def test_movement_meanings():
    x = np.arange(12.0).reshape(2, 6)
    parts = Split(1, (1, 2, 3)).evaluate(x)
    assert [part.shape[1] for part in parts] == [1, 2, 3]
    np.testing.assert_equal(Concat(1).evaluate(*parts)[0], x)
    assert Split(1, (1, 2, 3)).bounds == ((0, 1), (1, 3), (3, 6))
    np.testing.assert_equal(Transpose((1, 0)).evaluate(x)[0], x.T)
    np.testing.assert_equal(Reshape((3, 4)).evaluate(x)[0], x.reshape(3, 4))
    assert Reshape((3, 4)).is_view
    assert not Transpose((1, 0)).is_view
