"""The rules of linear algebra, of arithmetic with constants, and of views."""

from __future__ import annotations

from joulec.passes.rules.activations import GeluOfErf, SoftmaxOfShift
from joulec.passes.rules.chains import (
    AddWeights,
    AssociateLeft,
    AssociateRight,
    FoldWeightChain,
    JoinProducts,
    SplitProduct,
)
from joulec.passes.rules.common import ShareEqual
from joulec.passes.rules.constants import (
    CombineScales,
    CombineShifts,
    DistributeScale,
    FactorScale,
    FlattenSums,
    NegatedShift,
    ReciprocalScale,
    UnitScale,
    ZeroShift,
)
from joulec.passes.rules.rule import Rule
from joulec.passes.rules.scales import FoldNormScale, ScaleColumns, ScaleFactor, ScaleResult, ScaleRows, ShiftIntoBias
from joulec.passes.rules.views import (
    CombineTransposed,
    ElementwiseOfView,
    FlipTransposedOperand,
    ReshapeOfElementwise,
    SoftmaxOfTranspose,
    StoreTransposed,
    TransposeOfElementwise,
    TransposeOfProduct,
)

ALGEBRA: tuple[Rule, ...] = (
    FoldWeightChain(),
    AssociateRight(),
    AssociateLeft(),
    AddWeights(),
    JoinProducts(),
    SplitProduct(),
    ScaleColumns(),
    ScaleRows(),
    ShiftIntoBias(),
    ScaleFactor(),
    ScaleResult(),
    FoldNormScale(),
    ReciprocalScale(),
    NegatedShift(),
    CombineScales(),
    CombineShifts(),
    UnitScale(),
    ZeroShift(),
    DistributeScale(),
    FactorScale(),
    FlattenSums(),
    TransposeOfElementwise(),
    ReshapeOfElementwise(),
    ElementwiseOfView(),
    SoftmaxOfTranspose(),
    SoftmaxOfShift(),
    CombineTransposed(),
    FlipTransposedOperand(),
    StoreTransposed(),
    TransposeOfProduct(),
    GeluOfErf(),
    ShareEqual(),
)
