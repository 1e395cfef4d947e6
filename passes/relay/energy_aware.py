"""The search as a pass on Relay modules, for use in one's own pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import tvm
from tvm import relay

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Graph
from joulec.passes.relay.export import EntryPoint, Exporter
from joulec.passes.relay.importer import import_relay, input_names
from joulec.passes.relay.reference import relay_reference
from joulec.passes.relay.workbench import Setup, Workbench
from joulec.passes.rules import RULES
from joulec.passes.search.large import search
from joulec.passes.search.objective import as_objective
from joulec.passes.search.results import SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.verification import DEFAULT_TOLERANCE, random_inputs, verify


@tvm.transform.module_pass(opt_level=0, name="EnergyAwareOptimize")
class EnergyAwareOptimize:
    """A ``tvm.transform.Pass`` that rewrites a Relay function into the graph and algorithms of least cost.

    Each operator becomes a function of its own that `relay.build` compiles, at any optimisation level, under exactly
    the implementation and configuration that were chosen (see `joulec.passes.relay.lower`). Operators that the graph
    does not model stay as they are, and so do the module's other functions. Weights that are constants of the function,
    or given by name as ``params``, may be merged and repacked; its other parameters stay operands.

    Args:
        objective: an expression, or a Python function of (totals, totals of the original).
        bounds: what the result must keep.
        search: how far to search.
        setup: target, threads, cost database, meter.
        function: which function to rewrite.
        params: values of the function's parameters by name, which become constants.
        verify: compare the result with the original on random inputs, and refuse it where it differs.

    Calling the pass raises:
        ImportModuleError: the function cannot be read as a graph.
        ObjectiveError: the objective cannot be understood.
        BoundsError: nothing found keeps the bounds.
        CostingError: an operator cannot be priced.
        TargetError, MeterError, CostStoreError: see `Workbench.open`.
        VerificationError: the result differs from the original.
    """

    def __init__(
        self,
        objective: Any = "energy",
        *,
        bounds: Bounds | None = None,
        search: SearchOptions | None = None,
        setup: Setup | None = None,
        function: str = "main",
        params: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> None:
        self.objective = as_objective(objective, bounds)
        self.search = search or SearchOptions()
        self.setup = setup or Setup()
        self.function = function
        self.params = dict(params or {})
        self.verify = verify
        self.result: SearchResult | None = None
        self.kernels: tuple[str, ...] = ()

    def transform_module(self, module: Any, context: Any) -> Any:
        """The module with the function rewritten.

        `result` tells what the search found, `kernels` the names of its kernels in the order in which they run.
        """
        given = _bound(module, self.function, self.params)
        with Workbench.open(self.setup) as bench:
            fuses = bench.backend.fuses
            graph = canonicalise(import_relay(given, self.function), fuses)
            costs = bench.costs(self.objective)
            tidy = partial(canonicalise, fuses=fuses)
            self.result = search(graph, RULES, costs, self.objective, self.search, tidy)
        best = self.result.best
        if not self.result.met_bounds:
            raise BoundsError(
                f"no graph and assignment keeps {self.objective.bounds}; the nearest takes {best.totals.time_s:.3g} s, "
                f"{best.totals.energy_j:.3g} J: relax the bounds"
            )
        entry = self._exchanged(given, bench)
        self.kernels = entry.kernels
        if self.verify:
            _check(given, entry.module, self.function, graph)
        return entry.module

    def _exchanged(self, module: Any, bench: Workbench) -> EntryPoint:
        """The module with the function computed by the plan, under the parameters' own names."""
        assert self.result is not None
        original = module[self.function]
        exporter = Exporter(bench.target, module, embed=True)
        parameters = {
            name: relay.var(parameter.name_hint, type_annotation=parameter.checked_type)
            for name, parameter in zip(input_names(original), original.params, strict=True)
        }
        exporter.add(
            self.function,
            self.result.best.graph,
            self.result.best.assignment,
            always_tuple=isinstance(original.ret_type, tvm.ir.TupleType),
            attributes=dict(original.attrs.items()) if original.attrs else {},
            parameters=parameters,
        )
        return exporter.finish().entries[0]


def _bound(module: Any, name: str, params: Mapping[str, Any]) -> Any:
    """The typed module with parameters as constants."""
    if params:
        function = module[name]
        values = {
            parameter: relay.const(value)
            for parameter in function.params
            if (value := params.get(parameter.name_hint)) is not None
        }
        module = tvm.IRModule(dict(module.functions.items()), module.type_definitions)
        bound = relay.bind(function, values)
        module[name] = bound
    return relay.transform.InferType()(module)


def _check(module: Any, optimised: Any, function: str, graph: Graph) -> None:
    names = [value.name for value in graph.inputs]
    original = relay_reference(module, names, function)
    candidate = relay_reference(optimised, names, function, opt_level=3)
    verify(original, candidate.run, random_inputs(graph.inputs, seed=0), DEFAULT_TOLERANCE)
