"""Compilation from a model to an artifact."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import joulec
from joulec.around import outside_budget, parts_work
from joulec.benches import open_workbench
from joulec.externals import warn_externals
from joulec.faults import find_culprit
from joulec.findings import Finding, find
from joulec.frontends import load_tools
from joulec.frontiers import Frontiers
from joulec.options import CompileOptions
from joulec.passes.graph import Graph, Node
from joulec.passes.search.choices import Choice
from joulec.passes.verification import (
    DEFAULT_TOLERANCE,
    VerificationError,
    Verified,
    verify,
)
from joulec.passes.workbench import Workbench
from joulec.profiler.meter import MeterError
from joulec.progress import Progress, Silent
from joulec.report import (
    describe_graph,
    entry_json,
    plan_assignment,
    plan_budget,
    plan_work,
    profiling_json,
    variant_json,
    verified_json,
)
from joulec.rounding import operator_errors
from joulec.runtime.manifest import Budget, Entry, EntryKey, Manifest, TensorInfo
from joulec.runtime.model import Model
from joulec.searching import Searched, search_all
from joulec.sources import SourceError
from joulec.variants import Variant, Variants, find_variants, parse_variants, settle_names

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Compiled:
    """A compiled model with what is known of it.

    Attributes:
        model: ready to be called; nothing is on disk until `Model.save`.
        report: the object that ``joulec compile --json`` prints.
        meter: which meter the energies come from, and why.
        findings: what the page of ``--report`` shows beside the report; empty where no page was asked for.
    """

    model: Model
    report: Mapping[str, Any]
    meter: str
    findings: tuple[Finding, ...] = ()


def compile_model(model: Any, options: CompileOptions, progress: Progress | None = None) -> Compiled:
    """Search, build, verify and measure.

    Args:
        model: path of an ONNX file, an ``onnx.ModelProto``, or an IRModule (Relax, or Relay under TVM 0.19).

    Raises:
        VerificationError: the result differs from the original; the message names the rule or algorithm at fault.
        Others: see `joulec.searching.search_all` and `Workbench.open`.
    """
    progress = progress or Silent()
    parse_variants(options.variants)
    with open_workbench(options, progress) as bench:
        found = search_all(model, options, bench, progress)
        _check_compiled(found, bench)
        frontiers = Frontiers(options, bench, progress)
        variants = find_variants(found, options, frontiers, progress)
        findings = () if options.report is None else tuple(find(one, bench, frontiers) for one in found)
        bench.pause()
        progress.stage("building the module")
        compiled = _build(variants, options, bench)
        warn_externals(compiled.manifest.assigned(), progress)
        try:
            progress.stage("measuring the result")
            before = _measure_all(compiled, variants, options, bench) if options.measure else {}
            progress.stage("comparing with the original")
            verified = _verify(compiled, variants, options, bench)
            if found[0].source.around is not None:
                verified = _verify_whole(compiled, variants, options, verified, progress)
            if verified.inputs == 0:
                progress.warn(
                    f"the model (in {verified.reference}) takes none of the random inputs that were tried, or draws "
                    "random numbers itself: the result is NOT compared with the original; try it on inputs of your own"
                )
            errors = _rounding(compiled, variants, options)
            progress.stage("measuring the result again")
            measured = (
                _less_disturbed(before, _measure_all(compiled, variants, options, bench)) if options.measure else {}
            )
        except BaseException:
            compiled.close()
            raise
        compiled.annotate(measured, errors)
        names = settle_names(variants, measured, progress)
        compiled.rename_variants(names)
        report = {
            "entries": {str(one.source.batch): _entry_json(one, variants, names, measured, errors) for one in found},
            "profiling": profiling_json(bench.profiling),
            "verified": verified_json(verified),
        }
        return Compiled(compiled, report, bench.meter.why, findings)


def _check_compiled(found: Sequence[Searched], bench: Workbench) -> None:
    """Refuse a model of which nothing is compiled where the back end has no empty functions.

    Raises:
        SourceError: it is one.
    """
    if bench.backend.name == "relay" and not all(one.source.graph.outputs for one in found):
        raise SourceError(
            "nothing of this model can be compiled (it works on text, sequences, optionals, or sizes that depend on "
            "data alone): run it in ONNX Runtime, or compile it with joulec[relax]"
        )


def _entry_json(
    one: Searched,
    variants: Variants,
    names: Mapping[EntryKey, str],
    measured: Mapping[EntryKey, Budget],
    errors: Mapping[EntryKey, Sequence[float | None]],
) -> dict[str, Any]:
    """A batch size in the report: the best under the objective, and the variants beside it."""
    ours = [variant for variant in variants.items if variant.batch == one.source.batch]
    best, around = ours[0], one.source.around
    entry = entry_json(one.result, measured.get(best.key), errors[best.key], around)
    if not variants.names:
        return entry
    order = sorted(ours, key=lambda variant: variants.names.index(names[variant.key]))
    shown = [variant_json(names[one.key], one.plan, measured.get(one.key), errors[one.key], around) for one in order]
    return {**entry, "variant": names[best.key], "variants": shown}


def _build(variants: Variants, options: CompileOptions, bench: Workbench) -> Model:
    exporter = load_tools(bench.backend.name).exporter(bench.target)
    for one in variants.items:
        exporter.add(_function(one), one.plan.graph, one.plan.assignment)
    exported = exporter.finish()
    around = variants.items[0].searched.source.around
    entries = tuple(_entry(one, point.weights) for one, point in zip(variants.items, exported.entries, strict=True))
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
        batched=all(one.searched.source.batched for one in variants.items),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        frontend=bench.backend.name,
        variants=variants.names,
        parallel=exported.parallel,
        parts=None if around is None else around.parts,
    )
    return _load(exported, manifest, bench, {} if around is None else around.definitions)


def _load(exported: Any, manifest: Manifest, bench: Workbench, parts: Mapping[str, bytes]) -> Model:
    with tempfile.TemporaryDirectory(prefix="joulec-") as folder:
        library = Path(folder) / "library.so"
        load_tools(bench.backend.name).build_library(exported.module, bench.target, library)
        externals = {**exported.externals, **parts}
        return Model(manifest, library, exported.weights, externals, threads=bench.target.threads)


def _function(one: Variant) -> str:
    suffix = "" if one.name is None else f"_{one.name.replace('-', '_')}"
    return f"main_b{one.batch}{suffix}"


def _entry(one: Variant, weights: tuple[str, ...]) -> Entry:
    plan = one.plan
    graph = plan.graph
    return Entry(
        batch=one.batch,
        function=_function(one),
        inputs=tuple(
            TensorInfo(value.name, value.type.shape, value.type.dtype, one.searched.source.ranges.get(value.name))
            for value in graph.inputs
        ),
        outputs=tuple(
            TensorInfo(name, value.type.shape, value.type.dtype)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        ),
        weights=weights,
        work=plan_work(plan) + parts_work(one.searched.source.around),
        origin=outside_budget(one.searched.source.around, plan_budget(one.searched.result.origin)),
        predicted=outside_budget(one.searched.source.around, plan_budget(plan)),
        assignment=plan_assignment(plan),
        graph=describe_graph(graph),
        variant=one.name,
    )


def _verify(model: Model, variants: Variants, options: CompileOptions, bench: Workbench) -> Verified:
    """Compare every entry with the original; where one differs, say what is at fault."""
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    results = []
    for one in variants.items:
        source = one.searched.source
        reference = source.reference()
        if options.max_error is not None:
            reference = replace(reference, rounds=False)  # what was asked for is kept to the letter
        inputs = source.inputs(options.seed)
        if source.branched:
            inputs = [*inputs, *source.likely_inputs(options.seed)]
        try:
            verified = verify(reference, _runner(model, one), inputs, tolerance)
            if verified.inputs == 0:
                inputs = source.likely_inputs(options.seed)
                verified = verify(reference, _runner(model, one), inputs, tolerance)
            results.append(verified)
        except VerificationError as error:
            culprit = find_culprit(
                source.graph,
                one.plan,
                reference,
                inputs,
                tolerance,
                _graph_runner(one, bench),
                bench.backend.algorithms,
            )
            where = f"batch {one.batch}" + ("" if one.name is None else f", variant {one.name}")
            raise VerificationError(f"{where}: {error}; {culprit}; nothing was written") from error
    return Verified(
        sum(result.inputs for result in results),
        max(result.max_relative_error for result in results),
        results[0].reference,
        max(result.own_error for result in results),
    )


def _verify_whole(
    model: Model, variants: Variants, options: CompileOptions, core: Verified, progress: Progress
) -> Verified:
    """Compare the whole of a model in parts with the original, once its compiled function agrees with what it is for.

    Where rounding decides in the tail (a threshold, an order), outputs may differ by more than rounding; then the parts
    must agree with the original's own values in the compiled function's place.
    """
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    worst, around = core.max_relative_error, variants.items[0].searched.source.around
    assert around is not None
    inputs = [sample.given for sample in around.samples]
    names = model.input_names
    for one in variants.items:
        run = partial(_run_whole, model, one, names)
        try:
            worst = max(worst, verify(around.reference, run, inputs, tolerance).max_relative_error)
        except VerificationError as error:
            staging = around.staging(model.threads)
            try:
                verify(around.reference, partial(around.run, staging), inputs, tolerance)
            except VerificationError:
                raise VerificationError(
                    f"batch {one.batch}: {error}; what runs before or after the compiled function is at fault; "
                    "nothing was written"
                ) from error
            progress.warn(
                "the compiled function agrees with the original, and so does what runs after it on the original's "
                f"values; the outputs of both together differ ({error}): rounding decides there"
            )
    return replace(core, inputs=len(inputs), max_relative_error=worst, reference=around.reference.name)


def _run_whole(model: Model, one: Variant, names: Sequence[str], given: Mapping[str, Any]) -> Sequence[Any]:
    return model.run_batch(one.batch, [given[name] for name in names], one.name)


def _rounding(model: Model, variants: Variants, options: CompileOptions) -> dict[EntryKey, list[float | None]]:
    """By batch size and variant, the errors of operators that round in their own way."""
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    errors = {}
    for one in variants.items:
        given = one.searched.source.inputs(options.seed)[0]
        errors[one.key] = operator_errors(model, one, given, tolerance, options.seed)
    return errors


def _runner(model: Model, one: Variant) -> Callable[[Mapping[str, _Array]], Sequence[_Array]]:
    names = [value.name for value in one.searched.source.graph.inputs]
    return lambda given: model.run_compiled(one.batch, [np.asarray(given[name], order="C") for name in names], one.name)


def _graph_runner(
    one: Variant, bench: Workbench
) -> Callable[[Graph, Mapping[Node, Choice], Mapping[str, _Array]], Sequence[_Array]]:
    """Builds and runs any graph under any assignment, for bisection."""

    def run(graph: Graph, assignment: Mapping[Node, Choice], given: Mapping[str, _Array]) -> Sequence[_Array]:
        exporter = load_tools(bench.backend.name).exporter(bench.target)
        exporter.add(_function(one), graph, assignment)
        exported = exporter.finish()
        entry = Entry(
            one.batch,
            _function(one),
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
            bench.target.target,
            "",
            bench.target.threads,
            "",
            (entry,),
            batched=False,
            frontend=bench.backend.name,
        )
        with _load(exported, manifest, bench, {}) as model:
            return _runner(model, replace(one, name=None))(given)

    return run


def _measure_all(model: Model, variants: Variants, options: CompileOptions, bench: Workbench) -> dict[EntryKey, Budget]:
    """Time (and, with a sensor, energy) of each entry on the device; nothing where it takes no random inputs.

    Nobody else who shares the costs times meanwhile.
    """
    measured = {}
    for one in variants.items:
        source = one.searched.source
        if source.around is not None and not source.around.samples:
            measured[one.key] = Budget()
            continue
        given = source.inputs(options.seed)[0] if source.around is None else source.around.samples[0].given
        arrays = [given[name] for name in model.input_names]
        try:
            with bench.turn():
                timing = model.time(one.batch, warmup=5, meter=bench.meter.meter, variant=one.name, inputs=arrays)
        except MeterError:
            raise
        except RuntimeError:  # an external operator does not take them; the kind of its error is lost inside of TVM
            measured[one.key] = Budget()
        else:
            measured[one.key] = timing.budget
    return measured


def _less_disturbed(first: Mapping[EntryKey, Budget], second: Mapping[EntryKey, Budget]) -> dict[EntryKey, Budget]:
    """Of two measurements some seconds apart the faster: neighbours on a shared machine slow down whole stretches."""
    return {key: min(first[key], second[key], key=lambda one: one.time_s or math.inf) for key in first}
