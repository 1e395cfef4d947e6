"""Which row prices a node."""

from __future__ import annotations

from joulec.passes.graph import Add, AvgPool2d, Concat, Conv2d, MaxPool2d, NodeSpec, PlacedConcat, Split


def row_key(spec: NodeSpec) -> str | None:
    """The row's key without algorithm; None where the format has no such rows, empty where the node costs nothing.

    A convolution's bias is always included in its row; the formats hold symmetric pads, no groups and no dilation.
    """
    op = spec.op
    if op.is_view or isinstance(op, Split):
        return ""
    shapes = [operand.type.shape for operand in spec.operands]
    if any(operand.type.dtype != "float32" for operand in spec.operands) or len(shapes[0]) != 4:
        return None
    relu = _relu(spec)
    if relu is None:
        return None
    match op:
        case Conv2d(strides=strides, padding=(top, left, bottom, right), dilation=(1, 1), groups=1):
            if (top, left) != (bottom, right) or not spec.operands[1].constant:
                return None
            out_channels, _, kernel_h, kernel_w = shapes[1]
            return _join("conv", *shapes[0], out_channels, kernel_h, kernel_w, *strides, top, left, relu)
        case MaxPool2d(padding=(top, left, bottom, right), dilation=(1, 1)) if _symmetric(op, spec):
            return _join("pool_max", *shapes[0], 4, *op.kernel, *op.strides, top, left, relu)
        case AvgPool2d(padding=(top, left, bottom, right), dilation=(1, 1)) if _symmetric(op, spec):
            if op.count_include_pad and op.padding != (0, 0, 0, 0):
                return None
            return _join("pool_avg", *shapes[0], 5, *op.kernel, *op.strides, top, left, relu)
        case Concat(axis=1) if not relu:
            flag = "<0>" if isinstance(op, PlacedConcat) else "<1>"
            return _join("concat", *shapes[0], *([flag] * len(shapes)))
        case Add() if not relu and len(shapes) == 2 and shapes[0] == shapes[1]:
            return _join("ew_add", *shapes[0])
    return None


def _relu(spec: NodeSpec) -> int | None:
    """Whether a ReLU is fused; None for an epilogue that no row has."""
    kinds = [step.activation or step.kind for step in spec.epilogue]
    allowed = ([], ["bias"]) if isinstance(spec.op, Conv2d) else ([],)
    if kinds in allowed:
        return 0
    return 1 if kinds[-1:] == ["relu"] and kinds[:-1] in allowed else None


def _symmetric(op: MaxPool2d | AvgPool2d, spec: NodeSpec) -> bool:
    """Whether the windows are those of the symmetric padding that the key states."""
    top, left, bottom, right = op.padding
    if (top, left) != (bottom, right):
        return False
    plain = type(op)(op.kernel, op.strides, op.padding)
    return plain.infer([spec.operands[0].type]) == spec.results


def _join(*parts: object) -> str:
    return ",".join(map(str, parts))
