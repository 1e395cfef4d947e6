"""Convolutions as matrix products, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulec.passes.graph import Conv2d, Graph, MatMul, Node, Operator, Reshape, Rewrite, Weight, reshaped, transposed
from joulec.passes.graph.node import Operand
from joulec.passes.rules.merging import label, refusal
from joulec.passes.rules.rule import Match, Mismatch
from joulec.passes.rules.terms import combined, convolution, interim, is_pointwise, producer


@dataclass(frozen=True)
class ConvolutionAsMatMul:
    """conv(x, W) = reshape(matmul(reshape(x), reshape(W))) where the kernel covers the whole plane

    The convolution has one group, no padding, no dilation and a kernel of the size of x's plane (1x1 on a plane of 1x1
    is one), so its result's plane is 1x1; weights and biases are constant, and it adds no other tensor. The matrix is
    stored transposed: an output's weights are a row.

    Pays: Classifiers written as convolutions (global kernels, 1x1 planes): matrix kernels are faster at batch 1.
    """

    name: str = "convolution-as-matmul"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        op, data, kernel = convolution(node), node.operands[0].type.shape, node.operands[1].type.shape
        if kernel[2:] != data[2:]:
            return
        reason = refusal(node, node)
        if op.groups != 1 or any(op.padding) or op.dilation != (1, 1):
            reason = f"{label(node)} has groups, padding or dilation"
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        data, kernel = node.operands[0], node.operands[1]
        assert isinstance(kernel, Weight)
        batch, out_channels = node.outputs[0].type.shape[:2]
        depth = data.type.size // batch
        flat = interim(graph, Reshape((batch, depth)), (data,), name=node.name)
        operands = (*flat.outputs, reshaped(kernel, (out_channels, depth)), *node.epilogue_operands)
        product = interim(graph, MatMul(transpose_b=True), operands, node.epilogue, name=node.name)
        back = Node.make(Reshape(node.outputs[0].type.shape), product.outputs, outputs=node.outputs, name=node.name)
        return Rewrite((node,), (flat, product, back))


@dataclass(frozen=True)
class MatMulAsConvolution:
    """matmul(reshape(x), W) = reshape(conv(x, reshape(W))) where x[N,C,1,1] is reshaped to [N,C]

    W is a constant matrix, stored transposed or not; biases are constant, and the product adds no other tensor.

    Pays: The way back: joins the layer to convolutions around it, or to their rules.
    """

    name: str = "matmul-as-convolution"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        view = _flattened(graph, node.operands[0])
        if view is None:
            return
        reason = refusal(node, node)
        if reason is None and len(node.operands[1].type.shape) != 2:
            reason = f"{label(node)} has a batch of weights"
        if view.operands[0].type.shape != (*node.operands[0].type.shape, 1, 1):
            reason = f"{label(view)} flattens {view.operands[0].type}, whose plane is not 1x1"
        yield Match((node, view)) if reason is None else Mismatch((node, view), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, view = match.nodes
        (matrix,) = combined(node.operands[1])
        assert isinstance(node.op, MatMul)
        rows = matrix if node.op.transpose_b else transposed(matrix)
        operands = (view.operands[0], reshaped(rows, (*rows.type.shape, 1, 1)), *node.epilogue_operands)
        conv = interim(graph, Conv2d(), operands, node.epilogue, name=node.name)
        back = Node.make(Reshape(node.outputs[0].type.shape), conv.outputs, outputs=node.outputs, name=node.name)
        return Rewrite((node,), (conv, back))


@dataclass(frozen=True)
class PointwiseAsMatMul:
    """conv(x, W) = reshape(matmul(reshape(W), reshape(x))) where W is 1x1

    The convolution has one group, stride 1, no padding and a constant kernel; its plane is larger than 1x1. Nothing but
    activations is fused into it (a bias would lie along the product's rows, which no epilogue has). The constant matrix
    stands on the left, so that x[N,C,H,W] is read as [N,C,H*W] as it lies in memory.

    Pays: 1x1 convolutions on devices with faster matrix products than direct kernels.
    """

    name: str = "pointwise-as-matmul"
    anchor: type[Operator] = Conv2d

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        if not is_pointwise(node) or node.operands[0].type.shape[2:] == (1, 1):
            return
        reason = None
        if not isinstance(node.operands[1], Weight) or isinstance(node.operands[0], Weight):
            reason = f"{label(node)} has weights that are computed at run time, or constant data"
        elif any(step.kind != "activation" for step in node.epilogue):
            reason = (
                f"something is added to {label(node)}, which a product with its matrix on the left has no place for"
            )
        yield Match((node,)) if reason is None else Mismatch((node,), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        (node,) = match.nodes
        data = node.operands[0]
        (kernel,) = combined(node.operands[1])
        batch, channels, height, width = data.type.shape
        flat = interim(graph, Reshape((batch, channels, height * width)), (data,), name=node.name)
        operands: tuple[Operand, ...] = (reshaped(kernel, kernel.type.shape[:2]), *flat.outputs)
        product = interim(graph, MatMul(), operands, node.epilogue, name=node.name)
        back = Node.make(Reshape(node.outputs[0].type.shape), product.outputs, outputs=node.outputs, name=node.name)
        return Rewrite((node,), (flat, product, back))


@dataclass(frozen=True)
class MatMulAsPointwise:
    """matmul(W, reshape(x)) = reshape(conv(x, reshape(W))) where x[N,C,H,W] is reshaped to [N,C,H*W]

    W is a constant matrix on the left; the right operand is not stored transposed, and nothing but activations is fused
    into the product.

    Pays: The way back; lets products over planes merge with convolutions.
    """

    name: str = "matmul-as-pointwise"
    anchor: type[Operator] = MatMul

    def matches(self, graph: Graph, node: Node) -> Iterator[Match | Mismatch]:
        view = _flattened(graph, node.operands[1])
        if view is None or not isinstance(node.operands[0], Weight):
            return
        flat = node.operands[1].type.shape
        reason = None
        assert isinstance(node.op, MatMul)
        if node.op.transpose_b or len(node.operands[0].type.shape) != 2:
            reason = f"{label(node)} has a batch of weights, or its right operand is stored transposed"
        elif any(step.kind != "activation" for step in node.epilogue):
            reason = f"something is added to {label(node)}"
        elif len(flat) != 3 or view.operands[0].type.shape[:2] != flat[:2]:
            reason = f"{label(view)} flattens more than the plane"
        yield Match((node, view)) if reason is None else Mismatch((node, view), reason)

    def rewrite(self, graph: Graph, match: Match) -> Rewrite:
        node, view = match.nodes
        (matrix,) = combined(node.operands[0])
        operands: tuple[Operand, ...] = (view.operands[0], reshaped(matrix, (*matrix.type.shape, 1, 1)))
        conv = interim(graph, Conv2d(), operands, node.epilogue, name=node.name)
        back = Node.make(Reshape(node.outputs[0].type.shape), conv.outputs, outputs=node.outputs, name=node.name)
        return Rewrite((node,), (conv, back))


def _flattened(graph: Graph, operand: Operand) -> Node | None:
    """The reshape of a 4-d tensor that gives an operand of two or three axes."""
    view = producer(graph, operand)
    if view is None or not isinstance(view.op, Reshape) or view.epilogue:
        return None
    return view if len(view.operands[0].type.shape) == 4 and len(view.op.shape) in (2, 3) else None
