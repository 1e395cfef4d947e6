"""Convolutions that are pooled, seen as convolutions."""

from __future__ import annotations

from joulec.passes.graph import NodeSpec, PooledConv2d


def convolution_of(spec: NodeSpec) -> NodeSpec:
    """The convolution that a spec pools, without what follows it; any other spec as it is."""
    if not isinstance(spec.op, PooledConv2d):
        return spec
    results = spec.op.convolution.infer([operand.type for operand in spec.anchor_operands])
    return NodeSpec(spec.op.convolution, spec.anchor_operands, (), results)
