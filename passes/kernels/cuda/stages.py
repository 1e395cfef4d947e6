"""Stages of an algorithm on a GPU: each scheduled by a rule, all in one function that launches their kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, te, tirx

_MOST = {"blockIdx.y": 65535, "blockIdx.z": 65535, "threadIdx.x": 1024, "threadIdx.y": 1024, "threadIdx.z": 64}
"""CUDA's limits on grids and blocks, on every architecture; the first axis of a grid is as good as unlimited."""

Rule = Callable[[Any, Any], Any]
"""From an unscheduled PrimFunc and TVM's target to a schedule, or None where it does not apply."""


@dataclass(frozen=True)
class Stage:
    """A part of an algorithm.

    Attributes:
        function: a PrimFunc of what it reads, then what it writes.
        reads: which tensors it reads: the operator's operands are 0, 1, …; after them each earlier stage's results.
        rules: how it may be scheduled; the first that applies does.
    """

    function: Any
    reads: tuple[int, ...]
    rules: tuple[Rule, ...]


def stage(
    inputs: Sequence[Any], outputs: Sequence[Any], rules: Sequence[Rule], reads: Sequence[int] | None = None
) -> Stage:
    """A stage from TE: placeholders, what is computed from them, and which tensors the placeholders stand for."""
    numbers = tuple(range(len(inputs))) if reads is None else tuple(reads)
    return Stage(te.create_prim_func([*inputs, *outputs]), numbers, tuple(rules))


def dlight(rule: Any) -> Rule:
    """One of dlight's rules, which may raise whatever a schedule's primitives do where the function is not its kind."""

    def applied(function: Any, target: Any) -> Any:
        try:
            with target:
                found = rule.apply(function, target, False)
        except (s_tir.ScheduleError, tvm.error.InternalError, ValueError, AssertionError, IndexError, TypeError):
            return None
        return found[0] if isinstance(found, list) else found

    return applied


def applies(stage: Stage, target: str) -> bool:
    """Whether some rule schedules the stage."""
    return _schedule(stage, target) is not None


def scheduled(stage: Stage, target: str) -> Stage:
    """The stage under the first of its rules that applies.

    Raises:
        ValueError: none does.
    """
    schedule = _schedule(stage, target)
    if schedule is None:
        raise ValueError(f"no rule schedules the stage:\n{stage.function}")
    return replace(stage, function=schedule.mod["main"])


def _schedule(stage: Stage, target: str) -> Any:
    parsed = tvm.target.Target(json.loads(target))
    found = (rule(stage.function, parsed) for rule in stage.rules)
    return next((schedule for schedule in found if schedule is not None and on_device(schedule.mod["main"])), None)


def on_device(function: Any) -> bool:
    """Whether a PrimFunc launches kernels, with grids that a GPU takes: others compile too, and fail when called."""
    bound: list[tuple[str, int]] = []

    def visit(loop: Any) -> None:
        if loop.kind == tirx.ForKind.THREAD_BINDING:
            bound.append((str(loop.thread_binding.thread_tag), int(loop.extent)))

    tvm_ffi.structural_walk(function.body, (tirx.For, visit), order="post")
    return bool(bound) and all(extent <= _MOST.get(tag, extent) for tag, extent in bound)


def composed(stages: Sequence[Stage], operands: int) -> Any:
    """One PrimFunc of the operator's operands and the last stage's results; what lies between it allocates itself."""
    tensors: dict[int, Any] = {}
    inner: list[Any] = []
    bodies = []
    written = operands
    for position, one in enumerate(stages):
        buffers = list(one.function.params)
        given, results = buffers[: len(one.reads)], buffers[len(one.reads) :]
        for number, buffer in zip(one.reads, given, strict=True):
            if number < operands:
                tensors.setdefault(number, _fresh(buffer, f"operand{number}"))
        names = [f"result{index}" if one is stages[-1] else f"stage{position}" for index in range(len(results))]
        fresh = [_fresh(buffer, name) for buffer, name in zip(results, names, strict=True)]
        tensors.update(enumerate(fresh, written))
        written += len(fresh)
        inner += [] if one is stages[-1] else fresh
        targets = [*(tensors[number] for number in one.reads), *fresh]
        bodies.append(_exchanged(one.function.body, buffers, targets))
    body = bodies[0] if len(bodies) == 1 else tirx.SeqStmt(bodies)
    if len(bodies) > 1:
        body = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body, alloc_buffers=inner))
    parameters = [*(tensors[number] for number in range(operands)), *fresh]
    function = tirx.PrimFunc(parameters, body)
    return function.with_attr("op_pattern", 8).with_attr("tirx.is_scheduled", True).with_attr("tirx.noalias", True)


def _fresh(buffer: Any, name: str) -> Any:
    return tirx.decl_buffer(buffer.shape, buffer.dtype, name)


def _exchanged(body: Any, old: Sequence[Any], new: Sequence[Any]) -> Any:
    def exchange(buffer: Any) -> Any:
        return next((after for before, after in zip(old, new, strict=True) if buffer.same_as(before)), buffer)

    return tvm_ffi.structural_map(body, (tvm.ir.Var, exchange))
