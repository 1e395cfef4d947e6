"""Fixtures: a fake clock and compiled models."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from joulec.runtime import Budget, TensorInfo

sys.path.insert(0, str(Path(__file__).parent / "support"))
sys.path.append(str(Path(__file__).parents[1] / "support"))

from nvml_device import gpu, nvml_library  # noqa: F401 - fixtures
from runtime_support import Compiled, FakeClock, compile_library, entry, manifest, matmul_relu, plus_one


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def two_outputs(tmp_path_factory) -> Compiled:
    """Batches 1 and 4 of (relu(x w), relu(x w) + 1); the second output runs outside the library."""
    definition = plus_one()
    digest = hashlib.sha256(definition).hexdigest()
    library = compile_library(tmp_path_factory.mktemp("two") / "library.so", matmul_relu(digest))
    weights = {"w0": np.random.default_rng(0).standard_normal((8, 16)).astype("float32")}
    outputs = {b: (TensorInfo("y", (b, 16)), TensorInfo("z", (b, 16))) for b in (1, 4)}
    entries = [entry(b, outputs=outputs[b]) for b in (1, 4)]
    return Compiled(manifest(*entries), library, weights, {digest: definition})


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Compiled:
    """Batches 1, 2, 4 and 8 of relu(x w)."""

    def build(tvm, builder) -> None:
        from tvm.script import relax as R

        relax = tvm.relax
        for batch in (1, 2, 4, 8):
            x = relax.Var("x", R.Tensor((batch, 8), "float32"))
            w = relax.Var("w", R.Tensor((8, 16), "float32"))
            with builder.function(f"main_b{batch}", [x, w], attrs={"num_input": 1}):
                with builder.dataflow():
                    y = builder.emit_output(relax.op.nn.relu(relax.op.matmul(x, w)))
                builder.emit_func_output(y)

    library = compile_library(tmp_path_factory.mktemp("plain") / "library.so", build)
    weights = {"w0": np.random.default_rng(0).standard_normal((8, 16)).astype("float32")}
    return Compiled(manifest(*(entry(b) for b in (1, 2, 4, 8))), library, weights, {})


@pytest.fixture(scope="session")
def two_variants(tmp_path_factory) -> Compiled:
    """Batches 1, 2 and 4 of relu(x w), in a variant `fast` and one `frugal` that adds 1, so that a test can tell.

    The one best under the objective is `frugal`; batch 4 has `fast` alone.
    """

    def build(tvm, builder) -> None:
        from tvm.script import relax as R

        relax = tvm.relax
        for batch, name in VARIANTS:
            x = relax.Var("x", R.Tensor((batch, 8), "float32"))
            w = relax.Var("w", R.Tensor((8, 16), "float32"))
            with builder.function(f"main_b{batch}_{name}", [x, w], attrs={"num_input": 1}):
                with builder.dataflow():
                    y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, w)))
                    one = relax.const(np.float32(name == "frugal"))
                    y = builder.emit_output(relax.op.add(y, one))
                builder.emit_func_output(y)

    library = compile_library(tmp_path_factory.mktemp("variants") / "library.so", build)
    weights = {"w0": np.random.default_rng(0).standard_normal((8, 16)).astype("float32")}
    factors = {"fast": (1.0, 2.0), "frugal": (1.25, 1.0)}
    entries = []
    for batch, name in VARIANTS:
        time_s, energy_j = (1e-3 * factor * batch**0.9 for factor in factors[name])
        budget = Budget(time_s, "measured", energy_j, "estimated", energy_j / time_s)
        entries.append(entry(batch, function=f"main_b{batch}_{name}", variant=name, predicted=budget, measured=budget))
    return Compiled(manifest(*entries, variants=("fast", "frugal")), library, weights, {})


VARIANTS = ((1, "frugal"), (1, "fast"), (2, "frugal"), (2, "fast"), (4, "fast"))
