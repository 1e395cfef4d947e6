"""The search as a TVM pass, for use in one's own pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.error import register_error

from joulec.costdb.store import CostStoreError
from joulec.passes.graph import Graph
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.target import TargetError
from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relax.export import Exporter
from joulec.passes.relax.importer import import_relax
from joulec.passes.relax.reference import relax_reference
from joulec.passes.relax.workbench import Setup, Workbench
from joulec.passes.search.choices import CostingError
from joulec.passes.search.large import search
from joulec.passes.search.objective import ObjectiveError, as_objective
from joulec.passes.search.results import Plan, SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, BoundsError
from joulec.passes.verification import DEFAULT_TOLERANCE, VerificationError, random_inputs, verify
from joulec.profiler.meter import MeterError

for _error in (
    BoundsError,
    CostStoreError,
    CostingError,
    ImportModuleError,
    MeterError,
    ObjectiveError,
    TargetError,
    VerificationError,
):
    register_error(
        _error.__name__, _error
    )  # a pass runs behind TVM's C++, which hands unknown errors on as RuntimeError


@tvm.transform.module_pass(opt_level=0, name="EnergyAwareOptimize")
class EnergyAwareOptimize:
    """A ``tvm.transform.Pass`` that rewrites a Relax function into the graph and algorithms of least cost.

    Operators that the graph does not model stay as they are, and so do the module's other functions. Weights that are
    constants of the function may be merged and repacked; its parameters stay operands.

    Args:
        objective: an expression, or a Python function of (totals, totals of the original).
        bounds: what the result must keep.
        search: how far to search.
        setup: target, threads, cost database, meter.
        function: which function to rewrite.
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
        verify: bool = True,
    ) -> None:
        self.objective = as_objective(objective, bounds)
        self.search = search or SearchOptions()
        self.setup = setup or Setup()
        self.function = function
        self.verify = verify
        self.result: SearchResult | None = None

    def transform_module(self, module: Any, context: Any) -> Any:
        """The module with the function rewritten; `result` tells what the search found."""
        with Workbench.open(self.setup) as bench:
            graph = bench.tidy(import_relax(module, self.function))
            costs = bench.costs(self.objective)
            self.result = search(graph, bench.rules, costs, self.objective, self.search, bench.tidy)
        best = self.result.best
        if not self.result.met_bounds:
            raise BoundsError(
                f"no graph and assignment keeps {self.objective.bounds}; the nearest takes {best.totals.time_s:.3g} s, "
                f"{best.totals.energy_j:.3g} J: relax the bounds"
            )
        optimised = _exchanged(module, self.function, best)
        if self.verify:
            _check(module, optimised, self.function, graph, bench.target)
        return optimised


def _exchanged(module: Any, name: str, plan: Plan) -> Any:
    """The module with one function computed by the plan; functions that call it find it under the same variable."""
    original = module[name]
    rest = {variable: function for variable, function in module.functions_items() if variable.name_hint != name}
    exporter = Exporter(tvm.IRModule(rest, attrs=module.attrs), embed=True)
    exporter.add(
        name,
        plan.graph,
        plan.assignment,
        always_tuple=isinstance(original.ret_ty, relax.TupleType),
        attributes=dict(original.attrs.items()) if original.attrs else {},
    )
    exported = exporter.finish().module
    functions = {variable: function for variable, function in exported.functions_items() if variable.name_hint != name}
    return tvm.IRModule({**functions, module.get_global_var(name): exported[name]}, attrs=module.attrs)


def _check(module: Any, optimised: Any, function: str, graph: Graph, target: CpuTarget | CudaTarget) -> None:
    names = [value.name for value in graph.inputs]
    original = relax_reference(module, names, function)
    gpu = target if isinstance(target, CudaTarget) else None
    candidate = relax_reference(optimised, names, function, gpu)
    inputs = random_inputs(graph.inputs, seed=0)
    verify(original, lambda given: [np.asarray(part) for part in candidate.run(given)], inputs, DEFAULT_TOLERANCE)
