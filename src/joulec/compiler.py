"""Compilation from a model to an artifact."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import joulec
from joulec.benches import open_workbench
from joulec.faults import find_culprit
from joulec.frontends import load_tools
from joulec.options import CompileOptions
from joulec.passes.graph import Graph, Node
from joulec.passes.search.choices import Choice
from joulec.passes.verification import (
    DEFAULT_TOLERANCE,
    VerificationError,
    Verified,
    random_inputs,
    verify,
)
from joulec.passes.workbench import Workbench
from joulec.progress import Progress, Silent
from joulec.report import (
    describe_graph,
    entry_json,
    plan_assignment,
    plan_budget,
    plan_work,
    profiling_json,
    verified_json,
)
from joulec.rounding import operator_errors
from joulec.runtime.manifest import Budget, Entry, Manifest, TensorInfo
from joulec.runtime.model import Model
from joulec.searching import Searched, search_all

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Compiled:
    """A compiled model with what is known of it.

    Attributes:
        model: ready to be called; nothing is on disk until `Model.save`.
        report: the object that ``joulec compile --json`` prints.
        meter: which meter the energies come from, and why.
    """

    model: Model
    report: Mapping[str, Any]
    meter: str


def compile_model(model: Any, options: CompileOptions, progress: Progress | None = None) -> Compiled:
    """Search, build, verify and measure.

    Args:
        model: path of an ONNX file, an ``onnx.ModelProto``, or an IRModule (Relax, or Relay under TVM 0.19).

    Raises:
        VerificationError: the result differs from the original; the message names the rule or algorithm at fault.
        Others: see `joulec.searching.search_all` and `Workbench.open`.
    """
    progress = progress or Silent()
    with open_workbench(options, progress) as bench:
        found = search_all(model, options, bench, progress)
        bench.pause()
        progress.stage("building the module")
        compiled = _build(found, options, bench)
        try:
            progress.stage("measuring the result")
            before = _measure_all(compiled, bench)
            progress.stage("comparing with the original")
            verified = _verify(compiled, found, options, bench)
            errors = _rounding(compiled, found, options)
            progress.stage("measuring the result again")
            measured = _less_disturbed(before, _measure_all(compiled, bench))
        except BaseException:
            compiled.close()
            raise
        compiled.annotate(measured, errors)
        report = {
            "entries": {
                str(one.source.batch): entry_json(one.result, measured[one.source.batch], errors[one.source.batch])
                for one in found
            },
            "profiling": profiling_json(bench.profiling),
            "verified": verified_json(verified),
        }
        return Compiled(compiled, report, bench.meter.why)


def _build(found: Sequence[Searched], options: CompileOptions, bench: Workbench) -> Model:
    exporter = load_tools(bench.backend.name).exporter(bench.target)
    for one in found:
        exporter.add(_function(one.source.batch), one.result.best.graph, one.result.best.assignment)
    exported = exporter.finish()
    entries = tuple(_entry(one, point.weights) for one, point in zip(found, exported.entries, strict=True))
    objective = (
        options.objective
        if isinstance(options.objective, str)
        else getattr(options.objective, "name", getattr(options.objective, "__name__", "function"))
    )
    manifest = Manifest(
        joulec_version=joulec.__version__,
        compiler=bench.backend.compiler,
        target=bench.target.target,
        device=bench.device.fingerprint,
        threads=bench.target.threads,
        objective=str(objective),
        entries=entries,
        batched=all(one.source.batched for one in found),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        frontend=bench.backend.name,
    )
    return _load(exported, manifest, bench)


def _load(exported: Any, manifest: Manifest, bench: Workbench) -> Model:
    with tempfile.TemporaryDirectory(prefix="joulec-") as folder:
        library = Path(folder) / "library.so"
        load_tools(bench.backend.name).build_library(exported.module, bench.target, library)
        return Model(manifest, library, exported.weights, exported.externals, threads=bench.target.threads)


def _function(batch: int) -> str:
    return f"main_b{batch}"


def _entry(one: Searched, weights: tuple[str, ...]) -> Entry:
    plan = one.result.best
    graph = plan.graph
    return Entry(
        batch=one.source.batch,
        function=_function(one.source.batch),
        inputs=tuple(TensorInfo(value.name, value.type.shape, value.type.dtype) for value in graph.inputs),
        outputs=tuple(
            TensorInfo(name, value.type.shape, value.type.dtype)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        ),
        weights=weights,
        work=plan_work(plan),
        origin=plan_budget(one.result.origin),
        predicted=plan_budget(plan),
        assignment=plan_assignment(plan),
        graph=describe_graph(graph),
    )


def _verify(model: Model, found: Sequence[Searched], options: CompileOptions, bench: Workbench) -> Verified:
    """Compare every entry with the original; where one differs, say what is at fault."""
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    results = []
    for one in found:
        reference = one.source.reference()
        inputs = random_inputs(one.source.graph.inputs, options.seed)
        try:
            results.append(verify(reference, _runner(model, one), inputs, tolerance))
        except VerificationError as error:
            culprit = find_culprit(
                one, reference, inputs, tolerance, _variant_runner(one, bench), bench.backend.algorithms
            )
            raise VerificationError(f"batch {one.source.batch}: {error}; {culprit}; nothing was written") from error
    return Verified(
        sum(result.inputs for result in results),
        max(result.max_relative_error for result in results),
        results[0].reference,
    )


def _rounding(model: Model, found: Sequence[Searched], options: CompileOptions) -> dict[int, list[float | None]]:
    """By batch size, the errors of operators that round in their own way."""
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    errors = {}
    for one in found:
        given = random_inputs(one.source.graph.inputs, options.seed)[0]
        errors[one.source.batch] = operator_errors(model, one, given, tolerance, options.seed)
    return errors


def _runner(model: Model, one: Searched) -> Callable[[Mapping[str, _Array]], Sequence[_Array]]:
    names = [value.name for value in one.source.graph.inputs]
    return lambda given: model.run_batch(one.source.batch, [np.ascontiguousarray(given[name]) for name in names])


def _variant_runner(
    one: Searched, bench: Workbench
) -> Callable[[Graph, Mapping[Node, Choice], Mapping[str, _Array]], Sequence[_Array]]:
    """Builds and runs any graph under any assignment, for bisection."""

    def run(graph: Graph, assignment: Mapping[Node, Choice], given: Mapping[str, _Array]) -> Sequence[_Array]:
        exporter = load_tools(bench.backend.name).exporter(bench.target)
        exporter.add(_function(one.source.batch), graph, assignment)
        exported = exporter.finish()
        entry = Entry(
            one.source.batch,
            _function(one.source.batch),
            tuple(TensorInfo(value.name, value.type.shape, value.type.dtype) for value in graph.inputs),
            tuple(
                TensorInfo(name, value.type.shape, value.type.dtype)
                for name, value in zip(graph.output_names, graph.outputs, strict=True)
            ),
            exported.entries[0].weights,
        )
        manifest = Manifest(
            joulec.__version__,
            "",
            "",
            "",
            bench.target.threads,
            "",
            (entry,),
            batched=False,
            frontend=bench.backend.name,
        )
        with _load(exported, manifest, bench) as model:
            return _runner(model, one)(given)

    return run


def _measure_all(model: Model, bench: Workbench) -> dict[int, Budget]:
    """Time (and, with a sensor, energy) of each entry on the device."""
    return {batch: model.time(batch, warmup=5, meter=bench.meter.meter).budget for batch in model.batch_sizes}


def _less_disturbed(first: Mapping[int, Budget], second: Mapping[int, Budget]) -> dict[int, Budget]:
    """Of two measurements some seconds apart the faster: neighbours on a shared machine slow down whole stretches."""
    return {batch: min(first[batch], second[batch], key=lambda one: one.time_s or math.inf) for batch in first}
