"""Graphs with their assignment to a Relax IRModule."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, tirx
from tvm_ffi import structural_walk

from joulec.passes.graph import Concat, Graph, Node, NodeSpec, Opaque, Reshape, TensorType, Value, Weight
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.offsets import at_offsets
from joulec.passes.onnx.engines import engine_for, external_key
from joulec.passes.relax.backend import KernelAlgorithm
from joulec.passes.relax.emit import emit_reference
from joulec.passes.relax.lowering import empty
from joulec.passes.relax.tensors import Tensors, relax_type
from joulec.passes.search.choices import Choice

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
        names = _unique(value.name or "input" for value in graph.inputs)
        inputs = {v: relax.Var(n, relax_type(v.type)) for v, n in zip(graph.inputs, names, strict=True)}
        weights: dict[str, Any] = {}
        algorithms = {node: _algorithm(assignment[node]) for node in graph.nodes}
        operands = {node: self._constants(node, algorithms[node], weights) for node in graph.nodes}
        parameters = [*inputs.values(), *([] if self.embed else weights.values())]
        attributes = {"num_input": len(inputs)} if attributes is None else dict(attributes)
        impure = bool(graph.effects)
        with self._builder.function(function, parameters, attrs=attributes, pure=not impure):
            tensors = Tensors(self._builder, graph, inputs)
            with self._builder.dataflow() if not impure else _NoBlock():
                for node in graph.nodes:
                    with _compiling_for(algorithms[node]):
                        self._emit(node, algorithms[node], operands[node], tensors)
                outputs = [tensors.read(value) for value in graph.outputs]
                result = relax.Tuple(outputs) if always_tuple or len(outputs) > 1 else outputs[0]
                result = self._builder.emit(result) if impure else self._builder.emit_output(result)
            self._builder.emit_func_output(result)
        self._entries.append(EntryPoint(function, tuple(weights)))

    def finish(self) -> Exported:
        """The module with all functions added so far."""
        return Exported(self._builder.get(), self._entries, self._weights, self._externals)

    def _constants(self, node: Node, algorithm: KernelAlgorithm | None, weights: dict[str, Any]) -> dict[int, Any]:
        """Parameters for the node's constant operands by position, packed as its algorithm reads them."""
        found = {}
        for index, operand in enumerate(node.operands):
            if not isinstance(operand, Weight):
                continue
            digest = self._pack(node, algorithm, index, operand)
            if digest not in weights:
                weights[digest] = self._weight(digest)
            found[index] = weights[digest]
        return found

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
                arguments += tensors.argument(operand)
                inside += [index] if tensors.lies_inside(operand) else []
            else:
                arguments.append(constants[index])
        if tensors.is_shared(node.outputs[0]):
            inside.append(len(node.operands))
        tensors.compute(node.outputs, self._kernel(node.spec, algorithm, tuple(inside)), arguments)

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

    def _kernel(self, spec: NodeSpec, algorithm: KernelAlgorithm, inside: tuple[int, ...]) -> Any:
        """The kernel that takes some of its parameters at offsets inside larger tensors."""
        key = (spec, algorithm.name, inside)
        if key not in self._kernels:
            assert algorithm.kernel is not None
            function = algorithm.kernel.build(spec, algorithm.params, algorithm.target)
            name = f"{spec.op.name}_{algorithm.family}".replace(".", "_")
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


def _unique(names: Iterable[str]) -> list[str]:
    """Names that Relax accepts, made distinct."""
    found: list[str] = []
    for name in names:
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "input"
        base = base if not base[0].isdigit() else f"_{base}"
        candidate, count = base, 1
        while candidate in found:
            count += 1
            candidate = f"{base}_{count}"
        found.append(candidate)
    return found
