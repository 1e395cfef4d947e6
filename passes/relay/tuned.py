"""What the user's own AutoTVM tuning found, as further algorithms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import autotvm
from tvm.autotvm.task.space import OtherOptionEntity, SplitEntity

from joulec.passes.graph import Conv2d, MatMul, NodeSpec
from joulec.passes.module_errors import TuningRecordsError
from joulec.passes.relay.algorithm import (
    BATCHED,
    CONV_BLOCKED,
    DENSE,
    DEPTHWISE_BLOCKED,
    Config,
    Way,
    is_batched,
    is_dense,
)

Workload = tuple[Any, ...]


@dataclass(frozen=True)
class TuningRecords:
    """Best configurations of a log, or of the context that is active around the pass.

    Attributes:
        history: what AutoTVM looks workloads up in.
        target: for what the records hold.
    """

    history: Any
    target: Any

    def ways(self, spec: NodeSpec) -> Iterator[Way]:
        """Implementations of the spec under the configurations that were found for it."""
        for template, workload in _workloads(spec):
            found = self.history._query_inside(self.target, workload)
            config = None if found is None else _config(found)
            if config is None:
                continue
            tiles = dict(config)
            if template in (*DENSE, BATCHED):
                yield template, config, 0, 0
            elif _divides(spec, tiles):
                yield template, config, _inner(tiles["tile_ic"]), _inner(tiles["tile_oc"])


def tuning_records(path: str | Path | None, target: str) -> TuningRecords | None:
    """The records of a log of AutoTVM; without one, those of `autotvm.apply_history_best` where it is active.

    Raises:
        TuningRecordsError: the log cannot be read.
    """
    history: Any = autotvm.task.DispatchContext.current
    if path is not None:
        try:
            history = autotvm.task.ApplyHistoryBest(str(path))
        except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()
            raise TuningRecordsError(
                f"cannot read {path} as a log of AutoTVM: {reason[-1] if reason else type(error).__name__}"
            ) from error
    if not isinstance(history, autotvm.task.ApplyHistoryBest):
        return None
    return TuningRecords(history, tvm.target.Target(target))


def _workloads(spec: NodeSpec) -> Iterator[tuple[str, Workload]]:
    """The templates that compute a spec, with its name in AutoTVM's records."""
    op = spec.op
    tensors = [("TENSOR", operand.type.shape, operand.type.dtype) for operand in spec.operands[:2]]
    dtype = spec.results[0].dtype
    if isinstance(op, Conv2d):
        depthwise = op.groups > 1
        name = DEPTHWISE_BLOCKED if depthwise else CONV_BLOCKED
        yield name, (name, *tensors, op.strides, op.padding, op.dilation, "NCHW", "NCHW", dtype)
    elif is_dense(spec):
        for name in DENSE:
            yield name, (name, *tensors, None, dtype)
    elif is_batched(spec):
        assert isinstance(op, MatMul)
        *lead, rows, columns = spec.results[0].shape
        batch = math.prod(lead)
        flat = [("TENSOR", (batch, *operand.type.shape[-2:]), operand.type.dtype) for operand in spec.operands[:2]]
        yield BATCHED, (BATCHED, *flat, (batch, rows, columns), dtype, 0, int(op.transpose_b))


def _config(found: Any) -> Config | None:
    """A configuration as knobs by name; None where it holds what joulec does not pin."""
    config: list[tuple[str, int | tuple[int, ...]]] = []
    for name, entity in found._entity_map.items():
        if isinstance(entity, SplitEntity):
            config.append((name, tuple(int(size) for size in entity.size)))
        elif isinstance(entity, OtherOptionEntity):
            config.append((name, int(entity.val)))
        else:
            return None
    return tuple(config) or None


def _inner(sizes: int | tuple[int, ...]) -> int:
    return sizes[-1] if isinstance(sizes, tuple) else sizes


def _divides(spec: NodeSpec, tiles: dict[str, Any]) -> bool:
    """Whether the layouts that the configuration means are those of the spec's tensors."""
    if not {"tile_ic", "tile_oc"} <= tiles.keys():
        return False
    channels, filters = spec.operands[0].type.shape[1], spec.results[0].shape[1]
    return bool(channels % _inner(tiles["tile_ic"]) == 0 and filters % _inner(tiles["tile_oc"]) == 0)
