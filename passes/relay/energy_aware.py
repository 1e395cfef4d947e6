"""The search as a pass on Relay modules, for use in one's own pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relay

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Graph, Opaque, Value, Weight
from joulec.passes.relay.export import Exporter, Placed, constant
from joulec.passes.relay.importer import ReadFunction, find_function, in_plain_layouts, read_function
from joulec.passes.relay.reference import relay_reference
from joulec.passes.relay.regions import FOREIGN, has_composites, is_dataflow, marks, optimise_regions, rebuilt
from joulec.passes.relay.workbench import Setup, Workbench
from joulec.passes.search.choices import CostingError, CostSource
from joulec.passes.search.large import search
from joulec.passes.search.objective import as_objective
from joulec.passes.search.results import SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.verification import DEFAULT_TOLERANCE, random_inputs, verify


@tvm.transform.module_pass(opt_level=0, name="EnergyAwareOptimize")
class EnergyAwareOptimize:
    """A ``tvm.transform.Pass`` that rewrites Relay functions into the graphs and algorithms of least cost.

    Each operator becomes a function of its own that `relay.build` compiles, at any optimisation level, under exactly
    the implementation and configuration that were chosen (see `joulec.passes.relay.lower`). Operators that the graph
    does not model stay as they are. So do the module's other functions, and control flow, closures, calls of other
    functions and tensors without fixed shape within the function: each region of operators between them is optimised
    by itself. Weights that are constants of the function, or given by name as ``params``, may be merged and repacked;
    its other parameters stay operands.

    Args:
        objective: an expression, or a Python function of (totals, totals of the original).
        bounds: what the result must keep; of time and energy only where the function is one region.
        search: how far to search.
        setup: target, threads, cost database, meter, tuning records.
        function: which function to rewrite; None means all that no other compiler was given.
        params: values of the function's parameters by name, which become constants.
        verify: compare each region with the original on random inputs, and refuse it where it differs.

    Attributes:
        results: what was found, per region.
        result: the first of them; None where nothing was optimised.
        kernels: names of the kernels in the order in which they run, region by region.

    Calling the pass raises:
        ImportModuleError: there is no such function.
        ObjectiveError: the objective cannot be understood.
        BoundsError: nothing found keeps the bounds, or they mean nothing for the function.
        TargetError, MeterError, CostStoreError: see `Workbench.open`.
        TuningRecordsError: the log of AutoTVM cannot be read.
        VerificationError: the result differs from the original.
    """

    def __init__(
        self,
        objective: Any = "energy",
        *,
        bounds: Bounds | None = None,
        search: SearchOptions | None = None,
        setup: Setup | None = None,
        function: str | None = "main",
        params: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> None:
        self.objective = as_objective(objective, bounds)
        self.search = search or SearchOptions()
        self.setup = setup or Setup()
        self.function = function
        self.params = dict(params or {})
        self.verify = verify
        self.results: tuple[SearchResult, ...] = ()
        self.kernels: tuple[str, ...] = ()

    @property
    def result(self) -> SearchResult | None:
        """What was found of a function that is one region, else of its first one."""
        return self.results[0] if self.results else None

    def transform_module(self, module: Any, context: Any) -> Any:
        """The module with the function rewritten; `results` and `kernels` tell what was found."""
        self.results, self.kernels = (), ()
        names = _own_functions(module) if self.function is None else [self.function]
        module = _bound(module, names, self.params)
        with Workbench.open(self.setup) as bench:
            for name in names:
                module = self._rewritten(module, name, bench)
        return module

    def _rewritten(self, module: Any, name: str, bench: Workbench) -> Any:
        """The module with one function optimised; where nothing of it can be, as it is."""
        find_function(module, name)
        taken = frozenset(variable.name_hint for variable in module.get_global_vars())
        kept: set[str] = set()
        while True:
            rewriting = _Rewriting(self, bench, Exporter(bench.target, taken))
            try:
                function = rewriting.run(module, name, kept)
            except _Unpriced as unpriced:
                kept |= unpriced.operators
                continue
            if function is None:
                return module
            self.results += tuple(rewriting.results)
            self.kernels += tuple(rewriting.kernels)
            return _with_function(module, name, function, rewriting.functions)


class _Unpriced(Exception):
    """Operators that cannot be measured alone, so that no graph can hold them."""

    def __init__(self, operators: set[str]) -> None:
        super().__init__()
        self.operators = operators


@dataclass
class _Rewriting:
    """One function on its way."""

    options: EnergyAwareOptimize
    bench: Workbench
    exporter: Exporter
    results: list[SearchResult] = field(default_factory=list)
    functions: dict[Any, Any] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)

    def run(self, module: Any, name: str, kept: set[str]) -> Any:
        """The new function; None where nothing was found to optimise."""
        if has_composites(module[name]):
            warnings.warn(
                f"{name} holds functions that are marked for another compiler and not yet taken out; it is left as it "
                "is: run relay.transform.PartitionGraph before EnergyAwareOptimize",
                stacklevel=2,
            )
            return None
        plain = in_plain_layouts(module)
        function = find_function(plain, name)
        if is_dataflow(function, tuple(kept)):
            body = self.solve(function, function.params)
            made = rebuilt(function, body) if body is not None else None
        else:
            made = optimise_regions(plain, name, self.solve, tuple(kept))
        return made if self.results else None

    def solve(self, function: Any, arguments: Sequence[Any]) -> Any:
        """An optimised region over its arguments; None to leave it as it is."""
        function = relay.transform.InferType()(tvm.IRModule.from_expr(function))["main"]
        read = read_function(function)
        if not read.computed:
            return None
        graph = canonicalise(read.graph(read.computed), self.bench.backend.fuses)
        if all(isinstance(node.op, Opaque) or node.op.is_view for node in graph.nodes):
            return None
        try:
            result = self._search(graph)
        except CostingError as error:
            warnings.warn(f"a region is left as it is: {error}", stacklevel=2)
            return None
        inputs = dict(zip(read.inputs, function.params, strict=True))
        placed = self.exporter.place(
            result.best.graph,
            result.best.assignment,
            {value.name: parameter for value, parameter in inputs.items()},
        )
        known = {**inputs, **dict(zip(read.computed, placed.outputs, strict=True))}
        body = _assembled(read.result, known)
        if self.options.verify:
            _check(function, body, placed, read)
        self.results.append(result)
        self.functions.update(placed.functions)
        self.kernels += placed.kernels
        return relay.bind(body, dict(zip(function.params, arguments, strict=True)))

    def _search(self, graph: Graph) -> SearchResult:
        objective = self.options.objective
        if self.results and (objective.bounds.max_time_s is not None or objective.bounds.max_energy_j is not None):
            raise BoundsError(
                "bounds on time and energy hold for a whole function, and this one is several regions between control "
                "flow or calls, of which nobody knows how often each runs; bound the power alone, or none"
            )
        costs = self.bench.costs(objective)
        self.bench.limit_search(None)
        _check_priced(graph, costs)
        self.bench.limit_search(self.options.search.time_limit_s)
        result = search(graph, self.bench.rules, costs, objective, self.options.search, self.bench.tidy)
        if not result.met_bounds:
            nearest = result.best.totals
            raise BoundsError(
                f"no graph and assignment keeps {objective.bounds}; the nearest takes {nearest.time_s:.3g} s, "
                f"{nearest.energy_j:.3g} J: relax the bounds"
            )
        return result


def _check_priced(graph: Graph, costs: CostSource) -> None:
    opaque = {node.spec for node in graph.nodes if isinstance(node.op, Opaque)}
    costs.prepare(opaque)
    unknown = {spec.op.kind for spec in opaque if isinstance(spec.op, Opaque) and not len(costs.options(spec))}
    if unknown:
        raise _Unpriced(unknown)


def _assembled(result: Any, known: Mapping[Value, Any]) -> Any:
    """A function's result in its own structure."""
    if isinstance(result, tuple):
        return relay.Tuple([_assembled(part, known) for part in result])
    return constant(result.value()) if isinstance(result, Weight) else known[result]


def _own_functions(module: Any) -> list[str]:
    return [
        variable.name_hint
        for variable, function in module.functions.items()
        if isinstance(function, relay.Function) and not marks(function).intersection(FOREIGN)
    ]


def _with_function(module: Any, name: str, function: Any, others: Mapping[Any, Any]) -> Any:
    """The module with one function exchanged and others added; callers find it under the same variable."""
    changed = tvm.IRModule(
        {**dict(module.functions.items()), **others, module.get_global_var(name): function},
        module.type_definitions,
        attrs=module.attrs,
    )
    return relay.transform.InferType()(changed)


def _bound(module: Any, names: Sequence[str], params: Mapping[str, Any]) -> Any:
    """The typed module with parameters as constants.

    Raises:
        ImportModuleError: there is no such function.
    """
    module = relay.transform.InferType()(module)
    for name in names:
        function = find_function(module, name)
        values = {
            parameter: constant(value)
            for parameter in function.params
            if (value := params.get(parameter.name_hint)) is not None
        }
        if values:
            module = _with_function(module, name, relay.bind(function, values), {})
    return module


def _check(function: Any, body: Any, placed: Placed, read: ReadFunction) -> None:
    """Compare a region with what became of it."""
    names = [value.name for value in read.inputs]
    optimised = tvm.IRModule({**placed.functions, relay.GlobalVar("main"): relay.Function(list(function.params), body)})
    original = relay_reference(tvm.IRModule.from_expr(function), names)
    candidate = relay_reference(relay.transform.InferType()(optimised), names, opt_level=3)
    verify(original, candidate.run, random_inputs(read.inputs, seed=0), DEFAULT_TOLERANCE)
