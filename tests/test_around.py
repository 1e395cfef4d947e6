"""Models in parts (text, sequences, optionals, sizes that depend on data), compiled and compared with the original."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

pytest.importorskip("tvm")

import joulec
from joulec.around import outside_budget
from joulec.compiler import compile_model
from joulec.optimizing import Extras, optimize_model
from joulec.options import CompileOptions
from joulec.passes.onnx import ModelError
from joulec.passes.search.totals import BoundsError
from joulec.passes.verification import VerificationError, largest_error
from joulec.progress import Silent
from joulec.runtime.inputs import InputError
from joulec.runtime.manifest import Budget, Manifest
from joulec.runtime.parts import Part, Parts

sys.path.append(str(Path(__file__).parent / "support"))

import part_models as parts
from part_models import FLOAT, INT64, STRING, build, nested, normal, value

RNG = np.random.default_rng(1)


class Heard(Silent):
    """Keeps warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def options(**changes):
    return CompileOptions(**{"costs": "model", "budget": 0, "measure": False, "threads": 1, **changes})


def compiled(source, **changes):
    heard = Heard()
    return compile_model(source, options(**changes), heard), heard.warnings


def original(source, given):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)


def agree(found, wanted):
    found = found if isinstance(found, tuple) else (found,)
    assert [np.asarray(one).dtype for one in found] == [np.asarray(one).dtype for one in wanted]
    assert largest_error(found, wanted) <= 1e-5


def engines(model):
    there = model.manifest.parts.there
    return {part.place: (part.engine, part.operators) for part in there}


def test_a_detector_gives_as_many_boxes_as_it_finds(tmp_path):
    source = parts.detector()
    made, warnings = compiled(source)
    assert engines(made.model) == {"tail": ("onnxruntime", "NonMaxSuppression+Gather+Shape")}
    assert "'nms' (NonMaxSuppression)" in warnings[0]
    assert "of the nodes, it runs in onnxruntime, after the compiled function" in warnings[0]
    assert {"conv2d", "transpose"} <= {one.operator for one in made.model.entry(1).assignment}
    path = made.model.save(tmp_path / "detector.joulec")
    made.model.close()
    counts = set()
    with joulec.load(path) as model:
        assert model.output_names == ("found", "scores", "count")
        for scale in (0.1, 0.5, 1, 4):
            image = (scale * RNG.standard_normal((1, 3, 32, 32))).astype(np.float32)
            found = model(image=image)
            agree(found, original(source, {"image": image}))
            counts.add(len(found[0]))
        steps = model.profile(1, repeats=3)
        assert steps[-1].assigned.node == "tail"
        assert model.time(1, repeats=2, window_s=0.01, most_windows=3).budget.time_s > 0
        with pytest.raises(InputError, match=r"'image' must be float32\[1,3,32,32\], not float32\[3\]"):
            model(np.zeros(3, np.float32))
    assert len(counts) > 1


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants"),
    [
        (
            [helper.make_node("NonZero", ["p"], ["y"])],
            [value("y", [2, "n"], INT64)],
            {},
        ),
        (
            [helper.make_node("Round", ["p"], ["r"]), helper.make_node("Unique", ["r"], ["y", "i", "", "c"], sorted=1)],
            [value("y", ["n"]), value("c", ["n"], INT64)],
            {},
        ),
        (
            [
                helper.make_node("ReduceMax", ["p"], ["m"], keepdims=0, axes=[1]),
                helper.make_node("Greater", ["m", "one"], ["keep"]),
                helper.make_node("Compress", ["p", "keep"], ["rows"], axis=0),
                helper.make_node("Slice", ["rows", "from", "to", "axis"], ["y"]),
                helper.make_node("Reshape", ["rows", "flat"], ["z"]),
            ],
            [value("y", ["n", 2]), value("z", ["k"])],
            {"one": np.float32(1), "from": [0], "to": [2], "axis": [1], "flat": [-1]},
        ),
    ],
)
def test_sizes_that_depend_on_data(nodes, outputs, constants):
    product = helper.make_node("MatMul", ["x", "w"], ["p"], "product")
    for node in nodes:
        if node.op_type == "ReduceMax":
            node.attribute.remove(next(one for one in node.attribute if one.name == "axes"))
            node.input.append("second")
            constants = {**constants, "second": [1]}
    source = build([product, *nodes], [value("x", [4, 5])], outputs, {"w": normal(5, 6), **constants})
    made, _ = compiled(source)
    with made.model as model:
        assert list(engines(model)) == ["tail"]
        for scale in (0.0, 0.3, 1.0, 3.0):
            x = (scale * RNG.standard_normal((4, 5))).astype(np.float32)
            agree(model(x), original(source, {"x": x}))


def test_a_loop_over_the_rows_that_were_found():
    source = parts.looped()
    made, _ = compiled(source)
    with made.model as model:
        assert {one.operator for one in model.manifest.entries[0].assignment} >= {"matmul"}
        for _ in range(3):
            x = RNG.standard_normal((9, 5)).astype(np.float32)
            agree(model(x), original(source, {"x": x}))


@pytest.mark.parametrize("onnxruntime", [True, False])
def test_text_before_and_after_a_product(monkeypatch, tmp_path, onnxruntime):
    source = parts.text_classifier()
    words = np.array(["Good", "film", "unheard-of"], object)
    wanted = original(source, {"words": words})
    if not onnxruntime:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setitem(sys.modules, "onnxruntime.capi", None)
    made, warnings = compiled(source)
    engine = "onnxruntime" if onnxruntime else "onnx.reference"
    assert engines(made.model) == {"head": (engine, "StringNormalizer+LabelEncoder"), "tail": (engine, "LabelEncoder")}
    assert any("joulec[onnxruntime]" in warning for warning in warnings) != onnxruntime
    nodes = [one["node"] for one in made.report["entries"]["3"]["assignment"]]
    assert (nodes[0], nodes[-1]) == ("head", "tail")
    assert made.report["verified"]["inputs"] == 3
    path = made.model.save(tmp_path / "text.joulec")
    made.model.close()
    with joulec.load(path) as model:
        for given in (words, words.astype(str), list(words)):
            agree(model(given), wanted)
        assert [one.dtype for one in model.random_inputs(3)] == [np.dtype(object)]
        with pytest.raises(InputError, match=r"'words' must be text\[3\], not text\[2\]"):
            model(words[:2])
        with pytest.raises(InputError, match=r"must be text\[3\], not float64\[3\]"):
            model(np.zeros(3))


def test_words_that_are_left_out_and_accents_that_are_kept():
    node = helper.make_node("StringNormalizer", ["x"], ["y"], is_case_sensitive=1, stopwords=["the"])
    source = build([node], [value("x", [3], STRING)], [value("y", [2], STRING)])
    made, _ = compiled(source)
    assert made.report["verified"]["inputs"] == 3
    with made.model as model:
        assert model(["the", "naïve", ""]).tolist() == ["naïve", ""]
        assert model(["a", "b", "c"]).tolist() == ["a", "b", "c"]


def test_a_model_without_numbers_compiles_to_nothing_but_its_parts(tmp_path):
    nodes = [helper.make_node("StringConcat", ["a", "b"], ["y"])]
    graph = helper.make_graph(
        nodes, "words", [value("a", [2], STRING), value("b", [2], STRING)], [value("y", [2], STRING)]
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    made, _ = compiled(source, measure=True)
    assert made.report["entries"]["2"]["measured"]["time_s"] > 0
    assert [one["node"] for one in made.report["entries"]["2"]["assignment"]] == ["head"]
    path = made.model.save(tmp_path / "words.joulec")
    made.model.close()
    with joulec.load(path) as model:
        assert model(["a", "ü"], ["b", ""]).tolist() == ["ab", "ü"]
        assert [step.assigned.node for step in model.profile(2)] == ["head"]
        manifest = model.manifest
        assert Manifest.from_json(manifest.to_json()) == manifest


def test_sequences_go_in_and_come_out():
    nodes = [
        helper.make_node("SequenceAt", ["many", "second"], ["one"]),
        helper.make_node("Concat", ["one", "x"], ["both"], axis=0),
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("SequenceInsert", ["many", "p"], ["more"]),
    ]
    inputs = [nested("many", FLOAT, "sequence"), value("x", [2, 3])]
    outputs = [value("both", ["n", 3]), nested("more", FLOAT, "sequence"), value("p", [2, 3])]
    source = build(nodes, inputs, outputs, {"second": 1, "w": normal(3, 3)})
    made, _ = compiled(source)
    with made.model as model:
        assert "matmul" in {one.operator for one in model.entry(2).assignment}
        given = {"many": [normal(1, 3), normal(4, 3)], "x": normal(2, 3)}
        both, more, product = model(**given)
        wanted = original(source, given)
        assert largest_error((both, more, product), wanted) <= 1e-5
        assert [one.shape for one in more] == [(1, 3), (4, 3), (2, 3)]
        with pytest.raises(InputError, match=r"'many' must be sequence\(float32\), not float32\[2\]"):
            model(many=np.zeros(2, np.float32), x=given["x"])


def test_optionals_may_be_missing():
    body = [
        helper.make_graph(
            [helper.make_node("OptionalGetElement", ["maybe"], ["got"])], "there", [], [value("got", [2, 3])]
        ),
        helper.make_graph([helper.make_node("Identity", ["x"], ["same"])], "missing", [], [value("same", [2, 3])]),
    ]
    nodes = [
        helper.make_node("OptionalHasElement", ["maybe"], ["has"]),
        helper.make_node("If", ["has"], ["chosen"], then_branch=body[0], else_branch=body[1]),
        helper.make_node("MatMul", ["chosen", "w"], ["y"], "product"),
    ]
    source = build(
        nodes, [nested("maybe", FLOAT, "optional"), value("x", [2, 3])], [value("y", [2, 4])], {"w": normal(3, 4)}
    )
    made, _ = compiled(source)
    with made.model as model:
        assert {one.operator for one in model.entry(2).assignment} == {"matmul"}
        x, other = normal(2, 3), normal(2, 3)
        evaluator = ReferenceEvaluator(source)
        for maybe in (other, None):
            agree(model(maybe=maybe, x=x), evaluator.run(None, {"maybe": maybe, "x": x}))


@pytest.mark.parametrize("engine", ["onnxruntime", "onnx.reference"])
def test_an_optional_comes_out_as_what_it_holds(engine, monkeypatch):
    monkeypatch.setattr("joulec.passes.onnx.engines.has_onnxruntime", lambda: engine == "onnxruntime")
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Optional", ["y"], ["perhaps"])]
    source = build(nodes, [value("x", [2])], [nested("perhaps", FLOAT, "optional"), value("y", [2])])
    made, _ = compiled(source)
    assert engines(made.model) == {"tail": (engine, "Optional")}
    x = normal(2)
    perhaps, y = made.model(x=x)
    np.testing.assert_array_equal(perhaps, np.maximum(x, 0))
    np.testing.assert_array_equal(y, perhaps)


def test_the_optimised_file_keeps_what_stands_around(tmp_path):
    pytest.importorskip("onnxruntime")
    for name, source, given in (
        ("detector", parts.detector(), {"image": normal(1, 3, 32, 32)}),
        ("text", parts.text_classifier(), {"words": np.array(["Good", "book", ""], object)}),
    ):
        path = tmp_path / f"{name}.onnx"
        report, _ = optimize_model(source, options(budget=5), Heard(), Extras(output=path))
        assert report["verified"]["inputs"] == 3
        written = onnx.load(path)
        agree(tuple(original(written, given)), original(source, given))


def test_a_batch_needs_rows():
    with pytest.raises(ModelError, match=r"batch cannot be set to 2: 'found' has no row for each example"):
        compiled(parts.detector(), batch_sizes=[1, 2])
    with pytest.raises(ModelError, match=r"batch cannot be set to 2: 'words' is text, of which rows are not set"):
        compiled(parts.text_classifier(), batch_sizes=[2])
    made, _ = compiled(parts.detector(), batch_sizes=[1])
    made.model.close()


def test_bounds_hold_for_the_whole():
    with pytest.raises(BoundsError, match="outside of the compiled function alone takes"):
        compiled(parts.detector(), max_time_s=1e-9)


def test_a_session_takes_one_call_at_a_time():
    source = parts.text_classifier()
    made, _ = compiled(source)
    with made.model as model:
        words = np.array(["bad", "book", "x"], object)
        with model.session() as session:
            agree(session.submit(words).result(timeout=30), original(source, {"words": words}))
        with pytest.raises(ValueError, match="batch size cannot be chosen"):
            model.session(batch_sizes=[1, 2])


def test_a_part_that_computes_something_else_is_found(monkeypatch):
    """The compiled function is right; what follows it is not."""
    from joulec.runtime.staging import Staging

    honest = Staging.after

    def after(self, values):
        return tuple(one + 1 if one.dtype == np.float32 else one for one in honest(self, values))

    monkeypatch.setattr(Staging, "after", after)
    with pytest.raises(
        VerificationError, match="before or after the compiled function is at fault; nothing was written"
    ):
        compiled(parts.detector())


def test_rounding_that_decides_in_the_tail_is_no_fault(monkeypatch):
    """The sine of large numbers turns rounding of what is compiled into numbers of another sign."""
    from joulec.runtime.executor import Executor

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Greater", ["p", "zero"], ["above"]),
        helper.make_node("Flatten", ["above"], ["flat"], axis=0),
        helper.make_node("Squeeze", ["flat"], ["keep"]),
        helper.make_node("Compress", ["p", "keep"], ["found"]),
        helper.make_node("Mul", ["found", "large"], ["far"]),
        helper.make_node("Sin", ["far"], ["y"]),
    ]
    constants = {"w": normal(5, 6), "zero": np.float32(0), "large": np.float32(1e9)}
    source = build(nodes, [value("x", [4, 5])], [value("y", ["n"])], constants)
    exact = Executor.run

    def rounded(self, name, arrays):
        return tuple(
            one * np.float32(1 + 2**-22) if one.dtype == np.float32 else one for one in exact(self, name, arrays)
        )

    monkeypatch.setattr(Executor, "run", rounded)
    made, warnings = compiled(source)
    made.model.close()
    assert made.report["verified"]["max_relative_error"] <= 1e-5
    assert "rounding decides there" in warnings[-1]


def test_a_classifier_with_labels_and_probabilities_by_label():
    """As scikit-learn's are exported: the label as text, the scores as a sequence of maps."""
    classes = ["cat", "dog", "bird"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node(
            "LinearClassifier",
            ["r"],
            ["label", "scores"],
            "classify",
            domain="ai.onnx.ml",
            classlabels_strings=classes,
            coefficients=normal(3 * 6).tolist(),
            intercepts=[0.1, 0.2, 0.3],
            post_transform="SOFTMAX",
            multi_class=1,
        ),
        helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_strings=classes),
    ]
    mapped = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    outputs = [
        value("label", [2], STRING),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(mapped)),
    ]
    source = build(nodes, [value("x", [2, 5])], outputs, {"w": normal(5, 6)}, ["ai.onnx.ml"])
    made, _ = compiled(source)
    with made.model as model:
        assert "matmul" in {one.operator for one in model.entry(2).assignment}
        x = normal(2, 5)
        label, probabilities = model(x)
        wanted = original(source, {"x": x})
        assert label.tolist() == list(wanted[0])
        assert [list(one) for one in probabilities] == [classes, classes] or set(probabilities[0]) == set(classes)
        assert largest_error([probabilities], [wanted[1]]) <= 1e-5


@pytest.mark.parametrize(
    ("part", "own", "time_s", "energy", "source"),
    [
        ((1e-3, 0.5, "nvml"), Budget(2e-3, "measured", 1.0, "nvml", 500.0), 3e-3, 1.5, "nvml"),
        ((1e-3, 0.5, "estimated"), Budget(2e-3, "measured", 1.0, "nvml", 500.0), 3e-3, 1.5, "estimated"),
        ((1e-3, 0.5, "estimated"), Budget(0.0, "measured"), 1e-3, 0.5, "estimated"),
        ((1e-3, None, None), Budget(2e-3, "measured", 1.0, "nvml", 500.0), 3e-3, None, None),
        ((None, None, None), Budget(2e-3, "measured", 1.0, "nvml", 500.0), None, None, None),
    ],
)
def test_a_call_costs_what_its_parts_cost_where_that_is_known(part, own, time_s, energy, source):
    tail = Part("tail", "reference-t", "onnx.reference", "NonZero", 1, (), (), *part)
    found = outside_budget(SimpleNamespace(parts=Parts((), (), None, tail)), own)
    assert found.time_s == pytest.approx(time_s)
    assert found.energy_j == pytest.approx(energy)
    assert found.energy_source == source
