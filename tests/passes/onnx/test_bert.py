"""The BERT example: nothing in it is opaque, and what the rules make of it computes the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Activation, Opaque
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx
from joulec.passes.rules import RULES, substitutions


@pytest.fixture(scope="module")
def bert():
    path = Path(__file__).parents[3] / "examples" / "bert.py"
    spec = importlib.util.spec_from_file_location("bert_example", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fuses(spec, step):
    return spec.op.name == "matmul" and not any(done.kind == "activation" for done in spec.epilogue)


def test_it_is_read_whole(bert, agree):
    graph = agree(bert.encoder(layers=2, hidden=12, heads=3, sequence=5, batch=2), seed=3).graph
    assert not any(isinstance(node.op, Opaque) for node in graph.nodes)
    assert len([node for node in graph.nodes if node.op.name == "layer_norm"]) == 4


def test_heads_that_do_not_divide_the_width_are_refused(bert):
    with pytest.raises(ValueError, match="does not divide"):
        bert.encoder(hidden=10, heads=3)


def test_every_substitution_computes_the_same(bert, distance):
    graph = canonicalise(import_onnx(bert.encoder(layers=1, hidden=8, heads=2, sequence=3)).graph, fuses)
    feeds = {"embeddings": np.random.default_rng(1).standard_normal((1, 3, 8)).astype("f")}
    (wanted,) = evaluate(graph, feeds)
    names = set()
    for rule, match in substitutions(graph, RULES):
        names.add(rule.name)
        changed = canonicalise(graph.apply(rule.rewrite(graph, match)), fuses)
        (got,) = evaluate(changed, feeds)
        assert distance(got, wanted) <= 1e-5, rule.name
    assert {"merge-matmuls", "flip-transposed-operand", "scale-factor", "gelu-of-erf", "scale-rows"} <= names


def test_written_out_gelu_becomes_part_of_the_product(bert):
    graph = canonicalise(import_onnx(bert.encoder(layers=1, hidden=8, heads=2, sequence=3)).graph, fuses)
    [(rule, match)] = [found for found in substitutions(graph, RULES) if found[0].name == "gelu-of-erf"]
    changed = canonicalise(graph.apply(rule.rewrite(graph, match)), fuses)
    assert not any(isinstance(node.op, Activation) for node in changed.nodes)
    assert [step.activation for node in changed.nodes for step in node.epilogue if step.kind == "activation"] == [
        "gelu"
    ]
