"""Every operator as TVM's own operators, against its meaning in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from tvm import relax

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Operator,
    Pad,
    PooledConv2d,
    Reshape,
    Softmax,
    Split,
    Step,
    TensorType,
    Transpose,
    Value,
)
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.graph.operators import ACTIVATIONS, BINARIES
from joulec.passes.relax.emit import EmitError, emit_reference

RELU = Step("activation", "relu")
PARAMETERS = {"clip": (0.1, 0.5), "leaky_relu": (0.1,), "hard_sigmoid": (0.2, 0.5)}
POOLS = [
    cls(kernel, strides, padding, dilation, ceil, *counted)
    for kernel, strides, padding, dilation in [
        ((3, 3), (2, 2), (0, 0, 0, 0), (1, 1)),
        ((3, 2), (2, 3), (1, 0, 1, 1), (1, 1)),
        ((2, 3), (3, 2), (1, 1, 0, 1), (2, 2)),
    ]
    for ceil in (False, True)
    for cls, *counted in ((MaxPool2d,), (AvgPool2d, False), (AvgPool2d, True))
]
CASES = [
    (
        Conv2d((2, 1), (1, 0, 2, 1), (1, 2), 2),
        [(2, 4, 9, 9), (6, 2, 3, 3), (6,), (2, 6, 5, 6)],
        (Step("bias"), Step("add"), RELU),
    ),
    (
        PooledConv2d(Conv2d((1, 2), (1, 0, 1, 0)), MaxPool2d((2, 3), (2, 1), (1, 0, 0, 1))),
        [(2, 4, 9, 9), (6, 4, 3, 2), (6,)],
        (Step("bias"), RELU),
    ),
    (Conv2d(groups=4, padding=(1, 1, 1, 1)), [(1, 4, 5, 5), (4, 1, 3, 3)], ()),
    (MatMul(True), [(3, 5), (7, 5), (7,)], (Step("bias"),)),
    (MatMul(), [(2, 3, 5), (5, 7), (7,), (2, 3, 7)], (Step("bias"), Step("add"), Step("activation", "tanh"))),
    (MatMul(True), [(2, 1, 3, 4), (5, 6, 4)], ()),
    *((pool, [(1, 2, 9, 8)], ()) for pool in POOLS),
    (AvgPool2d((4, 4)), [(2, 3, 4, 4)], (RELU,)),
    *((LocalResponseNorm(size, 0.1, 0.5, 2.0), [(1, 6, 4, 4)], ()) for size in (1, 4, 5, 9)),
    (LocalResponseNorm(3), [(2, 5)], ()),
    (LayerNorm(1, 1e-3), [(2, 3, 4)], ()),
    (LayerNorm(2), [(2, 3, 4), (4,)], ()),
    (LayerNorm(1), [(2, 3, 4), (3, 4), (3, 4)], ()),
    (Softmax(1), [(2, 9)], ()),
    (Softmax(0), [(2, 3, 4)], ()),
    (Concat(1), [(2, 3, 4), (2, 5, 4), (2, 1, 4)], ()),
    (Concat(0), [(2, 3)], ()),
    (Split(1, (2, 3)), [(2, 5, 4)], ()),
    (Split(2, (1, 2, 1)), [(2, 5, 4)], ()),
    (Split(0, (2,)), [(2, 5)], ()),
    (Transpose((0, 2, 1)), [(2, 5, 4)], ()),
    (Reshape((10, 4)), [(2, 5, 4)], ()),
    (Pad(((0, 0), (1, 2), (0, 1)), 2.5), [(2, 3, 4)], ()),
    (ChannelAffine(), [(2, 3, 4, 4), (3,), (3,)], (RELU,)),
    (ChannelAffine(), [(2, 3), (3,), (3,)], ()),
    (Add(), [(2, 3), (3,), (2, 1)], ()),
    (Add(), [(2, 3)], ()),
    *((Activation(kind, PARAMETERS.get(kind, ())), [(3, 4)], ()) for kind in ACTIVATIONS),
    *((Binary(kind), [(3, 4), (3, 1)], ()) for kind in BINARIES),
    *((Add(), [(3, 4), (3, 4)], (Step("activation", kind, PARAMETERS.get(kind, ())),)) for kind in ACTIVATIONS),
]


def operators(cls=Operator):
    for sub in cls.__subclasses__():
        yield sub
        yield from operators(sub)


def test_every_operator_is_tried():
    public = {cls for cls in operators() if not cls.__name__.startswith("_") and cls.__module__.startswith("joulec")}
    known = {cls.__name__ for cls in public} - {"Opaque", "Relayout"}  # no graph has a relayout
    placed = {name for name in known if "Concat" in name and name != "Concat"}  # priced by the replay back end alone
    assert known - placed == {type(op).__name__ for op, _, _ in CASES}


@pytest.mark.parametrize(("op", "shapes", "epilogue"), CASES, ids=lambda part: str(part)[:70])
def test_plain_relax_form_means_the_same(op, shapes, epilogue):
    types = [TensorType(shape) for shape in shapes]
    node = Node.make(op, tuple(Value.input(f"i{index}", type) for index, type in enumerate(types)), epilogue)
    builder = relax.BlockBuilder()
    parameters = [relax.Var(f"p{index}", relax.TensorType(type.shape, type.dtype)) for index, type in enumerate(types)]
    with builder.function("main", parameters):
        with builder.dataflow():
            result = builder.emit_output(relax.Tuple(emit_reference(builder, node.spec, parameters)))
        builder.emit_func_output(result)
    machine = relax.VirtualMachine(tvm.compile(builder.get(), target="llvm"), tvm.cpu())
    rng = np.random.default_rng(0)
    arrays = [np.abs(rng.standard_normal(type.shape)).astype("float32") for type in types]
    if isinstance(op, Activation) and op.kind != "sqrt":
        arrays = [array - 0.7 for array in arrays]
    found = machine["main"](*map(tvm.runtime.tensor, arrays))
    wanted = evaluate_node(node, arrays)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), two, rtol=2e-5, atol=1e-5)


@dataclass(frozen=True, slots=True)
class Unheard(Operator):
    """No operator of TVM."""

    def infer(self, operands):
        return (operands[0],)


def test_what_has_no_form_is_refused():
    x = Value.input("x", TensorType((2,)))
    builder = relax.BlockBuilder()
    parameter = relax.Var("x", relax.TensorType((2,), "float32"))
    with pytest.raises(EmitError, match="unheard"), builder.function("main", [parameter]), builder.dataflow():
        emit_reference(builder, Node.make(Unheard(), (x,)).spec, [parameter])


def test_the_table_holds_each_case_once():
    assert len({(str(op), str(shapes), str(epilogue)) for op, shapes, epilogue in CASES}) == len(CASES)
