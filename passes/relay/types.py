"""Types of Relay as the graph's."""

from __future__ import annotations

from typing import Any

import tvm

from joulec.passes.graph import TensorType
from joulec.passes.module_errors import ImportModuleError


def tensor_type(type: Any) -> TensorType:
    """A graph's type from Relay's.

    Raises:
        ImportModuleError: it is no tensor, or its shape is not fixed.
    """
    if not isinstance(type, tvm.ir.TensorType):
        raise ImportModuleError(f"{type} is not a tensor, which the graph does not model")
    try:
        return TensorType(tuple(int(size) for size in type.shape), str(type.dtype))
    except TypeError as error:
        raise ImportModuleError(
            f"{type} has no fixed shape; give the frontend fixed shapes, or run relay.transform.DynamicToStatic"
        ) from error
