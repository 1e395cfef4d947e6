"""Simplifications of operators that move or rename data."""

from __future__ import annotations

from joulec.passes.canonical.site import Site
from joulec.passes.graph import Add, Concat, Node, Reshape, Rewrite, Split, Transpose, Value


def drop_trivial(site: Site, node: Node) -> Rewrite | None:
    """reshape(x) to x's own shape = transpose(x) by the identity = concat(x) = split(x) into one = add(x) = x."""
    if not isinstance(node.op, Reshape | Transpose | Concat | Split | Add):
        return None
    if node.epilogue or len(node.operands) != 1 or len(node.outputs) != 1:
        return None
    (operand,), (result,) = node.operands, node.outputs
    if not isinstance(operand, Value) or operand.type != result.type:
        return None
    if isinstance(node.op, Transpose) and not _keeps_order(node.op.permutation, operand.type.shape):
        return None
    return Rewrite(remove=(node,), replace={result: operand})


def reshape_of_reshape(site: Site, node: Node) -> Rewrite | None:
    """reshape(reshape(x)) = reshape(x)."""
    if not isinstance(node.op, Reshape) or node.epilogue:
        return None
    inner = site.producer(node.operands[0])
    if inner is None or not isinstance(inner.op, Reshape) or inner.epilogue:
        return None
    return Rewrite((node,), (Node.make(node.op, inner.operands, outputs=node.outputs, name=node.name),))


def transpose_of_transpose(site: Site, node: Node) -> Rewrite | None:
    """transpose(transpose(x, p), q) = transpose(x, p[q])."""
    if not isinstance(node.op, Transpose) or node.epilogue:
        return None
    inner = site.producer(node.operands[0])
    if inner is None or not isinstance(inner.op, Transpose) or inner.epilogue:
        return None
    joint = Transpose(tuple(inner.op.permutation[axis] for axis in node.op.permutation))
    return Rewrite((node,), (Node.make(joint, inner.operands, outputs=node.outputs, name=node.name),))


def transpose_as_reshape(site: Site, node: Node) -> Rewrite | None:
    """transpose(x) that moves only axes of size one = reshape(x)."""
    if not isinstance(node.op, Transpose) or node.epilogue:
        return None
    if not _keeps_order(node.op.permutation, node.operands[0].type.shape):
        return None
    reshaped = Node.make(Reshape(node.outputs[0].type.shape), node.operands, outputs=node.outputs, name=node.name)
    return Rewrite((node,), (reshaped,))


def _keeps_order(permutation: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether the axes that are longer than one keep their order."""
    long = [axis for axis in permutation if shape[axis] != 1]
    return long == sorted(long)
