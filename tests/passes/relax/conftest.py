"""Small Relax modules, graphs under TVM's own lowering, and what both compute."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

from joulec.costdb.cost import Cost
from joulec.passes.kernels.target import cpu_target
from joulec.passes.relax.backend import KernelAlgorithm, RelaxBackEnd
from joulec.passes.relax.export import Exporter
from joulec.passes.relax.importer import import_relax
from joulec.passes.relax.reference import relax_reference
from joulec.passes.search.choices import Choice
from joulec.profiler.roofline import Roofline

TARGET = cpu_target("llvm", 1)
FREE = Cost(1.0, 1.0, "estimated", "estimated")


def weight(*shape, seed=0, positive=False):
    """A seeded constant."""
    array = np.random.default_rng((seed, *shape)).standard_normal(shape).astype("float32")
    return relax.const(np.abs(array) + 0.5 if positive else array)


def module(body, *shapes, names=None, pure=True, dtypes=None):
    """An IRModule whose ``main`` computes ``body(builder, *parameters)``."""
    builder = relax.BlockBuilder()
    names = names or [f"x{index}" for index in range(len(shapes))]
    dtypes = dtypes or ["float32"] * len(shapes)
    parameters = [relax.Var(n, relax.TensorType(s, d)) for n, s, d in zip(names, shapes, dtypes, strict=True)]
    with builder.function("main", parameters, pure=pure):
        if pure:
            with builder.dataflow():
                result = builder.emit_output(body(builder, *parameters))
        else:
            result = builder.emit(body(builder, *parameters))
        builder.emit_func_output(result)
    return builder.get()


def back_end(**changes):
    """A back end of this machine's target with a made-up device."""
    given = {
        "target": TARGET,
        "device": "cpu|test",
        "compiler": "tvm-test",
        "energy_source": "estimated",
        "protocol": "adaptive-1",
        "roofline": Roofline(1e12, 1e12),
    }
    return RelaxBackEnd(**{**given, **changes})


def plain(graph):
    """Every node under TVM's own lowering."""
    return {node: Choice(KernelAlgorithm(None, (), TARGET, Roofline(1e12, 1e12)), FREE) for node in graph.nodes}


def native(graph):
    """Every node under the first algorithm of the back end."""
    backend = back_end()
    return {node: Choice(backend.algorithms(node.spec)[0], FREE) for node in graph.nodes}


def given_for(values, seed=0):
    """Random inputs by name."""
    rng = np.random.default_rng(seed)
    return {value.name: rng.standard_normal(value.type.shape).astype(value.type.dtype) for value in values}


def exported(graph, assignment=None, **options):
    """The module that computes a graph, weights inside."""
    exporter = Exporter(embed=True)
    exporter.add("main", graph, plain(graph) if assignment is None else assignment, **options)
    return exporter.finish().module


def round_trip(original, assign=plain):
    """Import, export, and compare what both modules compute; returns the graph."""
    graph = import_relax(original)
    names = [value.name for value in graph.inputs]
    given = given_for(graph.inputs)
    wanted = relax_reference(original, names).run(given)
    found = relax_reference(exported(graph, assign(graph)), names).run(given)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    return graph


def run_module(mod, *arrays, function="main"):
    """All outputs of a function of a module."""
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    result = machine[function](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays))
    return [part.numpy() for part in ([result] if hasattr(result, "numpy") else result)]


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file (test modules cannot import it)."""
    return SimpleNamespace(
        FREE=FREE,
        TARGET=TARGET,
        back_end=back_end,
        exported=exported,
        given_for=given_for,
        module=module,
        native=native,
        plain=plain,
        round_trip=round_trip,
        run_module=run_module,
        weight=weight,
    )
