"""Relax functions to graphs and back."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from joulec.passes.graph import Opaque, TensorType
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relax.importer import import_relax

op = relax.op


def kinds(graph):
    return sorted(node.op.name for node in graph.nodes)


def statistics(tools, channels):
    return [tools.weight(channels, seed=1, positive=True), *(tools.weight(channels, seed=s) for s in (2, 3))]


def test_a_network_comes_back_with_the_same_numbers(tools):
    """Convolution, batch norm, activations, concat, split, views, dropout, pooling, and operators without model."""

    def network(builder, x):
        emit, weight = builder.emit, tools.weight
        gamma, beta, mean = statistics(tools, 8)
        variance = weight(8, seed=4, positive=True)
        a = emit(op.nn.conv2d(x, weight(8, 4, 3, 3), padding=1))
        a = emit(op.add(a, weight(1, 8, 1, 1)))
        normed = emit(op.nn.batch_norm(a, gamma, beta, mean, variance, axis=1, training=False))
        a = emit(op.nn.relu(emit(relax.TupleGetItem(normed, 0))))
        b = emit(op.nn.leakyrelu(emit(op.nn.conv2d(x, weight(6, 4, 1, 1))), alpha=0.2))
        joined = emit(op.concat([a, b], axis=-3))
        parts = emit(op.split(joined, [4, 10], axis=1))
        first, middle = (emit(relax.TupleGetItem(parts, index)) for index in (0, 1))
        pooled = emit(op.nn.max_pool2d(middle, (2, 2), (2, 2), ceil_mode=True))
        pooled = emit(op.nn.avg_pool2d(pooled, (2, 2), (1, 1), (1, 0, 0, 1), count_include_pad=True))
        turned = emit(op.permute_dims(pooled, [0, 2, 3, 1]))
        flat = emit(op.flatten(emit(op.squeeze(emit(op.expand_dims(turned, axis=0)), axis=0))))
        flat = emit(op.reshape(flat, (2, -1)))
        kept = emit(relax.TupleGetItem(emit(op.nn.dropout(flat, 0.5)), 0))
        dense = emit(op.matmul(kept, weight(int(kept.ty.shape[1]), 5)))
        scores = emit(op.nn.softmax(op.clip(dense, -3.0, 3.0), axis=-1))
        spatial = emit(op.mean(first, axis=[2, 3]))
        rest = emit(op.divide(op.sigmoid(spatial), op.add(op.exp(op.tanh(spatial)), relax.const(1.0, "float32"))))
        both = emit(op.multiply(op.subtract(spatial, rest), op.sqrt(op.abs(op.erf(spatial)))))
        return relax.Tuple([scores, both, emit(op.nn.adaptive_avg_pool2d(first, (1, 1)))])

    graph = tools.round_trip(tools.module(network, (2, 4, 7, 7)))
    names = kinds(graph)
    for expected in ("avg_pool2d", "channel_affine", "concat", "conv2d", "matmul", "max_pool2d", "softmax", "split"):
        assert expected in names
    assert [name for name in names if name.startswith("opaque")] == ["opaque.relax.abs", "opaque.relax.mean"]
    assert "dropout" not in " ".join(names)
    assert len(graph.outputs) == 3
    assert graph.output_names == ("output0", "output1", "output2")


def test_what_is_modelled_means_in_numpy_what_tvm_computes(tools):
    def network(builder, x):
        pooled = op.nn.avg_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True)
        return op.nn.relu(op.nn.conv2d(pooled, tools.weight(4, 1, 2, 2), groups=2, strides=(1, 2), dilation=(2, 1)))

    original = tools.module(network, (1, 2, 9, 8))
    graph = import_relax(original)
    given = tools.given_for(graph.inputs)
    (found,) = evaluate(graph, given)
    np.testing.assert_allclose(found, tools.run_module(original, *given.values())[0], rtol=1e-5, atol=1e-5)


def test_functions_of_the_users_own_stay_as_they_are(tools):
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def twice(a: T.handle, b: T.handle):
            x = T.match_buffer(a, (2, 3))
            y = T.match_buffer(b, (2, 3))
            for i, j in T.grid(2, 3):
                with T.sblock("twice"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    y[vi, vj] = x[vi, vj] * T.float32(2)

        @R.function(private=True)
        def shifted(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            return R.add(x, R.const(1.0, "float32"))

        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            cls = Module
            with R.dataflow():
                a = R.nn.relu(x)
                b = R.call_tir(cls.twice, (a,), out_ty=R.Tensor((2, 3), "float32"))
                c = cls.shifted(b)
                d = R.call_tir(cls.twice, (c,), out_ty=R.Tensor((2, 3), "float32"))
                R.output(d)
            return d

    graph = tools.round_trip(Module)
    assert kinds(graph) == ["activation", "opaque.shifted", "opaque.twice", "opaque.twice"]
    first, second = (node for node in graph.nodes if node.op.name == "opaque.twice")
    assert first.spec == second.spec, "one definition is measured once"
    assert not graph.effects


class TestEffects:
    """Impure calls."""

    @pytest.fixture
    def ticks(self):
        """A packed function that counts its calls and adds the count."""
        calls = []

        @tvm.register_global_func("test.joulec.tick", override=True)
        def tick(x):
            calls.append(x.numpy().copy())
            return tvm.runtime.tensor(x.numpy() + np.float32(len(calls)))

        return calls

    @staticmethod
    def tick(x):
        return relax.Call(relax.ExternFunc("test.joulec.tick"), [x], ty_args=[x.ty])

    def test_two_equal_calls_are_two_calls_in_their_order(self, tools, ticks):
        def body(builder, x):
            first = builder.emit(self.tick(x))
            second = builder.emit(self.tick(x))
            return op.subtract(op.multiply(second, relax.const(10.0, "float32")), first)

        original = tools.module(body, (2,), pure=False)
        graph = import_relax(original)
        assert len(graph.effects) == 2
        x = np.array([1.0, 2.0], "float32")
        (found,) = tools.run_module(tools.exported(graph), x)
        assert len(ticks) == 2
        np.testing.assert_allclose(found, 10 * (x + 2) - (x + 1))

    def test_a_call_whose_result_nobody_reads_is_made(self, tools, ticks):
        def body(builder, x):
            builder.emit(self.tick(builder.emit(op.nn.relu(x))))
            return op.exp(x)

        graph = import_relax(tools.module(body, (2,), pure=False))
        tools.run_module(tools.exported(graph), np.array([-1.0, 2.0], "float32"))
        assert [call.tolist() for call in ticks] == [[0.0, 2.0]]

    def test_a_call_without_a_result_is_made(self, tools, capfd):
        def body(builder, x):
            builder.emit(op.print(x, format="seen {}"))
            builder.emit(op.print(x, format="seen {}"))
            return op.nn.relu(x)

        original = tools.module(body, (2,), pure=False)
        graph = import_relax(original)
        assert [node.op.pure for node in graph.nodes if isinstance(node.op, Opaque)] == [False, False]
        again = tools.exported(graph)
        capfd.readouterr()
        (found,) = tools.run_module(again, np.array([-1.0, 2.0], "float32"))
        np.testing.assert_equal(found, [0, 2])
        assert capfd.readouterr().out.count("seen") == 2
        assert not again["main"].is_pure

    def test_a_call_declared_pure_is_none(self, tools, ticks):
        def body(builder, x):
            return op.call_pure_packed("test.joulec.tick", x, ty_args=[x.ty])

        graph = import_relax(tools.module(body, (2,)))
        assert not graph.effects
        (found,) = tools.run_module(tools.exported(graph), np.zeros(2, "float32"))
        np.testing.assert_equal(found, [1, 1])

    def test_overwriting_an_operand_is_refused(self, tools):
        @I.ir_module
        class Module:
            @T.prim_func(private=True, s_tir=True)
            def bump(a: T.handle):
                x = T.match_buffer(a, (4,))
                for i in range(4):
                    with T.sblock("bump"):
                        vi = T.axis.spatial(4, i)
                        x[vi] = x[vi] + T.float32(1)

            @R.function
            def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
                cls = Module
                with R.dataflow():
                    a = R.nn.relu(x)
                    b = R.exp(a)
                    c = R.call_tir_inplace(cls.bump, (a,), inplace_indices=[0], out_ty=R.Tensor((4,), "float32"))
                    d = R.add(c, b)
                    R.output(d)
                return d

        with pytest.raises(ImportModuleError, match="call_tir_inplace, which overwrites"):
            import_relax(Module)


class TestUnlikeAttributes:
    """What an operator of the graph does not cover stays a call of its own, and right."""

    @pytest.mark.parametrize(
        ("body", "shape", "name"),
        [
            (
                lambda t, x: op.nn.conv2d(x, t.weight(3, 3, 2, 4), data_layout="NHWC", kernel_layout="HWIO"),
                (1, 5, 5, 2),
                "nn.conv2d",
            ),
            (lambda t, x: op.nn.max_pool2d(x, (2, 2), layout="NHWC"), (1, 5, 5, 2), "nn.max_pool2d"),
            (lambda t, x: op.nn.adaptive_avg_pool2d(x, (2, 2)), (1, 2, 5, 5), "nn.adaptive_avg_pool2d"),
            (lambda t, x: op.matmul(x, t.weight(4, 3), out_dtype="float64"), (2, 4), "matmul"),
            (lambda t, x: op.matmul(x, t.weight(4)), (2, 4), "matmul"),
            (lambda t, x: op.topk(x, 2, axis=1), (2, 4), "topk"),
        ],
    )
    def test_stays_opaque(self, tools, body, shape, name):
        graph = tools.round_trip(tools.module(lambda builder, x: body(tools, x), shape))
        assert kinds(graph) == [f"opaque.relax.{name}"]

    def test_batch_norm_in_training_is_not_folded(self, tools):
        def body(builder, x):
            gamma, beta, mean = statistics(tools, 3)
            variance = tools.weight(3, seed=4, positive=True)
            return builder.emit(op.nn.batch_norm(x, gamma, beta, mean, variance, axis=1, training=True))

        graph = tools.round_trip(tools.module(body, (2, 3, 4, 4)))
        assert kinds(graph) == ["opaque.relax.nn.batch_norm"]
        assert len(graph.outputs) == 3

    def test_batch_norm_keeps_scale_and_centre_off(self, tools):
        def body(builder, x):
            gamma, beta, mean = statistics(tools, 3)
            variance = tools.weight(3, seed=4, positive=True)
            call = op.nn.batch_norm(
                x, gamma, beta, mean, variance, axis=1, epsilon=1e-2, center=False, scale=False, training=False
            )
            return builder.emit(relax.TupleGetItem(builder.emit(call), 0))

        assert kinds(tools.round_trip(tools.module(body, (2, 3, 4, 4)))) == ["channel_affine"]

    def test_batch_norm_with_computed_statistics_is_a_call(self, tools):
        def body(builder, x, mean):
            gamma, beta, _ = statistics(tools, 3)
            call = op.nn.batch_norm(x, gamma, beta, mean, gamma, axis=1, training=False)
            return builder.emit(relax.TupleGetItem(builder.emit(call), 0))

        assert kinds(tools.round_trip(tools.module(body, (2, 3, 4, 4), (3,)))) == ["opaque.relax.nn.batch_norm"]

    def test_other_dtypes_stay_calls(self, tools):
        def body(builder, x):
            whole = op.astype(x, "int32")
            return op.astype(op.add(whole, relax.const(3, "int32")), "float32")

        assert all(name.startswith("opaque") for name in kinds(tools.round_trip(tools.module(body, (2, 5)))))


class TestValues:
    """Inputs, outputs and constants."""

    def test_an_input_may_be_returned_and_a_result_twice(self, tools):
        def body(builder, x, unused):
            a = builder.emit(op.nn.relu(x))
            return relax.Tuple([a, x, a])

        graph = tools.round_trip(tools.module(body, (1, 5), (2,)))
        assert graph.outputs[0] == graph.outputs[2] != graph.outputs[1] == graph.inputs[0]
        assert len(graph.inputs) == 2

    def test_one_tensor_may_pass_straight_through(self, tools):
        assert tools.round_trip(tools.module(lambda builder, x: x, (1, 5))).nodes == ()

    def test_a_tuple_of_one_stays_a_tuple(self, tools):
        original = tools.module(lambda builder, x: relax.Tuple([op.exp(x)]), (3,))
        graph = import_relax(original)
        again = tools.exported(graph)
        assert isinstance(again["main"].ret_ty, relax.TupleType)
        assert not isinstance(tools.exported(graph, always_tuple=False)["main"].ret_ty, relax.TupleType)

    def test_results_of_a_split_may_stay_unused(self, tools):
        def body(builder, x):
            return relax.TupleGetItem(builder.emit(op.split(x, [2, 3], 1)), 1)

        assert kinds(tools.round_trip(tools.module(body, (1, 5)))) == ["split"]

    def test_parameters_of_one_name_are_told_apart(self, tools):
        def body(builder, x, y, z):
            return op.subtract(op.subtract(x, y), op.multiply(z, z))

        graph = tools.round_trip(tools.module(body, (3,), (3,), (3,), names=["x", "x", "x_2"]))
        assert len({value.name for value in graph.inputs}) == 3
        assert graph.inputs[0].name == "x"
        assert graph.inputs[2].name == "x_2"
        assert graph.inputs[1].name not in ("x", "x_2")

    def test_constants_are_read_and_views_of_them_folded(self, tools):
        def body(builder, x):
            turned = builder.emit(op.permute_dims(tools.weight(4, 3)))
            return op.matmul(op.reshape(x, (2, 4)), op.permute_dims(turned))

        graph = tools.round_trip(tools.module(body, (8,)))
        assert kinds(graph) == ["matmul", "reshape"]

    def test_equal_calls_are_one_node(self, tools):
        def body(builder, x):
            return op.add(builder.emit(op.mean(x, [1])), builder.emit(op.mean(x, [1])))

        assert kinds(tools.round_trip(tools.module(body, (2, 5)))) == ["add", "opaque.relax.mean"]

    def test_types(self, tools):
        graph = import_relax(tools.module(lambda builder, x: op.nn.relu(x), (2, 5), names=["data"]))
        assert graph.inputs[0].type == TensorType((2, 5))
        assert graph.inputs[0].name == "data"


class TestErrors:
    """Modules that cannot be read."""

    def test_missing_function(self, tools):
        mod = tools.module(lambda builder, x: op.nn.relu(x), (2,))
        with pytest.raises(ImportModuleError, match="no Relax function 'other'; it has main"):
            import_relax(mod, "other")

    def test_a_kernel_is_no_function(self):
        @I.ir_module
        class Module:
            @T.prim_func
            def main(a: T.handle):
                T.evaluate(0)

        with pytest.raises(ImportModuleError, match="no Relax function 'main'"):
            import_relax(Module)

    def test_symbolic_shapes(self):
        @I.ir_module
        class Module:
            @R.function
            def main(x: R.Tensor(("n", 3), "float32")) -> R.Tensor(("n", 3), "float32"):
                with R.dataflow():
                    y = R.nn.relu(x)
                    R.output(y)
                return y

        with pytest.raises(ImportModuleError, match="BindSymbolicVars"):
            import_relax(Module)
        bound = relax.transform.BindSymbolicVars({"n": 4})(Module)
        assert import_relax(bound).inputs[0].type.shape == (4, 3)

    def test_unknown_shapes_and_parameters_that_are_no_tensors(self):
        unknown = relax.Var("x", relax.TensorType(None, "float32", ndim=2))
        shape = relax.Var("s", relax.ShapeType([2, 3]))
        for parameter, reason in ((unknown, "no fixed shape"), (shape, "not a tensor")):
            builder = relax.BlockBuilder()
            with builder.function("main", [parameter]):
                builder.emit_func_output(parameter)
            with pytest.raises(ImportModuleError, match=reason):
                import_relax(builder.get())

    def test_control_flow(self):
        @I.ir_module
        class Module:
            @R.function
            def main(c: R.Tensor((), "bool"), x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
                if c:  # noqa: SIM108
                    y = R.nn.relu(x)
                else:
                    y = R.exp(x)
                return y

        with pytest.raises(ImportModuleError, match="control flow"):
            import_relax(Module)

    def test_results(self, tools):
        nested = tools.module(lambda builder, x: relax.Tuple([relax.Tuple([x, x]), x]), (2,))
        with pytest.raises(ImportModuleError, match="tuple within a tuple"):
            import_relax(nested)
        constant = tools.module(lambda builder, x: relax.Tuple([tools.weight(2), x]), (2,))
        with pytest.raises(ImportModuleError, match="returns a constant"):
            import_relax(constant)
