"""The rules for convolutional networks beside merging: sums, groups, products, pads, poolings, concats."""

from joulec.passes.graph import AvgPool2d, Conv2d
from joulec.passes.rules.composition import ConvolutionOfPointwise, FoldAffine, PointwiseOfConvolution
from joulec.passes.rules.groups import GroupConvolutions, UngroupConvolution
from joulec.passes.rules.lifting import (
    ActivationOfConcat,
    ConcatOfActivations,
    ConcatOfPools,
    PoolOfConcat,
    SplitOfSplit,
)
from joulec.passes.rules.pads import AvgPoolOfPad, ConvolutionOfPad, MaxPoolOfPad
from joulec.passes.rules.pointwise import (
    ConvolutionAsMatMul,
    MatMulAsConvolution,
    MatMulAsPointwise,
    PointwiseAsMatMul,
)
from joulec.passes.rules.pools import (
    ActivationOfMaxPool,
    AvgPoolOfAvgPool,
    AvgPoolOfPointwise,
    MaxPoolOfActivation,
    MaxPoolOfMaxPool,
    PointwiseOfAvgPool,
)
from joulec.passes.rules.rule import Rule
from joulec.passes.rules.sums import AbsorbIdentity, ConvolutionOfConcat, SumAsConvolutionOfConcat, SumOfConvolutions

CONVOLUTIONAL: tuple[Rule, ...] = (
    SumOfConvolutions(),
    SumOfConvolutions("sum-of-convolutions-in-epilogue", Conv2d),
    AbsorbIdentity(),
    AbsorbIdentity("absorb-identity-in-epilogue", Conv2d),
    SumAsConvolutionOfConcat(),
    SumAsConvolutionOfConcat("sum-as-convolution-of-concat-in-epilogue", Conv2d),
    ConvolutionOfConcat(),
    GroupConvolutions(),
    UngroupConvolution(),
    PointwiseOfConvolution(),
    ConvolutionOfPointwise(),
    FoldAffine(),
    ConvolutionAsMatMul(),
    MatMulAsConvolution(),
    PointwiseAsMatMul(),
    MatMulAsPointwise(),
    AvgPoolOfPointwise(),
    PointwiseOfAvgPool(),
    MaxPoolOfActivation(),
    ActivationOfMaxPool(),
    MaxPoolOfMaxPool(),
    AvgPoolOfAvgPool(),
    ConvolutionOfPad(),
    MaxPoolOfPad(),
    AvgPoolOfPad(),
    PoolOfConcat(),
    PoolOfConcat("avg-pool-of-concat", AvgPool2d),
    ConcatOfPools(),
    ActivationOfConcat(),
    ConcatOfActivations(),
    SplitOfSplit(),
)
"""Some undo each other; a rule with two anchors stands here once for each."""
