"""Graphs with their assignment to Relay IRModules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relay

from joulec.passes.graph import Graph, Node, NodeSpec, Opaque, Reshape, TensorType, Value, Weight
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.layouts.layout import PLAIN, blocked_shape, layout_read, relayout_spec
from joulec.passes.layouts.values import LaidOut
from joulec.passes.relay.algorithm import DEFAULT, RelayAlgorithm, kernel_name
from joulec.passes.relay.emit import emit
from joulec.passes.relay.external import external_function
from joulec.passes.relay.lower import kernel_function
from joulec.passes.search.choices import Choice
from joulec.profiler.roofline import Roofline
from joulec.words import plain_word

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EntryPoint:
    """One exported function.

    Attributes:
        function: its name.
        weights: digests of the weights that it takes after the inputs, in order.
        module: the Relay IRModule that `relay.build` compiles; its ``main`` is the function.
        kernels: names of its kernels in the order in which they run, conversions between layouts included.
    """

    function: str
    weights: tuple[str, ...]
    module: Any
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A graph within somebody's function.

    Attributes:
        outputs: expressions of the graph's outputs.
        functions: what they call, by global variable.
        kernels: as of `EntryPoint`.
    """

    outputs: list[Any]
    functions: dict[Any, Any]
    kernels: tuple[str, ...]


@dataclass
class Exported:
    """What `Exporter` made; weights by content digest, ONNX definitions by digest."""

    entries: list[EntryPoint]
    weights: dict[str, _Array]
    externals: dict[str, bytes]

    @property
    def module(self) -> list[EntryPoint]:
        """What `build_library` compiles."""
        return self.entries

    @property
    def parallel(self) -> bool:
        """Whether some kernel may start threads: TVM's own schedules do."""
        return True


@dataclass
class Exporter:
    """Builds one module per graph; weights that they share are kept once.

    Attributes:
        target: of kernels that no algorithm names (conversions between layouts).
        taken: names of global functions that kernels may not have.
    """

    target: CpuTarget
    taken: frozenset[str] = frozenset()
    _entries: list[EntryPoint] = field(default_factory=list)
    _weights: dict[str, _Array] = field(default_factory=dict)
    _packed: dict[tuple[int, str, int], str] = field(default_factory=dict)
    _externals: dict[str, bytes] = field(default_factory=dict)
    _symbols: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def add(self, function: str, graph: Graph, assignment: Mapping[Node, Choice]) -> None:
        """Export a graph as a function of that name.

        Args:
            assignment: the algorithm of every node of the graph.
        """
        body = _Body(self, {})
        found = body.run(graph, assignment)
        # the graph executor does not hand on what it was given without a copy
        outputs = [relay.copy(one) if isinstance(one, relay.Var) else one for one in found]
        main = relay.Function([*body.inputs.values(), *body.weights.values()], relay.Tuple(outputs))
        module = relay.transform.InferType()(tvm.IRModule({**body.functions, relay.GlobalVar("main"): main}))
        self._entries.append(EntryPoint(function, tuple(body.weights), module, tuple(body.kernels)))

    def place(self, graph: Graph, assignment: Mapping[Node, Choice], parameters: Mapping[str, Any]) -> Placed:
        """A graph as expressions of its inputs by name, weights as constants."""
        body = _Body(self, parameters, embed=True)
        outputs = body.run(graph, assignment)
        return Placed(outputs, body.functions, tuple(body.kernels))

    def finish(self) -> Exported:
        """All functions added so far."""
        return Exported(self._entries, self._weights, self._externals)

    def symbol(self, kernel: str) -> str:
        """A kernel's name in the library: functions that are built apart must not define it twice."""
        place = len(self._entries)
        first = self._symbols.setdefault(kernel, place)
        return kernel if first == place else f"{kernel}_f{place}"

    def weight(self, node: Node, algorithm: RelayAlgorithm, index: int, weight: Weight) -> str:
        """Digest of a constant as the algorithm reads it."""
        key = (weight.key, f"{algorithm.name}|{node.spec}", index)
        if key not in self._packed:
            array = np.require(algorithm.pack(node.spec, index, weight.value()), requirements="C")
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            self._weights.setdefault(digest, array)
            self._packed[key] = digest
        return self._packed[key]

    def variable(self, name: str) -> str:
        """A name for one more function."""
        while True:
            self._count += 1
            if f"{name}_{self._count}" not in self.taken:
                return f"{name}_{self._count}"

    def external(self, op: Opaque) -> str:
        """Digest of an operator that runs outside the library."""
        digest = hashlib.sha256(op.definition).hexdigest()
        self._externals[digest] = op.definition
        return digest


@dataclass
class _Body:
    """The body of one function under construction."""

    exporter: Exporter
    given: Mapping[str, Any]
    embed: bool = False
    inputs: dict[Value, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    functions: dict[Any, Any] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = LaidOut(relay.reshape, self._convert)

    def run(self, graph: Graph, assignment: Mapping[Node, Choice]) -> list[Any]:
        for value in graph.inputs:
            made = relay.var(plain_word(value.name), shape=value.type.shape, dtype=value.type.dtype)
            self.inputs[value] = self.given.get(value.name, made)
            self.values.keep(value, PLAIN, self.inputs[value])
        for node in graph.nodes:
            algorithm = self._algorithm(assignment[node])
            operands = [self._operand(node, algorithm, index) for index in range(len(node.operands))]
            writes = algorithm.writes
            for index, found in enumerate(self._emit(node, algorithm, operands)):
                value = node.outputs[index]
                shape = blocked_shape(value.type.shape, writes)
                own = shape == algorithm.result_shape(node.spec, index)
                self.values.keep(value, writes, found if own else relay.reshape(found, shape))
        return [self.values.read(value, PLAIN) for value in graph.outputs]

    def _algorithm(self, choice: Choice) -> RelayAlgorithm:
        if isinstance(choice.algorithm, RelayAlgorithm):
            return choice.algorithm
        return RelayAlgorithm(DEFAULT, (), PLAIN, PLAIN, self.exporter.target, Roofline(1.0, 1.0))

    def _operand(self, node: Node, algorithm: RelayAlgorithm, index: int) -> Any:
        operand = node.operands[index]
        if isinstance(operand, Weight):
            return self._weight(self.exporter.weight(node, algorithm, index, operand))
        layout = layout_read(node.spec, index, algorithm.reads, algorithm.writes)
        found = self.values.read(operand, layout)
        shape = algorithm.operand_shape(node.spec, index)
        return found if shape == blocked_shape(operand.type.shape, layout) else relay.reshape(found, shape)

    def _weight(self, digest: str) -> Any:
        if self.embed:
            if digest not in self.constants:
                self.constants[digest] = constant(self.exporter._weights[digest])
            return self.constants[digest]
        if digest not in self.weights:
            array = self.exporter._weights[digest]
            self.weights[digest] = relay.var(f"w_{digest}", shape=array.shape, dtype=str(array.dtype))
        return self.weights[digest]

    def _convert(self, type: TensorType, source: int, layout: int, data: Any) -> Any:
        algorithm = RelayAlgorithm(DEFAULT, (), source, layout, self.exporter.target, Roofline(1.0, 1.0))
        (found,) = self._call(relayout_spec(type, source, layout), algorithm, [data])
        return found

    def _emit(self, node: Node, algorithm: RelayAlgorithm, operands: list[Any]) -> list[Any]:
        op = node.op
        if isinstance(op, Reshape):
            return [relay.reshape(operands[0], op.shape, allowzero=True)]
        if isinstance(op, Opaque) and op.dialect == "onnx":
            digest = self.exporter.external(op)
            name = f"{kernel_name(node.spec, algorithm)}"
            return self._called(external_function(node.spec, digest, name), name, operands, node.spec.results)
        if isinstance(op, Opaque):
            return emit(node.spec, algorithm, operands)
        return self._call(node.spec, algorithm, operands)

    def _call(self, spec: NodeSpec, algorithm: RelayAlgorithm, operands: list[Any]) -> list[Any]:
        function = kernel_function(spec, algorithm)
        return self._called(function, kernel_name(spec, algorithm), operands, spec.results)

    def _called(self, function: Any, name: str, operands: list[Any], results: tuple[TensorType, ...]) -> list[Any]:
        """A call of a function of its own: `relay.build` merges equal ones again by their ``global_symbol``."""
        self.kernels.append(name)
        variable = relay.GlobalVar(self.exporter.variable(name))
        function = function.with_attr("global_symbol", self.exporter.symbol(name))
        self.functions[variable] = function
        called = relay.Call(variable, operands)
        if len(results) == 1:
            return [called]
        return [relay.TupleGetItem(called, index) for index in range(len(results))]


def constant(value: Any) -> Any:
    """An array as a constant of its own type; `relay.const` by itself narrows 64-bit numbers."""
    array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    return relay.const(array, str(array.dtype))
