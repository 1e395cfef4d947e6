"""ONNX's reference implementation in a process of its own: slow operators can be ended, and it starts once.

Run as a program it answers requests: pickled (model, inputs by name) on standard input, pickled answers on standard
output. Both ends are ours, and nothing pickled comes from elsewhere.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]


class EvaluationError(RuntimeError):
    """The reference implementation cannot compute the model for these inputs."""


class EvaluationTimeout(RuntimeError):
    """It did not answer in time."""


class Evaluator:
    """The process, started when first asked. One at a time asks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, model: bytes, given: Mapping[str, _Array], time_limit_s: float) -> Sequence[_Array]:
        """The model's outputs.

        Args:
            model: a serialised ModelProto.
            given: inputs by name; more than it takes may be given.

        Raises:
            EvaluationError: it cannot be computed.
            EvaluationTimeout: it takes longer than the limit.
        """
        with self._lock:
            process = self._process = self._process or _start()
            assert process.stdin is not None
            assert process.stdout is not None
            late = threading.Event()

            def give_up() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(time_limit_s, give_up)
            timer.start()
            try:
                pickle.dump((model, dict(given)), process.stdin)
                process.stdin.flush()
                outcome = pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                self.close()
                if late.is_set():
                    raise EvaluationTimeout(f"no result within {time_limit_s:g} s") from error
                raise EvaluationError("onnx.reference ended while computing the model") from error
            finally:
                timer.cancel()
        if isinstance(outcome, str):
            raise EvaluationError(outcome)
        found: Sequence[_Array] = outcome
        return found

    def close(self) -> None:
        """End the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


EVALUATOR = Evaluator()
"""The one of this process."""
atexit.register(EVALUATOR.close)


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _evaluate(model: bytes, given: Mapping[str, _Array]) -> list[_Array] | str:
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(onnx.load_from_string(model))
        with np.errstate(all="ignore"):
            outputs = evaluator.run(None, {name: given[name] for name in evaluator.input_names})
    except Exception as error:  # noqa: BLE001 - its operators are numpy code, which raises whatever it meets
        return " ".join(str(error).split()) or type(error).__name__
    return [np.asarray(array) for array in outputs]


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an operator prints is no answer
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            model, given = pickle.load(sys.stdin.buffer)
            pickle.dump(_evaluate(model, given), answers)
            answers.flush()


if __name__ == "__main__":
    _serve()
