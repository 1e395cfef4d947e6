"""A compiled model, ready to be called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from joulec.profiler.candidate import Work
from joulec.profiler.dtypes import numpy_dtype
from joulec.profiler.meter import Meter
from joulec.runtime.artifact import write_artifact
from joulec.runtime.executor import Executor, available_cpus
from joulec.runtime.inputs import as_arrays, check_exactly, check_rows, exact_entry, ordered, random_array
from joulec.runtime.manifest import Assigned, Budget, Entry, EntryKey, Manifest
from joulec.runtime.profile import Step
from joulec.runtime.rows import padded, split, useful
from joulec.runtime.staging import Staging
from joulec.runtime.timing import Timing, time_calls
from joulec.runtime.variant import check_variants

if TYPE_CHECKING:
    from joulec.runtime.session import Session

_Array = npt.NDArray[Any]


class Model:
    """A compiled model. Callable from any thread; calls run one after another. A context manager.

    Args:
        manifest: what was compiled.
        library: the shared library.
        weights: contents by digest.
        externals: ONNX definitions by digest.
        threads: worker threads; as many as it was compiled for, at most one per CPU at hand, when None.
        variant: which variant calls run; at each batch size the one that is best under the objective, when None.

    Raises:
        ValueError: threads are below 1.
        VariantError: there is no such variant.
        ImportError: TVM is not installed; the message names the extra.
        GpuError: the library was compiled for a GPU, and there is none.
        RuntimeError: it cannot be loaded on this machine.
    """

    def __init__(
        self,
        manifest: Manifest,
        library: Path,
        weights: Mapping[str, _Array] | Iterable[tuple[str, _Array]],
        externals: Mapping[str, bytes] | None = None,
        *,
        threads: int | None = None,
        variant: str | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        check_variants(manifest.variants, () if variant is None else (variant,))
        self.manifest = manifest
        self._library = library.read_bytes()
        self._externals = dict(externals or {})
        self._entries = manifest.lookup()
        self._variant = variant
        count = threads or min(manifest.threads, available_cpus())
        how = (manifest.frontend, manifest.parallel, manifest.gpu_arch)
        self._staging = None if manifest.parts is None else Staging(manifest.parts, self._externals, count)
        self._executor = Executor(library, manifest.entries, weights, self._externals, count, *how)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The compiled batch sizes, ascending."""
        return self.manifest.batch_sizes

    @property
    def variants(self) -> tuple[str, ...]:
        """The compiled variants of the graph, from fast to frugal; empty where there is one only."""
        return self.manifest.variants

    @property
    def variant(self) -> str | None:
        """The variant that calls run; None: at each batch size the one that is best under the objective."""
        return self._variant

    @property
    def batched(self) -> bool:
        """Whether rows are independent samples, so that calls may have any number of them."""
        return self.manifest.batched

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in the model's order."""
        return tuple(tensor.name for tensor in self.manifest.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the model's order."""
        return tuple(tensor.name for tensor in self.manifest.outputs)

    @property
    def device_kind(self) -> Literal["cpu", "cuda"]:
        """Where it runs: on the CPU or on GPU 0."""
        return "cpu" if self.manifest.gpu_arch is None else "cuda"

    @property
    def threads(self) -> int:
        """Worker threads in use."""
        return self._executor.threads

    @cached_property
    def useful_batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that still raise throughput (second paper, Section 4.2), judged by the artifact's own times.

        All sizes where the artifact does not hold measured times for each: an estimate knows no overhead per call.
        """
        for kind in ("measured", "predicted"):
            budgets: dict[int, Budget | None] = {size: getattr(self.entry(size), kind) for size in self.batch_sizes}
            known = {batch: budget for batch, budget in budgets.items() if budget and budget.time_source == "measured"}
            seconds = {batch: budget.time_s for batch, budget in known.items() if budget.time_s}
            if len(seconds) == len(self.batch_sizes):
                return useful(seconds)
        return self.batch_sizes

    def __call__(self, /, *inputs: object, **named: object) -> Any:
        """Run the model.

        Args:
            *inputs: numpy arrays or DLPack tensors in the model's order. Where the model is `batched`, any number of
                rows (the same in all inputs): they are laid over the compiled batch sizes. Otherwise exactly the
                compiled shapes. Text is an array of strings, a sequence a list, an optional its value or None.
            **named: the same by name.

        Returns:
            The output as an array that is the caller's; several outputs as a tuple.

        Raises:
            InputError: an input is missing, unknown, or of the wrong shape or dtype.
        """
        outputs = self.run(ordered(self.input_names, inputs, named))
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, values: Sequence[Any], variant: str | None = None) -> tuple[Any, ...]:
        """Like a call, with inputs in the model's order and always a tuple of outputs.

        Args:
            variant: which variant runs; the model's `variant` when None.
        """
        if self._staging is not None:
            return self._staged(self._staging, self.entry(self.batch_sizes[0], variant), values)
        arrays = as_arrays(self.input_names, values)
        if not self.batched:
            return self._executor.run(
                self.entry(exact_entry(arrays, self.manifest.entries).batch, variant).function, arrays
            )
        entry = self.manifest.entries[0]
        rows = check_rows(arrays, entry)
        if not rows:
            return tuple(np.empty((0, *tensor.shape[1:]), numpy_dtype(tensor.dtype)) for tensor in entry.outputs)
        if (rows, None) in self._entries:
            return self._executor.run(self.entry(rows, variant).function, arrays)
        parts = list(split(rows, self.batch_sizes))
        calls = [
            (self.entry(size, variant).function, [padded(a[start : start + count], size) for a in arrays])
            for size, start, count in parts
        ]
        results = self._executor.run_all(calls)
        cut = [[out[:count] for out in outputs] for outputs, (_, _, count) in zip(results, parts, strict=True)]
        return tuple(np.concatenate(pieces) for pieces in zip(*cut, strict=True))

    def _staged(self, staging: Staging, entry: Entry, values: Sequence[Any]) -> tuple[Any, ...]:
        compiled = partial(self._executor.run, entry.function)
        return staging.run(values, entry.inputs, entry.outputs, compiled)

    def run_batch(self, batch: int, values: Sequence[Any], variant: str | None = None) -> tuple[Any, ...]:
        """Run one compiled batch size on inputs of exactly its shapes.

        Args:
            variant: which variant runs; the model's `variant` when None.

        Raises:
            ValueError: the batch size or the variant was not compiled.
            InputError: a shape or dtype differs.
        """
        if self._staging is not None:
            return self._staged(self._staging, self.entry(batch, variant), values)
        return self.run_compiled(batch, values, variant)

    def run_compiled(self, batch: int, arrays: Sequence[_Array], variant: str | None = None) -> tuple[_Array, ...]:
        """Run the compiled function alone, without what stands around it (`Manifest.parts`); see `run_batch`."""
        entry = self.entry(batch, variant)
        check_exactly(arrays, entry.inputs)
        return self._executor.run(entry.function, arrays)

    def entry(self, batch: int, variant: str | None = None) -> Entry:
        """What the artifact says of one batch size in one variant.

        Args:
            variant: which; the model's `variant` when None. Where a batch size does not have it, its nearest stands in.

        Raises:
            ValueError: it was not compiled.
        """
        name = variant or self._variant
        found = self._entries.get((batch, name))
        if found is None:
            check_variants(self.variants, () if name is None else (name,))
            raise ValueError(f"batch size {batch} was not compiled; there are {', '.join(map(str, self.batch_sizes))}")
        return found

    def work(self, batch: int, variant: str | None = None) -> Work:
        """Arithmetic and bytes of one call of a batch size."""
        return self.entry(batch, variant).work

    def random_inputs(self, batch: int, seed: int = 0) -> list[Any]:
        """Seeded inputs of one batch size (`joulec.runtime.inputs.random_array`)."""
        if self.manifest.parts is not None:
            return self.manifest.parts.random_inputs(seed)
        rng = np.random.default_rng(seed)
        return [random_array(rng, tensor) for tensor in self.entry(batch).inputs]

    def time(
        self,
        batch: int,
        *,
        repeats: int = 20,
        window_s: float = 0.3,
        most_windows: int = 12,
        warmup: int = 3,
        seed: int = 0,
        meter: Meter | None = None,
        inputs: Sequence[Any] | None = None,
        variant: str | None = None,
    ) -> Timing:
        """Measure the latency, and with a meter the energy, of one batch size.

        The calls fall into windows, at least three, until the three fastest windows agree within 3%; ``budget`` is that
        of the median of those three, so that neighbours on the machine, who slow whole stretches, do not count
        (`joulec.runtime.timing.time_calls` has the rules). The plain statistics of the result are over all calls.

        Args:
            batch: which.
            repeats: timed calls at least.
            window_s: seconds of a window at least; the meter's own window counts too.
            most_windows: where the windows do not agree, so many at most.
            warmup: untimed calls before.
            seed: of the random inputs.
            meter: measures energy over each window.
            inputs: arrays to use in place of random ones.
            variant: which variant; the model's `variant` when None.

        Raises:
            MeterError: the meter failed.
        """
        given = self.random_inputs(batch, seed) if inputs is None else list(inputs)
        entry = self.entry(batch, variant)
        how: dict[str, Any] = {"repeats": repeats, "window_s": window_s, "most_windows": most_windows, "meter": meter}
        if self._staging is not None:
            call = partial(self._staged, self._staging, entry, given)
            for _ in range(warmup):
                call()
            return time_calls(call, work=entry.work, **how)
        check_exactly(given, entry.inputs)
        return self._executor.time(entry.function, given, warmup=warmup, **how)

    def profile(
        self,
        batch: int,
        *,
        repeats: int = 20,
        seed: int = 0,
        inputs: Sequence[Any] | None = None,
        variant: str | None = None,
    ) -> tuple[Step, ...]:
        """Seconds of each step of a call: of every operator, as it runs between the others.

        Args:
            batch: which compiled batch size.
            repeats: calls; medians count.
            seed: of the random inputs.
            inputs: arrays to use in place of random ones.
            variant: which variant; the model's `variant` when None.

        Raises:
            RuntimeError: the library cannot run step by step: another back end made it, or an older joulec.
        """
        given = self.random_inputs(batch, seed) if inputs is None else list(inputs)
        entry = self.entry(batch, variant)
        if self._staging is not None:
            call = partial(self._executor.run, entry.function)
            steps = self._staging.profile(given, entry, partial(self._profile, entry, repeats), call, repeats)
        else:
            check_exactly(given, entry.inputs)
            steps = self._profile(entry, repeats, given)
        if steps is None:
            raise RuntimeError(
                "the artifact cannot run step by step: only what the Relax back end of this version compiles for "
                "CPUs can; compile the model again"
            )
        return steps

    def _profile(self, entry: Entry, repeats: int, arrays: Sequence[_Array]) -> tuple[Step, ...] | None:
        return self._executor.profile(entry.function, arrays, repeats=repeats, warmup=3)

    def watch(
        self,
        batch: int,
        arrays: Sequence[_Array],
        watch: Callable[[str, Sequence[_Array]], None],
        variant: str | None = None,
    ) -> bool:
        """Run the compiled function of one batch size once, step by step.

        Args:
            batch: which.
            arrays: of exactly the function's shapes.
            watch: takes each step's name and the arrays of its call, the result last; they are overwritten later. Of a
                tensor that lies inside another it gets that one's flat elements from its first on.
            variant: which variant; the model's `variant` when None.

        Returns:
            Whether the library can run step by step; where not, nothing was run.
        """
        entry = self.entry(batch, variant)
        check_exactly(arrays, entry.inputs)
        return self._executor.watch(entry.function, arrays, watch)

    def annotate(
        self, measured: Mapping[EntryKey, Budget], errors: Mapping[EntryKey, Sequence[float | None]] | None = None
    ) -> None:
        """Enter what was measured into the manifest, which `save` will write.

        Args:
            measured: costs by batch size and variant.
            errors: by the same, the error of each operator of the assignment (`Assigned.relative_error`).
        """
        entries = tuple(
            replace(
                entry,
                measured=measured.get(entry.key, entry.measured),
                assignment=_with_errors(entry.assignment, (errors or {}).get(entry.key)),
            )
            for entry in self.manifest.entries
        )
        self.manifest = replace(self.manifest, entries=entries)
        self._entries = self.manifest.lookup()
        self.__dict__.pop("useful_batch_sizes", None)

    def rename_variants(self, names: Mapping[EntryKey, str]) -> None:
        """Give entries other variants' names, e.g. since measuring showed another order.

        Args:
            names: the new name by batch size and present variant; each batch size keeps the same names.

        Raises:
            ManifestError: a batch size would have a name twice, or one that there is not.
        """
        entries = tuple(replace(one, variant=names.get(one.key, one.variant)) for one in self.manifest.entries)
        self.manifest = replace(self.manifest, entries=entries)
        self._entries = self.manifest.lookup()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the artifact.

        Raises:
            ArtifactError: the place cannot be written.
        """
        return write_artifact(path, self.manifest, self._library, self._executor.weights(), self._externals)

    def session(self, **options: Any) -> Session:
        """A `Session` on this model; options are the session's."""
        from joulec.runtime.session import Session

        return Session(self, **options)

    def close(self) -> None:
        """Free the library, the weights and the thread. Idempotent."""
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _with_errors(assignment: tuple[Assigned, ...], errors: Sequence[float | None] | None) -> tuple[Assigned, ...]:
    if errors is None:
        return assignment
    return tuple(replace(one, relative_error=error) for one, error in zip(assignment, errors, strict=True))
