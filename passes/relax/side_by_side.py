"""Kernels compiled by several threads, as object files of one library."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.transform import PassContext

_COMPILED = "__vmtir__"
"""What the names of the virtual machine's own functions begin with, once they are compiled."""
_SYMBOL = "__tvm_ffi_"
"""What TVM puts before the name of a function that takes packed arguments."""
_LEAST = 8
"""Kernels for which a thread of their own pays."""
_MOST = 4
"""Threads, at most: each module holds LLVM's tables of its own."""


class SideBySide:
    """A module whose kernels are compiled beside each other; a context manager, which ends when all threads have.

    A function of the virtual machine calls kernels by their symbols. For a kernel of another object file that it calls
    twice, TVM 0.27 declares a second symbol that nobody defines: so only kernels that are called once, or never, leave
    the module in which the functions are.

    Attributes:
        rest: what the caller compiles.
    """

    def __init__(self, module: Any, target: Any, pipeline: str, threads: int, folder: Path) -> None:
        """Begin to compile.

        Args:
            module: kernels and functions of the virtual machine, TIR all of them.
            target: for which they are compiled.
            pipeline: how they are lowered.
            threads: how many threads may compile, the caller's among them.
            folder: where object files are written.
        """
        free = _free(module)
        count = max(1, min(threads, _MOST, len(free) // _LEAST))
        parts = [free[index::count] for index in range(1, count)]
        self.rest = _without(module, {str(variable.name_hint) for part in parts for variable in part})
        self._pool = ThreadPoolExecutor(max_workers=max(len(parts), 1), thread_name_prefix="joulec-llvm")
        self._objects: list[Future[str]] = [
            self._pool.submit(_object, _of(module, part), target, pipeline, folder / f"kernels{index}.o")
            for index, part in enumerate(parts)
        ]

    def objects(self) -> list[str]:
        """The object files, once they are written.

        Raises:
            Exception: whatever the compiler raises.
        """
        return [one.result() for one in self._objects]

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the threads."""
        self._pool.shutdown(cancel_futures=True)


def compiling_threads() -> int:
    """As many as this process may use processors."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_call(call: Any) -> bool:
    """Whether it calls a kernel."""
    return str(getattr(call.op, "name", "")) == "tirx.tvm_call_cpacked"


def _free(module: Any) -> list[Any]:
    """The kernels that no function calls twice, in the order of their names."""
    calls: Counter[str] = Counter()

    def count(call: Any) -> None:
        if _is_call(call):
            calls[str(call.args[0].value)] += 1

    kernels = []
    for variable, function in module.functions.items():
        if variable.name_hint.startswith(_COMPILED):
            tvm_ffi.structural_walk(function.body, (tvm.ir.Call, count))
        else:
            kernels.append(variable)
    return sorted((one for one in kernels if calls[one.name_hint] <= 1), key=lambda one: str(one.name_hint))


def _without(module: Any, gone: Set[str]) -> Any:
    """The module without some kernels, which it calls by the symbols that they have in their object files."""

    def renamed(call: Any) -> Any:
        if not _is_call(call) or str(call.args[0].value) not in gone:
            return call
        symbol = tvm.ir.StringImm(_SYMBOL + str(call.args[0].value))
        return tvm.ir.Call(call.op, [symbol, *call.args[1:]], call.attrs, span=call.span, ret_ty=call.ty)

    functions = {}
    for variable, function in module.functions.items():
        if variable.name_hint.startswith(_COMPILED):
            body = tvm_ffi.structural_map(function.body, (tvm.ir.Call, renamed))
            functions[variable] = function.with_body(body)
        elif variable.name_hint not in gone:
            functions[variable] = function
    return tvm.IRModule(functions, attrs=module.attrs)


def _of(module: Any, variables: Sequence[Any]) -> Any:
    return tvm.IRModule({variable: module[variable] for variable in variables}, attrs=module.attrs)


def _object(module: Any, target: Any, pipeline: str, path: Path) -> str:
    with PassContext(), target:
        tirx.build(module, target=target, pipeline=pipeline).write_to_file(str(path), "o")
    return str(path)
