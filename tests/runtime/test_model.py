"""Compiled models: any rows, any tensors, exact errors; and what runs outside the library."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_support import Compiled, compile_library, entry, manifest, plus_one

from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter, estimate_energy_j
from joulec.runtime import Budget, InputError, Model, ScriptedMeter, TensorInfo, load
from joulec.runtime import executor as executor_module
from joulec.runtime.external import ExternalError, Externals
from joulec.runtime.machines import DeviceMachine, GpuError
from joulec.runtime.rows import padded, split, useful


@pytest.fixture
def model(two_outputs):
    with Model(*two_outputs.parts) as model:
        yield model


def expected(compiled: Compiled, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = np.maximum(x @ compiled.weights["w0"], 0)
    return y, y + 1


def inputs(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 8)).astype("float32")


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 7, 8, 11])
def test_any_number_of_rows(model, two_outputs, rows):
    x = inputs(rows)
    y, z = model(x)
    assert y.shape == z.shape == (rows, 16)
    np.testing.assert_allclose(y, expected(two_outputs, x)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(z, expected(two_outputs, x)[1], rtol=1e-5, atol=1e-6)


def test_one_output_comes_alone_and_inputs_go_by_name(plain):
    with Model(*plain.parts) as model:
        x = inputs(3)
        y = model(x=x)
        assert isinstance(y, np.ndarray)
        np.testing.assert_array_equal(y, model(x))


def test_any_memory(model, two_outputs):
    """Misaligned, read-only, strided and empty-strided arrays, and a DLPack tensor of another library."""
    x = inputs(4)
    want = expected(two_outputs, x)[0]
    buffer = np.empty(4 * 8 * 4 + 64 + 4, dtype=np.uint8)
    shifts = (4 - buffer.ctypes.data) % 64
    misaligned = buffer[shifts : shifts + 4 * 8 * 4].view("float32").reshape(4, 8)
    misaligned[:] = x
    assert misaligned.ctypes.data % 64 == 4
    frozen = x.copy()
    frozen.flags.writeable = False
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    fortran = np.asfortranarray(x)

    class Foreign:
        def __dlpack__(self, **options):
            return x.__dlpack__(**options)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    for value in (misaligned, frozen, strided, fortran, Foreign()):
        np.testing.assert_allclose(model(value)[0], want, rtol=1e-5, atol=1e-6)


def test_results_are_the_caller_s(model):
    first = model(inputs(4, 1))[0]
    kept = first.copy()
    for seed in range(5):
        model(inputs(4, seed + 2))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    assert model(inputs(4, 1))[0].any()


def test_outputs_do_not_alias_inputs_or_weights(tmp_path):
    def build(tvm, builder) -> None:
        from tvm.script import relax as R

        x = tvm.relax.Var("x", R.Tensor((2, 8), "float32"))
        w = tvm.relax.Var("w", R.Tensor((8, 16), "float32"))
        with builder.function("main_b2", [x, w], attrs={"num_input": 1}):
            with builder.dataflow():
                out = builder.emit_output(tvm.relax.Tuple([x, w]))
            builder.emit_func_output(out)

    library = compile_library(tmp_path / "alias.so", build)
    outputs = (TensorInfo("x2", (2, 8)), TensorInfo("w2", (8, 16)))
    described = manifest(entry(2, outputs=outputs), batched=False)
    weights = {"w0": np.ones((8, 16), "float32")}
    with Model(described, library, weights) as model:
        x = np.zeros((2, 8), "float32")
        x2, w2 = model(x)
        x2[:] = w2[:] = 7
        assert not x.any()
        again = model(inputs(2))
        assert (again[1] == 1).all()
        model(inputs(2, 1))
        np.testing.assert_array_equal(again[0], inputs(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(), "input 'x' is missing"),
        (lambda m: m(inputs(1), inputs(1)), "takes 1: x"),
        (lambda m: m(y=inputs(1)), "no input 'y'"),
        (lambda m: m(inputs(1), x=inputs(1)), "by position and by name"),
        (lambda m: m(inputs(1)[:, :7]), r"input 'x' must be float32\[rows,8\], not float32\[1,7\]"),
        (lambda m: m(inputs(1)[0]), r"not float32\[8\]"),
        (lambda m: m(inputs(1).astype("float64")), r"not float64\[1,8\]"),
        (lambda m: m([[1.0] * 8]), "input 'x' is a list"),
        (lambda m: m.run_batch(4, [inputs(3)]), r"must be float32\[4,8\], not float32\[3,8\]"),
        (lambda m: m.run_batch(4, []), "0 inputs were given"),
    ],
)
def test_wrong_inputs(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_batch_sizes_and_run_batch(model, two_outputs):
    assert model.batch_sizes == (1, 4)
    x = inputs(4)
    np.testing.assert_allclose(model.run_batch(4, [x])[1], expected(two_outputs, x)[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="batch size 3 was not compiled; there are 1, 4"):
        model.run_batch(3, [inputs(3)])


def test_exact_shapes_where_rows_are_not_independent(two_outputs):
    fixed = replace(two_outputs, manifest=replace(two_outputs.manifest, batched=False))
    with Model(*fixed.parts) as model:
        assert model(inputs(4))[0].shape == (4, 16)
        with pytest.raises(InputError, match=r"no compiled shapes fit inputs float32\[3,8\]; compiled are x float32"):
            model(inputs(3))
        with pytest.raises(InputError, match="must be float32"):
            model(inputs(4).astype("int32"))


def test_save_and_load(model, two_outputs, tmp_path):
    path = model.save(tmp_path / "m.joulec")
    x = inputs(6)
    with load(path) as loaded:
        path.unlink()
        assert loaded.manifest == model.manifest
        np.testing.assert_array_equal(loaded(x)[1], model(x)[1])
        again = loaded.save(tmp_path / "again.joulec")
    with load(again, threads=1) as third:
        assert third.threads == 1
        np.testing.assert_allclose(third(x)[0], expected(two_outputs, x)[0], rtol=1e-5, atol=1e-6)


def test_loads_in_a_fresh_process_without_leftovers(model, tmp_path):
    path = model.save(tmp_path / "m.joulec")
    (tmp_path / "tmp").mkdir()
    script = (
        "import sys, joulec.runtime, numpy as np\n"
        "assert 'tvm' not in sys.modules\n"
        "model = joulec.runtime.load(sys.argv[1])\n"
        "print(model(np.ones((5, 8), 'float32'))[1].shape)\n"
    )
    env = {"TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, encoding="utf-8", env=env, timeout=60
    )
    assert run.stdout == "(5, 16)\n", run.stderr
    assert list((tmp_path / "tmp").glob("joulec-*")) == []


def test_many_threads_may_call(model, two_outputs):
    wrong = []

    def call(seed: int) -> None:
        x = inputs(1 + seed % 6, seed)
        want = expected(two_outputs, x)[0]
        wrong.extend(seed for _ in range(20) if not np.allclose(model(x)[0], want, rtol=1e-4, atol=1e-5))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_time_measures_calls_and_energy(model):
    timing = model.time(4, repeats=12, window_s=0.0, most_windows=3, warmup=1)
    assert timing.calls == 2 * timing.windows >= 12
    assert 0 < timing.min_s <= timing.median_s
    assert timing.min_s <= timing.budget.time_s
    assert timing.budget == Budget(timing.budget.time_s, "measured")
    metered = model.time(4, repeats=6, window_s=0.0, most_windows=3, meter=ScriptedMeter({4: 50.0}, idle_w=30.0))
    assert metered.budget.energy_source == "simulated"
    assert metered.budget.power_w == pytest.approx(30.0)
    assert metered.budget.energy_j == pytest.approx(30.0 * metered.budget.time_s)
    constants = EnergyConstants("test", 10.0, 1e-9, 1e-9, 1e-9, 1e-9)
    estimated = model.time(4, repeats=6, window_s=0.0, most_windows=3, meter=EstimateMeter(constants)).budget
    assert estimated.energy_source == "estimated"
    assert estimated.energy_j == pytest.approx(estimate_energy_j(model.work(4), estimated.time_s, constants))


def test_annotate_enters_measured_costs(model, tmp_path):
    budget = Budget(1e-3, "measured", 2e-3, "rapl", 2.0)
    model.annotate({(4, None): budget})
    with load(model.save(tmp_path / "m")) as loaded:
        assert loaded.entry(4).measured == budget
        assert loaded.entry(1).measured is None


def test_closed(two_outputs):
    model = Model(*two_outputs.parts)
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model(inputs(1))


def test_a_library_of_another_machine_is_an_error(two_outputs, tmp_path):
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(RuntimeError):
        Model(two_outputs.manifest, bad, two_outputs.weights, two_outputs.externals)


def test_a_library_for_a_gpu_needs_one(two_outputs):
    import tvm

    if tvm.cuda(0).exist:
        pytest.skip("there is a GPU")
    described = replace(two_outputs.manifest, target='{"kind": "cuda", "arch": "sm_90"}')
    assert described.gpu_arch == "sm_90"
    assert two_outputs.manifest.gpu_arch is None
    with pytest.raises(GpuError, match=r"compiled for a GPU \(sm_90\)"):
        Model(*replace(two_outputs, manifest=described).parts)


def test_inputs_and_results_are_copied_where_a_device_has_its_own_memory(two_outputs, monkeypatch):
    """The machine for GPUs on the one device that is always there."""
    monkeypatch.setattr(
        executor_module, "make_machine", lambda _, tvm, library, arch: DeviceMachine(tvm, library, tvm.cpu(0))
    )
    x = inputs(7)
    with Model(*two_outputs.parts) as model:
        y, z = model(x)
        assert model.time(1).budget.time_s
        with pytest.raises(RuntimeError, match="step by step"):
            model.profile(1)
        again = model(inputs(7, seed=1))[0]
    np.testing.assert_allclose(y, expected(two_outputs, x)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(z, expected(two_outputs, x)[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again, expected(two_outputs, inputs(7, seed=1))[0], rtol=1e-5, atol=1e-6)


def test_without_tvm_the_extra_is_named(two_outputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(ImportError, match=r"joulec\[relax\]"):
        Model(*two_outputs.parts)


def test_threads_come_from_the_affinity(two_outputs, monkeypatch):
    monkeypatch.setattr(executor_module, "available_cpus", lambda: 1)
    monkeypatch.setattr("joulec.runtime.model.available_cpus", lambda: 1)
    with Model(*two_outputs.parts) as model:
        assert model.threads == 1
    with pytest.raises(ValueError, match="threads"):
        Model(*two_outputs.parts, threads=0)


def test_an_operator_outside_that_fails_raises_in_the_call(two_outputs):
    definition = plus_one(features=5)  # of another shape than the library calls it with
    (digest,) = two_outputs.externals
    with (
        Model(*replace(two_outputs, externals={digest: definition}).parts) as model,
        pytest.raises(Exception, match="16"),
    ):
        model(inputs(1))
    missing = replace(two_outputs, externals={})
    with Model(*missing.parts) as model, pytest.raises(RuntimeError, match="compile the model again"):
        model(inputs(1))


@pytest.mark.parametrize("onnxruntime", [True, False])
def test_externals(monkeypatch, onnxruntime):
    if onnxruntime:
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setitem(sys.modules, "onnxruntime.capi", None)
    externals = Externals()
    externals.acquire({"a": plus_one()}, 1)
    externals.acquire({"a": plus_one()}, 1)
    for rows in (3, 0, 5):
        x, y = np.ones((rows, 16), "float32"), np.zeros((rows, 16), "float32")
        externals("a", [x, y])
        assert (y == 2).all()
    with pytest.raises(ExternalError, match="two definitions"):
        externals.acquire({"a": plus_one(4)}, 1)
    externals.release(["a"])
    externals("a", [x, y])
    externals.release(["a"])
    with pytest.raises(ExternalError, match="not in the artifact"):
        externals("a", [x, y])


@given(st.integers(0, 300), st.sets(st.integers(1, 64), min_size=1, max_size=6))
def test_split_covers_every_row_once(rows, sizes):
    ordered = sorted(sizes)
    parts = list(split(rows, ordered))
    assert [row for _, start, count in parts for row in range(start, start + count)] == list(range(rows))
    assert all(size in sizes and 1 <= count <= size for size, _, count in parts)
    assert all(count == size for size, _, count in parts[:-1])
    assert [size for size, _, _ in parts] == sorted((size for size, _, _ in parts), reverse=True)


def test_padding_repeats_the_last_row():
    np.testing.assert_array_equal(padded(np.array([[1], [2]]), 4), [[1], [2], [2], [2]])


def test_useful_sizes_end_where_throughput_stops_rising():
    assert useful({1: 1.0, 2: 1.5, 4: 2.5, 8: 5.0, 16: 11.0}) == (1, 2, 4)
    assert useful({1: 1.0, 2: 1.0, 4: 1.0}) == (1, 2, 4)
    assert useful({3: 1.0}) == (3,)


def test_a_library_without_steps_says_so(plain):
    with Model(*plain.parts) as model, pytest.raises(RuntimeError, match="compile the model again"):
        model.profile(1)
