"""Kernels whose operands and results lie inside larger tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tvm import DataType, s_tir, tirx


def at_offsets(function: Any, places: Collection[int]) -> Any:
    """A finished kernel that takes parts of larger tensors for some of its parameters.

    Args:
        function: a PrimFunc as `Kernel.build` makes it.
        places: which parameters. Each becomes two: an offset in elements (int64) and the whole tensor, of the same rank
            and any shape, in which the parameter lies contiguous from the offset on.
    """
    parameters: list[Any] = []
    views = []
    for index, part in enumerate(function.params):
        if index not in places:
            parameters.append(part)
            continue
        offset = tirx.Var(f"offset{index}", "int64")
        shape = [tirx.Var(f"extent{index}_{axis}", "int64") for axis in range(len(part.shape))]
        whole = tirx.decl_buffer(shape, part.dtype, f"whole{index}")
        begin = offset * (DataType(part.dtype).bits // 8)
        views.append(tirx.DeclBuffer(part, data=tirx.op.handle_add_byte_offset(whole.data, begin)))
        parameters += [offset, whole]
    body = tirx.SeqStmt([*views, function.body.block.body])
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    return tirx.PrimFunc(parameters, root, attrs=function.attrs)
