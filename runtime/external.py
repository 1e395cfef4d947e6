"""Operators that run outside the compiled library: ONNX definitions, called by their digest.

The library calls the packed function ``joulec.onnx`` with the digest, the operator's inputs and its outputs
(destination passing). ONNX Runtime computes it where it is installed, ONNX's own reference evaluator otherwise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.profiler.candidate import Workload
from joulec.profiler.dtypes import as_carrier, from_carrier, numpy_dtype
from joulec.profiler.values import unboxed

FUNCTION = "joulec.onnx"
"""Name of the packed function."""

ENGINES = ("onnxruntime", "onnx.reference", "onnx")
"""Algorithms that are calls of the packed function; the last is the Relay back end's name for either."""

BY_REFERENCE = "reference-"
"""Begins the digests of definitions that ONNX's reference implementation is to compute even where ONNX Runtime is."""

_COPIES = 3
_COPIED_BYTES = 1 << 26
"""Operands beyond this size find no cache warm anyway, so that one copy of them will do for measuring."""
_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7

_log = logging.getLogger(__name__)
_Array = npt.NDArray[Any]


class ExternalError(RuntimeError):
    """An operator outside the library that is not defined or cannot be computed."""


class Session(Protocol):
    """An engine with a definition loaded.

    Attributes:
        inputs: how many it takes.
    """

    inputs: int

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        """Compute the outputs into the arrays given."""

    def compute(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The outputs for inputs by name, of any shape and form."""


class _OrtSession:
    """ONNX Runtime, reading and writing the caller's memory without copies.

    Args:
        constants: contents of inputs, by position, that are the same at each call: ONNX Runtime packs and folds them
            once.
    """

    def __init__(self, definition: bytes, threads: int, constants: Mapping[int, _Array]) -> None:
        import onnxruntime as ort

        ort.disable_telemetry_events()  # running a model reports to nobody
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it refuses is raised; no need to print it too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads cost energy
        fixed = _with_initializers(definition, constants) if constants else definition
        self._session = ort.InferenceSession(fixed, options, providers=["CPUExecutionProvider"])
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]
        self.inputs = len(self._input_names) + len(constants)
        self._given = [index for index in range(self.inputs) if index not in constants]
        self._bound = threading.local()

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        with self._telling():
            self._run(inputs, outputs)

    def compute(self, values: Mapping[str, Any]) -> Sequence[Any]:
        with self._telling():
            found: Sequence[Any] = self._session.run(None, {name: values[name] for name in self._input_names})
        return found

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Translates what ONNX Runtime raises."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            yield
        except (
            state.Fail,
            state.InvalidArgument,
            state.RuntimeException,
            state.NotImplemented,
            RuntimeError,  # how binding tells that a result has another shape than its memory
        ) as error:
            raise ExternalError(
                f"the model does not take these inputs: ONNX Runtime cannot compute an operator: {_one_line(error)}"
            ) from error

    def _run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        inputs = [inputs[index] for index in self._given]
        if any(array.size == 0 for array in (*inputs, *outputs)):  # no address to bind
            results = self._session.run(None, dict(zip(self._input_names, inputs, strict=True)))
            _store(results, outputs)
            return
        places = [(_address(array), array.shape) for array in (*inputs, *outputs)]
        if getattr(self._bound, "places", None) != places:
            binding = self._session.io_binding()
            for name, array in zip(self._input_names, inputs, strict=True):
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, _address(array))
            for name, array in zip(self._output_names, outputs, strict=True):
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, _address(array))
            self._bound.places, self._bound.binding = places, binding
        self._session.run_with_iobinding(self._bound.binding)


def _address(array: _Array) -> int:
    return int(array.__array_interface__["data"][0])


def _with_initializers(definition: bytes, constants: Mapping[int, _Array]) -> bytes:
    """The model with the contents of some inputs, by position, in place of these."""
    import onnx

    model = onnx.load_from_string(definition)
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(value for index, value in enumerate(inputs) if index not in constants)
    for index, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, inputs[index].name))
    return bytes(model.SerializeToString())


class _ReferenceSession:
    """ONNX's reference evaluator: slow, always there."""

    def __init__(self, definition: bytes) -> None:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx.reference import ReferenceEvaluator

        try:
            self._graph = onnx.load_from_string(definition).graph
        except DecodeError as error:
            raise ExternalError(f"an operator's definition is damaged ({error}); compile the model again") from error
        self._names = [value.name for value in self._graph.input]
        self._evaluator = ReferenceEvaluator(onnx.load_from_string(definition))
        self.inputs = len(self._names)

    @cached_property
    def _types(self) -> list[list[str]]:
        import onnx

        return [
            [str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)) for value in values]
            for values in (self._graph.input, self._graph.output)
        ]

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        takes, gives = self._types
        given = [from_carrier(array, dtype) for array, dtype in zip(inputs, takes, strict=True)]
        results = self.compute(dict(zip(self._names, given, strict=True)))
        _store(results, [from_carrier(array, dtype) for array, dtype in zip(outputs, gives, strict=True)])

    def compute(self, values: Mapping[str, Any]) -> Sequence[Any]:
        try:
            with np.errstate(all="ignore"):
                results: Any = self._evaluator.run(None, {name: values[name] for name in self._names})
        except Exception as error:  # its operators are numpy code, which raises whatever it meets
            raise ExternalError(
                f"the model does not take these inputs: onnx.reference cannot compute an operator: {_one_line(error)}"
            ) from error
        return [unboxed(one, value.type) for one, value in zip(results, self._graph.output, strict=True)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _store(results: Sequence[_Array], outputs: Sequence[_Array]) -> None:
    for result, output in zip(results, outputs, strict=True):
        if np.shape(result) != output.shape and np.squeeze(result).shape != np.squeeze(output).shape:
            raise ExternalError(f"an operator gave shape {np.shape(result)} where {output.shape} was compiled")
        output[...] = np.asarray(result).astype(output.dtype).reshape(output.shape)  # a size of 1 more or less


def open_session(
    digest: str, definition: bytes, threads: int, constants: Mapping[int, _Array] | None = None
) -> Session:
    """The engine on a definition: ONNX Runtime where it is installed and takes it, else the reference implementation.

    Args:
        digest: with `BY_REFERENCE` before it, the reference implementation runs it whatever is installed.
        constants: contents of inputs, by position, that are the same at each call.
    """
    if digest.startswith(BY_REFERENCE):
        return _ReferenceSession(definition)
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return _ReferenceSession(definition)
    try:
        return _OrtSession(definition, threads, constants or {})
    except (
        state.Fail,
        state.InvalidGraph,
        state.InvalidArgument,
        state.NotImplemented,
        state.InvalidProtobuf,
    ) as error:
        _log.warning("ONNX Runtime refuses an operator, its reference evaluator runs it, slowly: %s", error)
        return _ReferenceSession(definition)


class Externals:
    """Definitions of the loaded models by digest, and the sessions that run them.

    The packed function is one for the whole process, so this is too: equal digests are equal definitions, counted by
    the models that use them. A definition has a session for each set of weights that it is called with.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._definitions: dict[str, bytes] = {}
        self._users: dict[str, int] = {}
        self._weights: dict[int, int] = {}
        self._sessions: dict[str, dict[tuple[int, ...], Session]] = {}
        self._threads = 1

    def acquire(self, definitions: Mapping[str, bytes], threads: int) -> None:
        """Make definitions callable.

        Raises:
            ExternalError: a digest already stands for another definition.
        """
        with self._lock:
            for digest, definition in definitions.items():
                if self._definitions.get(digest, definition) != definition:
                    raise ExternalError(f"digest {digest} stands for two definitions; compile the model again")
            for digest, definition in definitions.items():
                self._definitions[digest] = definition
                self._users[digest] = self._users.get(digest, 0) + 1
            self._threads = threads

    def hold(self, weights: Iterable[_Array]) -> None:
        """Be told of arrays that do not change, nor move, until they are given to `release`."""
        with self._lock:
            self._weights.update((_address(array), array.nbytes) for array in weights if array.nbytes)

    def release(self, digests: Iterable[str], weights: Iterable[_Array] = ()) -> None:
        """Forget definitions that no other model uses, and weights."""
        gone = {_address(array) for array in weights}
        with self._lock:
            for address in gone:
                self._weights.pop(address, None)
            for digest in digests:
                self._users[digest] -= 1
                sessions = self._sessions.get(digest, {})
                for key in [key for key in sessions if gone.intersection(key)]:
                    del sessions[key]
                if not self._users[digest]:
                    del self._users[digest], self._definitions[digest]
                    self._sessions.pop(digest, None)

    def __call__(self, digest: str, arrays: Sequence[_Array]) -> None:
        """Compute one operator.

        Args:
            digest: which.
            arrays: its inputs, then its outputs, which are written.

        Raises:
            ExternalError: the digest has no definition, or it gives other shapes than were compiled.
        """
        known = self._weights
        key = tuple(address if address in known else 0 for address in map(_address, arrays)) if known else ()
        with self._lock:
            if digest not in self._definitions:
                raise ExternalError(f"operator {digest} is not in the artifact; compile the model again")
            sessions = self._sessions.setdefault(digest, {})
            if key not in sessions:
                constants = {index: arrays[index] for index, address in enumerate(key) if address}
                sessions[key] = open_session(digest, self._definitions[digest], self._threads, constants)
            session = sessions[key]
        session.run(arrays[: session.inputs], arrays[session.inputs :])


EXTERNALS = Externals()
"""What the packed function calls."""


class _Repeated:
    """One operator and the ring of arrays that its calls go through."""

    def __init__(self, call: Callable[[Sequence[_Array]], None], ring: Sequence[Sequence[_Array]]) -> None:
        self._call = call
        self._ring = cycle(ring)

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, each with the next arrays."""
        for arrays in islice(self._ring, calls):
            self._call(arrays)

    def overhead_s(self) -> float:
        """Seconds per call of the same loop around a function that does nothing, the least out of a few loops."""
        idle = _Repeated(lambda arrays: None, [()])
        spent_s = []
        for _ in range(_OVERHEAD_REPEATS):
            begin_s = time.perf_counter()
            idle.run(_OVERHEAD_CALLS)
            spent_s.append(time.perf_counter() - begin_s)
        return min(spent_s) / _OVERHEAD_CALLS


def build(payload: Any) -> Workload:
    """What the measuring harness times: the operator by the very path that a compiled model calls it.

    Args:
        payload: has ``kernel`` (``onnxruntime``, ``onnx.reference``, or another: whichever is there), ``spec``
            (``op.definition``, an ONNX model whose inputs are the operands; ``operands`` with a ``type`` each and
            ``results``, types: ``shape`` and ``dtype``), ``target.threads`` and ``seed``.

    Returns:
        A workload on seeded normal numbers; integers are ones or, where the operator refuses those, zeros (which are
        valid as indices into anything), booleans are true.

    Raises:
        Exception: whatever ONNX Runtime or the reference evaluator raises for the operator.
    """
    spec = payload.spec
    externals = Externals()
    name = f"{BY_REFERENCE if getattr(payload, 'kernel', '') == 'onnx.reference' else ''}{spec.op.name}"
    externals.acquire({name: spec.op.definition}, payload.target.threads)
    rng = np.random.default_rng(payload.seed)
    types = [operand.type for operand in spec.operands]
    fixed = [getattr(operand, "constant", False) for operand in spec.operands]
    results = [as_carrier(np.empty(type.shape, numpy_dtype(type.dtype))) for type in spec.results]

    def call(arrays: Sequence[_Array]) -> None:
        externals(name, arrays)

    def operands(whole: int) -> list[_Array]:
        made = [as_carrier(_operand(rng, type.shape, numpy_dtype(type.dtype), whole)) for type in types]
        externals.hold(array for array, constant in zip(made, fixed, strict=True) if constant)
        return made

    first = [*operands(1), *results]
    try:
        call(first)
    except Exception as refusal:  # noqa: BLE001 - each runtime has its own errors for values that do not fit
        whole, first = 0, [*operands(0), *results]
        try:
            call(first)
        except Exception:  # noqa: BLE001 - the same; what the likelier values met is what there is to say
            raise refusal from None
    else:
        whole = 1
    size = sum(array.nbytes for array in first)
    copies = _COPIES if size <= _COPIED_BYTES else 1

    def another() -> list[_Array]:
        """The same weights, other data."""
        data = [*operands(whole), *(array.copy() for array in results)]
        kept = [*fixed, *[False] * len(results)]
        return [one if constant else other for one, other, constant in zip(first, data, kept, strict=True)]

    return _Repeated(call, [first, *(another() for _ in range(copies - 1))])


def _operand(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], whole: int) -> _Array:
    if dtype.kind == "f" or "float" in dtype.name:
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    return np.full(shape, 1 if dtype.kind == "b" else whole, dtype)
