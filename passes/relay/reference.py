"""A Relay module's own meaning: the unoptimised module, compiled without Relay's optimisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import autotvm, relay
from tvm.contrib import graph_executor

from joulec.passes.verification import Reference

_Array = npt.NDArray[Any]


def relay_reference(module: Any, names: Sequence[str], function: str = "main", opt_level: int = 0) -> Reference:
    """What computes a module, inputs by name in the function's order."""
    alone = tvm.IRModule(dict(module.functions.items()))
    if function != "main":
        alone["main"] = module[function]
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with tvm.transform.PassContext(opt_level=opt_level), autotvm.FallbackContext():
        try:
            factory = relay.build(alone, target=target)
        except tvm.error.InternalError:  # TVM's simplification of x + x loses a function's parameters, not within lets
            factory = relay.build(relay.transform.ToANormalForm()(relay.transform.InferType()(alone)), target=target)
    machine = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    parameters = [parameter.name_hint for parameter in module[function].params]

    def run(given: Mapping[str, _Array]) -> list[_Array]:
        for name, parameter in zip(names, parameters, strict=True):
            machine.set_input(parameter, np.require(given[name], requirements="C"))
        machine.run()
        return [machine.get_output(index).numpy() for index in range(machine.get_num_outputs())]

    return Reference(f"tvm {tvm.__version__} (relay.build, opt_level {opt_level})", run)
