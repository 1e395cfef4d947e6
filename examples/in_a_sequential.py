"""The search as one pass among your own, in a ``tvm.transform.Sequential``.

python examples/in_a_sequential.py
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from joulec.passes.relax import EnergyAwareOptimize
from joulec.passes.relax.workbench import Setup
from joulec.passes.search.results import SearchOptions


def module() -> tvm.IRModule:
    """Two matrix products of one tensor, which a rule can make one, and their difference."""
    rng = np.random.default_rng(0)
    weights = [relax.const(rng.standard_normal((256, 8)).astype("float32")) for _ in range(2)]
    x = relax.Var("x", relax.TensorType((512, 256), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            left, right = (builder.emit(relax.op.matmul(x, weight)) for weight in weights)
            result = builder.emit_output(relax.op.subtract(left, right))
        builder.emit_func_output(result)
    return builder.finalize()


def answers(built: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """What a module computes on this machine's CPU."""
    machine = relax.VirtualMachine(tvm.compile(built, target="llvm"), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def main() -> None:
    """Optimise a module within a pipeline of one's own, and compare."""
    optimise = EnergyAwareOptimize(
        objective="energy",
        search=SearchOptions(budget=50),
        setup=Setup(costs="model"),  # a roofline: nothing is measured
    )
    pipeline = tvm.transform.Sequential(
        [relax.transform.Normalize(), optimise, relax.transform.DeadCodeElimination(), relax.transform.Normalize()]
    )
    before = module()
    after = pipeline(before)
    x = np.random.default_rng(1).standard_normal((512, 256)).astype("float32")
    difference = np.abs(answers(after, x) - answers(before, x)).max()
    rules = ", ".join(f"{name} ×{count}" for name, count in optimise.result.substitutions) or "none"
    print(f"substitutions: {rules}; largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
