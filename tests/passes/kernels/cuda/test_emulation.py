"""The CUDA source of every algorithm, run with its blocks as threads of the CPU, against numpy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

from joulec.passes.graph import Weight
from joulec.passes.graph.evaluate import evaluate_node

sys.path.append(str(Path(__file__).parents[1] / "support"))

from cuda_cases import device_source, one_of_each, target
from cuda_emulation import Emulated

A100 = target("sm_80")
CASES = one_of_each(A100)


@pytest.fixture(scope="module")
def functions():
    built = {name: kernel.build(node.spec, params, A100) for name, (node, kernel, params) in CASES.items()}
    return {name: function.with_attr("global_symbol", name) for name, function in built.items()}


@pytest.fixture(scope="module")
def emulated(functions, tmp_path_factory):
    compiler = shutil.which("g++")
    version = (
        subprocess.run([compiler, "-dumpversion"], capture_output=True, encoding="utf-8", check=True).stdout
        if compiler
        else ""
    )
    if int(version.partition(".")[0] or 0) < 11:
        pytest.skip("CUDA source is run by way of g++ 11 or newer, for C++20's barriers")
    module = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(A100.options)).mod
    return Emulated(device_source(module), tmp_path_factory.mktemp("emulated"))


@pytest.mark.parametrize("name", CASES)
def test_its_source_computes_what_numpy_does(name, functions, emulated):
    """Barriers, shared memory and exchanges within warps included."""
    node, kernel, params = CASES[name]
    rng = np.random.default_rng(7)
    arrays = [
        operand.value() if isinstance(operand, Weight) else rng.standard_normal(operand.type.shape).astype("float32")
        for operand in node.operands
    ]
    packed = [
        kernel.pack(node.spec, params, A100, index, array) if isinstance(operand, Weight) else array
        for index, (operand, array) in enumerate(zip(node.operands, arrays, strict=True))
    ]
    expected = evaluate_node(node, [array.astype(np.float64) for array in arrays])
    for result, value in zip(emulated.run(name, functions[name], packed), expected, strict=True):
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(result, value, rtol=0, atol=2e-5 * scale)
