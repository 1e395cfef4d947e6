"""Operators that run outside the compiled library: ONNX definitions, called by their digest.

The library calls the packed function ``joulec.onnx`` with the digest, the operator's inputs and its outputs
(destination passing). ONNX Runtime computes it where it is installed, ONNX's own reference evaluator otherwise.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FUNCTION = "joulec.onnx"
"""Name of the packed function."""

_log = logging.getLogger(__name__)
_Array = npt.NDArray[Any]


class ExternalError(RuntimeError):
    """An operator outside the library that is not defined or cannot be computed."""


class _Session(Protocol):
    inputs: int

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        """Compute the outputs into the arrays given."""


class _OrtSession:
    """ONNX Runtime, reading and writing the caller's memory without copies."""

    def __init__(self, definition: bytes, threads: int) -> None:
        import onnxruntime as ort

        ort.disable_telemetry_events()  # running a model reports to nobody
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads cost energy
        self._session = ort.InferenceSession(definition, options, providers=["CPUExecutionProvider"])
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]
        self.inputs = len(self._input_names)

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        if any(array.size == 0 for array in (*inputs, *outputs)):  # no address to bind
            results = self._session.run(None, dict(zip(self._input_names, inputs, strict=True)))
            _store(results, outputs)
            return
        binding = self._session.io_binding()
        for name, array in zip(self._input_names, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(self._output_names, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)


class _ReferenceSession:
    """ONNX's reference evaluator: slow, always there."""

    def __init__(self, definition: bytes) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load_from_string(definition)
        self._names = [value.name for value in model.graph.input]
        self._evaluator = ReferenceEvaluator(model)
        self.inputs = len(self._names)

    def run(self, inputs: Sequence[_Array], outputs: Sequence[_Array]) -> None:
        results: Any = self._evaluator.run(None, dict(zip(self._names, inputs, strict=True)))
        _store(results, outputs)


def _store(results: Sequence[_Array], outputs: Sequence[_Array]) -> None:
    for result, output in zip(results, outputs, strict=True):
        if np.shape(result) != output.shape:
            raise ExternalError(f"an operator gave shape {np.shape(result)} where {output.shape} was compiled")
        np.copyto(output, result, casting="same_kind")


def _open(definition: bytes, threads: int) -> _Session:
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return _ReferenceSession(definition)
    try:
        return _OrtSession(definition, threads)
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
    the models that use them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._definitions: dict[str, bytes] = {}
        self._users: dict[str, int] = {}
        self._sessions: dict[str, _Session] = {}
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

    def release(self, digests: Iterable[str]) -> None:
        """Forget definitions that no other model uses."""
        with self._lock:
            for digest in digests:
                self._users[digest] -= 1
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
        with self._lock:
            if digest not in self._definitions:
                raise ExternalError(f"operator {digest} is not in the artifact; compile the model again")
            if digest not in self._sessions:
                self._sessions[digest] = _open(self._definitions[digest], self._threads)
            session = self._sessions[digest]
        session.run(arrays[: session.inputs], arrays[session.inputs :])


EXTERNALS = Externals()
"""What the packed function calls."""
