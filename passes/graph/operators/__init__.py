"""Operators: attributes, shape inference, arithmetic, and meaning in numpy; one file per family."""

from joulec.passes.graph.operators.base import Operator, OperatorError
from joulec.passes.graph.operators.convolution import Conv2d
from joulec.passes.graph.operators.elementwise import ACTIVATIONS, BINARIES, Activation, Add, Binary, ChannelAffine
from joulec.passes.graph.operators.matmul import MatMul
from joulec.passes.graph.operators.normalisation import LayerNorm, LocalResponseNorm, Softmax
from joulec.passes.graph.operators.opaque import Opaque
from joulec.passes.graph.operators.padding import Pad
from joulec.passes.graph.operators.pooled import PooledConv2d
from joulec.passes.graph.operators.pooling import AvgPool2d, MaxPool2d
from joulec.passes.graph.operators.views import Concat, PlacedConcat, Reshape, Split, Transpose

__all__ = [
    "ACTIVATIONS",
    "BINARIES",
    "Activation",
    "Add",
    "AvgPool2d",
    "Binary",
    "ChannelAffine",
    "Concat",
    "Conv2d",
    "LayerNorm",
    "LocalResponseNorm",
    "MatMul",
    "MaxPool2d",
    "Opaque",
    "Operator",
    "OperatorError",
    "Pad",
    "PlacedConcat",
    "PooledConv2d",
    "Reshape",
    "Softmax",
    "Split",
    "Transpose",
]
