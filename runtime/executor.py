"""Runs the functions of a compiled library, one call after another; with `machines`, all that knows TVM here."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from joulec.profiler.dtypes import as_carrier, from_carrier
from joulec.profiler.meter import Meter
from joulec.runtime.external import EXTERNALS
from joulec.runtime.machines import make_machine
from joulec.runtime.manifest import Entry
from joulec.runtime.packing import ALIGNMENT
from joulec.runtime.pages import LargePages
from joulec.runtime.profile import Recorder, Step, watching
from joulec.runtime.thread import CallHangs, CallHere, CallThread
from joulec.runtime.timing import Timing, time_calls
from joulec.tvm_version import require_tvm

_Array = npt.NDArray[Any]
_T = TypeVar("_T")

_LARGE_BYTES = 4096
"""Weights from this size on go to large pages."""

_PATIENCE_S = 10.0
"""How long `Executor.close` waits for a call that still runs."""

_environment = threading.Lock()
_log = logging.getLogger(__name__)


def available_cpus() -> int:
    """Number of CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def import_tvm(threads: int, frontend: str = "relax") -> Any:
    """Import the TVM of a back end with its threads set up: not pinned to CPUs, and not spinning when idle.

    Raises:
        ImportError: TVM is not installed, or another one; the message names the extra.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "100")  # 170 ms of spinning after each call otherwise
    require_tvm("relay" if frontend == "relay" else "relax")
    import tvm

    if frontend == "relax":
        import tvm.relax
    return tvm


class Executor:
    """A loaded library with its weights.

    Where kernels start worker threads, all calls run on one thread of its own: TVM keeps a pool of workers per calling
    thread, and old ones linger. Where none does, calls run on the caller's.

    Args:
        library: the shared library.
        entries: its functions.
        weights: contents by digest, as a mapping or in pairs one after another; copied once into aligned memory that
            all entries share.
        externals: ONNX definitions by digest.
        threads: worker threads.
        frontend: ``relax`` or ``relay``: the back end that compiled it.
        parallel: whether some kernel starts worker threads.
        arch: the GPU's architecture that it was compiled for; None for CPUs.

    Raises:
        ImportError: TVM is not installed.
        RuntimeError: the library cannot be loaded, e.g. because it was compiled for another kind of machine.
    """

    def __init__(
        self,
        library: Path,
        entries: Sequence[Entry],
        weights: Mapping[str, _Array] | Iterable[tuple[str, _Array]],
        externals: Mapping[str, bytes],
        threads: int,
        frontend: str = "relax",
        parallel: bool = True,
        arch: str | None = None,
    ) -> None:
        self.threads = threads
        self._arch = arch
        self._frontend = frontend
        self._entries = {entry.function: entry for entry in entries}
        self._digests = tuple(externals)
        self._thread = CallThread("joulec-executor") if parallel else CallHere()
        self._closed = False
        EXTERNALS.acquire(externals, threads)
        try:
            self._thread.call(lambda: self._load(library, weights))
        except BaseException:
            self.close()
            raise

    def _load(self, library: Path, weights: Mapping[str, _Array] | Iterable[tuple[str, _Array]]) -> None:
        with _environment:  # a pool reads the environment when its thread first needs one
            tvm = import_tvm(self.threads, self._frontend)
            tvm.get_global_func("runtime.config_threadpool")(1, self.threads)
        machine = self._machine = make_machine(self._frontend, tvm, library, self._arch)
        self._empty, self._wrap, self._view, self._reuses = machine.empty, machine.wrap, machine.view, machine.reuses
        pairs = weights.items() if isinstance(weights, Mapping) else weights
        pages = LargePages()
        self._weights = {digest: self._keep_weight(array, pages) for digest, array in pairs}
        self._weight_addresses = {view.ctypes.data for _, view in self._weights.values()}
        if self._digests:
            EXTERNALS.hold(view for _, view in self._weights.values())
        self._functions: dict[str, Callable[..., Any]] = {}
        self._staged: dict[tuple[int, int], tuple[Any, _Array]] = {}
        for name, entry in self._entries.items():
            self._functions[name] = machine.function(entry, [self._weights[digest][0] for digest in entry.weights])

    def _keep(self, array: _Array) -> tuple[Any, _Array]:
        """An aligned tensor with the array's contents, and a view of it."""
        tensor = self._empty(array.shape, str(array.dtype))
        view = self._view(tensor)
        np.copyto(view, array)
        return tensor, view

    def _keep_weight(self, array: _Array, pages: LargePages) -> tuple[Any, _Array]:
        """The same for a weight: large ones, which streams read, in large pages."""
        if array.nbytes < _LARGE_BYTES or array.dtype.kind not in "fiu":
            return self._keep(array)
        view = pages.keep(array)
        return self._wrap(view), view

    def _argument(self, batch: int, index: int, array: _Array) -> Any:
        """The array as the machine takes it: itself where it is aligned, otherwise copied to a kept tensor."""
        flags = array.flags
        if flags.c_contiguous and flags.writeable and array.size and array.ctypes.data % ALIGNMENT == 0:
            return self._wrap(array)
        staged = self._staged.get((batch, index))
        if staged is None:
            staged = self._staged[batch, index] = self._keep(array)
        else:
            np.copyto(staged[1], array)
        return staged[0]

    def _call(self, name: str, arrays: Sequence[_Array]) -> tuple[_Array, ...]:
        batch = self._entries[name].batch
        tensors = [self._argument(batch, index, as_carrier(array)) for index, array in enumerate(arrays)]
        result = self._functions[name](*tensors)
        outputs = [result] if hasattr(result, "__dlpack__") else list(result)
        views = [self._view(output) for output in outputs]
        inputs = [self._view(tensor) for tensor in tensors]
        owned = [view.copy() if self._reuses or self._borrowed(view, inputs) else view for view in views]
        types = (tensor.dtype for tensor in self._entries[name].outputs)
        return tuple(from_carrier(view, dtype) for view, dtype in zip(owned, types, strict=True))

    def _borrowed(self, view: _Array, inputs: Sequence[_Array]) -> bool:
        """Whether an output lies in an input's memory or a weight's, which the caller must not receive."""
        return view.ctypes.data in self._weight_addresses or any(np.may_share_memory(view, other) for other in inputs)

    def run(self, name: str, arrays: Sequence[_Array]) -> tuple[_Array, ...]:
        """Call the entry of a function's name with arrays of exactly its inputs' shapes and dtypes."""
        return self._on_thread(lambda: self._call(name, arrays))

    def run_all(self, calls: Sequence[tuple[str, Sequence[_Array]]]) -> list[tuple[_Array, ...]]:
        """Call entries one after another, changing threads once."""
        return self._on_thread(lambda: [self._call(name, arrays) for name, arrays in calls])

    def time(
        self,
        name: str,
        arrays: Sequence[_Array],
        *,
        repeats: int,
        window_s: float,
        most_windows: int,
        warmup: int,
        meter: Meter | None,
    ) -> Timing:
        """Time calls of one entry (`time_calls`), without the change of threads and the staging of inputs."""

        def timed() -> Timing:
            tensors = [self._keep(as_carrier(array))[0] for array in arrays]
            function = self._functions[name]
            for _ in range(warmup):
                function(*tensors)
            return time_calls(
                lambda: function(*tensors),
                repeats=repeats,
                window_s=window_s,
                most_windows=most_windows,
                meter=meter,
                work=self._entries[name].work,
            )

        return self._on_thread(timed)

    def profile(self, name: str, arrays: Sequence[_Array], *, repeats: int, warmup: int) -> tuple[Step, ...] | None:
        """Time each step of one entry (`joulec.runtime.profile`); None where the library cannot run step by step."""

        def profiled() -> tuple[Step, ...] | None:
            entry, recorder = self._entries[name], Recorder()
            weights = [self._weights[digest][0] for digest in entry.weights]
            function = self._machine.steps(entry, weights, recorder)
            if function is None:
                return None
            tensors = [self._keep(array)[0] for array in arrays]
            for call in range(warmup + repeats):
                if call <= warmup:
                    recorder.calls.clear()
                recorder.begin()
                function(*tensors)
            return recorder.steps(entry.assignment)

        return self._on_thread(profiled)

    def watch(self, name: str, arrays: Sequence[_Array], watch: Callable[[str, Sequence[_Array]], None]) -> bool:
        """Run one entry once, step by step; ``watch`` takes each step's name and arrays, the result last.

        Returns:
            Whether the library can run step by step.
        """

        def run() -> bool:
            entry = self._entries[name]
            weights = [self._weights[digest][0] for digest in entry.weights]
            told = watching(lambda step, arguments: watch(step, list(self._views(arguments))))
            function = self._machine.steps(entry, weights, told)
            if function is None:
                return False
            function(*(self._keep(array)[0] for array in arrays))
            return True

        return self._on_thread(run)

    def _views(self, arguments: Sequence[Any]) -> Iterator[_Array]:
        """The tensors of a step, of those that it reads or writes inside the flat elements from the offset on."""
        offset = None
        for argument in arguments:
            if isinstance(argument, int):
                offset = argument
                continue
            view = self._view(argument)
            yield view if offset is None else view.reshape(-1)[offset:]
            offset = None

    def weights(self) -> dict[str, _Array]:
        """The weights' contents by digest, as views that must not be written."""
        return self._on_thread(lambda: {digest: view for digest, (_, view) in self._weights.items()})

    def _on_thread(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise RuntimeError("the model is closed; load it again")
        return self._thread.call(work)

    def close(self) -> None:
        """Free the machine, the weights and the thread; where a call hangs, once that has come back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._thread.call(self._drop, _PATIENCE_S)
        except CallHangs:
            _log.warning("the model is closed while a call of it still runs; its memory is freed when that comes back")
            self._thread.stop(0.0)
        else:
            self._thread.stop()

    def _drop(self) -> None:
        weights = self.__dict__.pop("_weights", {})  # not there yet where loading failed, nor the machine
        EXTERNALS.release(self._digests, [view for _, view in weights.values()])
        self._functions, self._staged, self._weights = {}, {}, {}
        self.__dict__.pop("_machine", None)
