"""Graphs with their assignment to a Relax IRModule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, tirx
from tvm_ffi import structural_walk

from joulec.passes.graph import (
    Concat,
    Graph,
    Node,
    NodeSpec,
    Opaque,
    Part,
    Reshape,
    TensorType,
    Value,
    Weight,
    parts_of,
)
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.offsets import at_offsets
from joulec.passes.kernels.registry import kernels_for
from joulec.passes.layouts.layout import PLAIN, layout_read, relayout_spec
from joulec.passes.onnx.engines import engine_for, external_key
from joulec.passes.relax.backend import KernelAlgorithm
from joulec.passes.relax.emit import emit_reference
from joulec.passes.relax.forks import Fork, Unit, units
from joulec.passes.relax.lowering import empty
from joulec.passes.relax.tensors import Tensors, relax_type, unique_names
from joulec.passes.search.choices import Choice
from joulec.profiler.roofline import Roofline

EXTERNAL_CALL = "joulec.onnx"
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EntryPoint:
    """One function of an exported module.

    Attributes:
        function: its name in the module.
        weights: digests of the weights that it takes after the inputs, in order.
    """

    function: str
    weights: tuple[str, ...]


@dataclass
class Exported:
    """A module with everything that it needs at run time.

    Attributes:
        module: functions that take inputs, then weights, and return a tuple.
        entries: one per exported graph, in the order of export.
        weights: packed weights by content digest, each once.
        externals: ONNX definitions of operators that run outside the module, by digest.
    """

    module: Any
    entries: list[EntryPoint]
    weights: dict[str, _Array]
    externals: dict[str, bytes]

    @property
    def parallel(self) -> bool:
        """Whether some function shares its work out to threads. What TVM itself lowers does not."""
        return any(_is_parallel(one) for one in self.module.functions.values() if isinstance(one, tirx.PrimFunc))


def _is_parallel(function: Any) -> bool:
    kinds: set[int] = set()
    structural_walk(function.body, (tirx.For, lambda loop: kinds.add(int(loop.kind))))
    return int(tirx.ForKind.PARALLEL) in kinds


@dataclass
class Exporter:
    """Builds one module from several graphs; kernels and weights that they share are kept once.

    Attributes:
        base: a module whose functions come along; None starts an empty one.
        embed: put weights into the module as constants rather than taking them as parameters.
    """

    base: Any = None
    embed: bool = False
    _kernels: dict[tuple[NodeSpec, str, tuple[int, ...]], Any] = field(default_factory=dict)
    _entries: list[EntryPoint] = field(default_factory=list)
    _weights: dict[str, _Array] = field(default_factory=dict)
    _packed: dict[tuple[int, str, int], str] = field(default_factory=dict)
    _externals: dict[str, bytes] = field(default_factory=dict)
    _algorithms: dict[Node, KernelAlgorithm | None] = field(default_factory=dict)
    _layouts: dict[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._builder = relax.BlockBuilder(self.base)

    def add(
        self,
        function: str,
        graph: Graph,
        assignment: Mapping[Node, Choice],
        *,
        always_tuple: bool = True,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Export a graph as a function of that name.

        Args:
            assignment: the algorithm of every node of the graph.
            always_tuple: return a tuple even of a single output.
            attributes: of the function; those with which TVM takes weights after the inputs when omitted.
        """
        names = unique_names(value.name or "input" for value in graph.inputs)
        inputs = {v: relax.Var(n, relax_type(v.type)) for v, n in zip(graph.inputs, names, strict=True)}
        self._algorithms = {node: _algorithm(assignment[node]) for node in graph.nodes}
        self._layouts = {
            node.outputs[0]: int(getattr(assignment[node].algorithm, "writes", PLAIN))
            for node in graph.nodes
            if isinstance(node.op, Concat) and node.op.in_place
        }
        digests = dict.fromkeys(digest for node in graph.nodes for digest in self._constants(node).values())
        weights = {digest: self._weight(digest) for digest in digests}
        attributes = {"num_input": len(inputs)} if attributes is None else dict(attributes)
        order = list(graph.nodes) if graph.effects else units(graph.nodes, graph.outputs)
        body = _Body(order, inputs, weights, graph.outputs, parts_of(graph), pure=not graph.effects)
        self._define(function, body, attributes, always_tuple)
        self._entries.append(EntryPoint(function, tuple(weights)))

    def _define(self, name: str, body: _Body, attributes: Mapping[str, Any], always_tuple: bool = True) -> Any:
        """Add a function that takes the inputs, then the weights; those of its forks' sides come before it."""
        sides = {
            index: self._sides(f"{name}_fork{index}", unit, body)
            for index, unit in enumerate(body.units)
            if isinstance(unit, Fork)
        }
        parameters = [*body.inputs.values(), *([] if self.embed else body.weights.values())]
        with self._builder.function(name, parameters, attrs=dict(attributes), pure=body.pure):
            tensors = Tensors(self._builder, body.own_parts, self._layouts, body.inputs, self._converter)
            begin = 0
            for index in sides:
                self._emit_nodes(body, tensors, begin, index)
                self._emit_fork(body.units[index], sides[index], tensors, body.weights)
                begin = index + 1
            with self._builder.dataflow() if body.pure else _NoBlock():
                self._emit_all(body.units[begin:], body.weights, tensors)
                found = [self._expression(output, body.weights, tensors) for output in body.outputs]
                result = relax.Tuple(found) if always_tuple or len(found) > 1 else found[0]
                result = self._builder.emit_output(result) if body.pure else self._builder.emit(result)
            self._builder.emit_func_output(result)
        return self._builder.get().get_global_var(name)

    def _emit_nodes(self, body: _Body, tensors: Tensors, begin: int, end: int) -> None:
        """Emit the nodes between two forks as a block of their own."""
        if begin == end:
            return
        with self._builder.dataflow():
            self._emit_all(body.units[begin:end], body.weights, tensors)
            take = tensors.close(body.needed(end))
        take()

    def _emit_all(self, nodes: Sequence[Any], weights: Mapping[str, Any], tensors: Tensors) -> None:
        for node in nodes:
            constants = {index: weights[digest] for index, digest in self._constants(node).items()}
            with _compiling_for(self._algorithms[node]):
                self._emit(node, self._algorithms[node], constants, tensors)

    def _sides(self, name: str, fork: Fork, body: _Body) -> list[tuple[Any, list[Any]]]:
        """A function for each side of a fork, which gives the picks' results, and what it takes."""
        found = []
        for arm, (nodes, suffix) in enumerate(zip(fork.sides, ("then", "else"), strict=True), 1):
            outputs = [self._given(pick)[arm] for pick in fork.picks]
            own = {value for node in nodes for value in node.outputs}
            given = [one for node in nodes for one in self._given(node)]
            read = [one for one in dict.fromkeys([*given, *outputs]) if one not in own]
            inputs = {
                one: relax.Var(f"x{index}", relax_type(one.type))
                for index, one in enumerate(read)
                if isinstance(one, Value)
            }
            weights = {digest: self._weight(digest) for digest in read if isinstance(digest, str)}
            inner = _Body(units(nodes, outputs), inputs, weights, outputs, body.parts)
            function = self._define(f"{name}_{suffix}", inner, {"num_input": len(inputs)})
            found.append((function, [*inputs, *([] if self.embed else weights)]))
        return found

    def _emit_fork(
        self, fork: Any, sides: Sequence[tuple[Any, list[Any]]], tensors: Tensors, weights: Mapping[str, Any]
    ) -> None:
        """Call the function of one side or the other."""
        branches = []
        for function, takes in sides:
            given = [self._expression(one, weights, tensors) for one in takes]
            called = self._builder.normalize(relax.Call(function, given))
            result = relax.Var("side", called.ty)
            branches.append(relax.SeqExpr([relax.BindingBlock([relax.VarBinding(result, called)])], result))
        both = self._builder.emit(relax.If(tensors.read(fork.condition), *branches))
        for index, pick in enumerate(fork.picks):
            tensors.keep(pick.outputs[0], self._builder.emit(relax.TupleGetItem(both, index)))

    def _expression(self, one: Any, weights: Mapping[str, Any], tensors: Tensors) -> Any:
        return weights[one] if isinstance(one, str) else tensors.read(one)

    def _given(self, node: Node) -> list[Any]:
        """What a node reads: values, and its constants' digests."""
        constants = self._constants(node)
        return [constants.get(index, operand) for index, operand in enumerate(node.operands)]

    def finish(self) -> Exported:
        """The module with all functions added so far."""
        return Exported(self._builder.get(), self._entries, self._weights, self._externals)

    def _constants(self, node: Node) -> dict[int, str]:
        """Digests of the node's constant operands by position, packed as its algorithm reads them."""
        algorithm = self._algorithms[node]
        return {
            index: self._pack(node, algorithm, index, operand)
            for index, operand in enumerate(node.operands)
            if isinstance(operand, Weight)
        }

    def _weight(self, digest: str) -> Any:
        array = self._weights[digest]
        if self.embed:
            return relax.const(array)
        return relax.Var(f"w_{digest[:12]}", relax_type(TensorType(array.shape, str(array.dtype))))

    def _pack(self, node: Node, algorithm: KernelAlgorithm | None, index: int, weight: Weight) -> str:
        native = algorithm is not None and algorithm.kernel is not None
        form = f"{algorithm.name}|{node.spec}" if native and algorithm is not None else ""
        key = (weight.key, form, index)
        if key not in self._packed:
            array = weight.value()
            if algorithm is not None and algorithm.kernel is not None:
                array = algorithm.kernel.pack(node.spec, algorithm.params, algorithm.target, index, array)
            array = np.ascontiguousarray(array).reshape(array.shape)
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            self._weights.setdefault(digest, array)
            self._packed[key] = digest
        return self._packed[key]

    def _emit(
        self, node: Node, algorithm: KernelAlgorithm | None, constants: Mapping[int, Any], tensors: Tensors
    ) -> None:
        """Compute a node's results."""
        joins = isinstance(node.op, Concat) and bool(node.op.in_place)
        if joins and node.op.is_view:
            return
        if algorithm is not None and algorithm.kernel is not None and all(value.type.size for value in node.outputs):
            self._call(node, algorithm, constants, tensors)
            return
        given = [
            tensors.read(operand) if isinstance(operand, Value) else constants[index]
            for index, operand in enumerate(node.operands)
        ]
        if joins:
            tensors.join(node, given)
            return
        for value, result in zip(node.outputs, self._without_kernel(node, algorithm, given), strict=True):
            tensors.keep(value, result)

    def _call(self, node: Node, algorithm: KernelAlgorithm, constants: Mapping[int, Any], tensors: Tensors) -> None:
        """Call a kernel of ours."""
        arguments: list[Any] = []
        inside = []
        for index, operand in enumerate(node.operands):
            if isinstance(operand, Value):
                layout = layout_read(node.spec, index, algorithm.reads, algorithm.writes)
                arguments += tensors.argument(operand, layout)
                inside += [index] if tensors.lies_inside(operand, layout) else []
            else:
                arguments.append(constants[index])
        if tensors.is_shared(node.outputs[0], algorithm.writes):
            inside.append(len(node.operands))
        kernel = self._kernel(node.spec, algorithm, tuple(inside))
        tensors.compute(node.outputs, kernel, arguments, algorithm.writes)

    def _without_kernel(self, node: Node, algorithm: KernelAlgorithm | None, operands: list[Any]) -> list[Any]:
        """The results of a node that no kernel of ours computes."""
        results = [relax_type(value.type) for value in node.outputs]
        if all(value.type.size == 0 for value in node.outputs):
            return [empty(self._builder, value.type) for value in node.outputs]
        if isinstance(node.op, Reshape):
            return [self._builder.emit(relax.op.reshape(operands[0], node.op.shape))]
        if isinstance(node.op, Opaque) and node.op.dialect == "onnx":
            if algorithm is not None and algorithm.engine:
                return self._external(node.op, algorithm.engine, operands, results)
            if algorithm is not None and algorithm.lowered is not None:
                return emit_reference(self._builder, replace(node.spec, op=algorithm.lowered), operands)
            if not node.op.pure:  # what differs from call to call has no price, and so no algorithm
                return self._external(node.op, engine_for(node.op), operands, results)
        return emit_reference(self._builder, node.spec, operands)

    def _converter(self, type: TensorType, source: int, layout: int, inside: tuple[int, ...]) -> Any:
        """The kernel of a conversion: the algorithm that its price is of."""
        spec = relayout_spec(type, source, layout)
        target = next(one.target for one in self._algorithms.values() if one is not None)
        kernel, params = kernels_for(spec, target)[0]
        return self._kernel(spec, KernelAlgorithm(kernel, params, target, Roofline(1.0, 1.0)), inside)

    def _kernel(self, spec: NodeSpec, algorithm: KernelAlgorithm, inside: tuple[int, ...]) -> Any:
        """The kernel that takes some of its parameters at offsets inside larger tensors."""
        key = (spec, algorithm.name, inside)
        if key not in self._kernels:
            assert algorithm.kernel is not None
            function = algorithm.kernel.build(spec, algorithm.params, algorithm.target)
            name = re.sub(r"\W", "_", f"{spec.op.name}_{algorithm.family}")
            self._kernels[key] = self._builder.add_func(at_offsets(function, inside) if inside else function, name)
        return self._kernels[key]

    def _external(self, op: Opaque, engine: str, operands: list[Any], results: list[Any]) -> list[Any]:
        key = external_key(engine, op.definition)
        self._externals[key] = op.definition
        arguments = relax.Tuple([tvm.ir.StringImm(key), *operands])
        out = results[0] if len(results) == 1 else results
        called = self._builder.emit(relax.op.call_dps_packed(EXTERNAL_CALL, arguments, out))
        if len(results) == 1:
            return [called]
        return [self._builder.emit(relax.TupleGetItem(called, index)) for index in range(len(results))]


@dataclass(frozen=True)
class _Body:
    """What a function is made of.

    Attributes:
        units: nodes and forks, in order.
        inputs: parameters by the value that they stand for.
        weights: parameters, or constants, by digest.
        outputs: values, and digests of weights.
        parts: which values of the graph lie inside others.
    """

    units: Sequence[Unit]
    inputs: Mapping[Value, Any]
    weights: Mapping[str, Any]
    outputs: Sequence[Any]
    parts: Mapping[Value, Part]
    pure: bool = True

    @property
    def own_parts(self) -> dict[Value, Part]:
        """Those of them that its own nodes write."""
        made = {value for unit in self.units if isinstance(unit, Node) for value in unit.outputs}
        return {value: part for value, part in self.parts.items() if part.whole in made}

    def needed(self, index: int) -> list[Value]:
        """Values that the units from one on read or write, or that are outputs."""
        found = [one for one in self.outputs if isinstance(one, Value)]
        for unit in self.units[index:]:
            for node in [unit] if isinstance(unit, Node) else unit.nodes:
                found += [*node.inputs, *node.outputs]
        return found


class _NoBlock:
    """Stands in for a dataflow block where a function has effects."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _algorithm(choice: Choice) -> KernelAlgorithm | None:
    return choice.algorithm if isinstance(choice.algorithm, KernelAlgorithm) else None


def _compiling_for(algorithm: KernelAlgorithm | None) -> AbstractContextManager[object]:
    """TVM's current target is a GPU's where the algorithm is for one, so that nothing is scheduled for CPUs."""
    if algorithm is None or not isinstance(algorithm.target, CudaTarget):
        return nullcontext()
    found: AbstractContextManager[object] = tvm.target.Target(algorithm.target.options)
    return found
