"""A process of one's own that answers requests: it can be ended when it takes too long, may crash, and starts once.

The module that is run as a program calls `serve`. Requests and answers are pickled; both ends are ours, and nothing
pickled comes from elsewhere.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any


class ServantEnded(RuntimeError):
    """The process ended while it worked on a request."""


class ServantTimeout(RuntimeError):
    """It did not answer in time, and was ended."""


class Servant:
    """The process, started when first asked. One at a time asks it.

    Args:
        module: what it runs, by its full name.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def ask(self, request: Any, time_limit_s: float) -> Any:
        """Its answer.

        Raises:
            ServantEnded: it ended.
            ServantTimeout: it takes longer than the limit.
        """
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            late = threading.Event()

            def give_up() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(time_limit_s, give_up)
            timer.start()
            try:
                pickle.dump(request, process.stdin)
                process.stdin.flush()
                return pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                self.close()
                if late.is_set():
                    raise ServantTimeout(f"no result within {time_limit_s:g} s") from error
                raise ServantEnded(f"the process ended with code {process.returncode}") from error
            finally:
                timer.cancel()

    def close(self) -> None:
        """End the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", self._module]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed meanwhile is no answer
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            pickle.dump(answer(pickle.load(sys.stdin.buffer)), answers)
            answers.flush()
