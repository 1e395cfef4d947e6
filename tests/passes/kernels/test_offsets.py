"""Kernels that read and write inside larger tensors."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Activation, Concat, Conv2d, MaxPool2d, Step, Weight
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.blocks import ends
from joulec.passes.kernels.offsets import at_offsets
from joulec.passes.kernels.registry import kernels_for
from joulec.passes.layouts.layout import blocked_shape, from_layout, layout_read, to_layout

RELU = Step("activation", "relu")
CASES = {
    "pointwise": (
        Conv2d(),
        [(1, 17, 13, 11), (19, 17, 1, 1), (19,), (1, 19, 13, 11)],
        [1, 2],
        (Step("bias"), Step("add"), RELU),
    ),
    "spatial": (Conv2d(padding=(1, 1, 1, 1)), [(1, 17, 13, 11), (19, 17, 3, 3)], [1], ()),
    "strided": (Conv2d(strides=(2, 2), padding=(1, 1, 1, 1)), [(1, 3, 13, 11), (24, 3, 3, 3)], [1], (RELU,)),
    "depthwise": (Conv2d(padding=(1, 1, 1, 1), groups=9), [(1, 9, 13, 11), (9, 1, 3, 3)], [1], ()),
    "pooling": (MaxPool2d((3, 3), (2, 2)), [(1, 5, 13, 11)], [], (RELU,)),
    "elementwise": (Activation("relu"), [(1, 5, 13, 11)], [], ()),
    "concat": (Concat(1), [(1, 5, 13, 11), (1, 2, 13, 11)], [], ()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("offset", [0, 13, 64])
def test_every_schedule_keeps_to_its_part(case, offset, make, compiled, host):
    op, shapes, constants, epilogue = CASES[case]
    node = make(op, shapes, constants, epilogue)
    rng = np.random.default_rng(0)
    given = [
        operand.value() if isinstance(operand, Weight) else rng.standard_normal(operand.type.shape, np.float32)
        for operand in node.operands
    ]
    (wanted,) = evaluate_node(node, given)
    inside = [index for index, operand in enumerate(node.operands) if not isinstance(operand, Weight)]
    for kernel, params in kernels_for(node.spec, host):
        reads, writes = ends(params)
        function = at_offsets(kernel.build(node.spec, params, host), {*inside, len(given)})
        arguments: list[object] = []
        for index, array in enumerate(given):
            if index in inside:
                laid_out = to_layout(array, layout_read(node.spec, index, reads, writes))
                arguments += [offset, tvm.runtime.tensor(around(laid_out, offset, np.nan))]
            else:
                arguments.append(tvm.runtime.tensor(kernel.pack(node.spec, params, host, index, array)))
        whole = tvm.runtime.tensor(around(to_layout(np.zeros_like(wanted, np.float32), writes), offset, 7.0))
        compiled(function, host)(*arguments, offset, whole)
        found = whole.numpy().reshape(-1)
        part = from_layout(found[offset : offset + wanted.size].reshape(blocked_shape(wanted.shape, writes)), writes)
        np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-4, err_msg=f"{kernel.name} {params}")
        assert (found[:offset] == 7.0).all()
        assert (found[offset + wanted.size :] == 7.0).all()


def around(array, offset, filling):
    """A tensor of the same rank that holds the array from an offset on, contiguous."""
    whole = np.full(offset + array.size + 77, filling, np.float32)
    whole[offset : offset + array.size] = array.reshape(-1)
    return whole.reshape((1,) * (array.ndim - 1) + whole.shape)
