"""ONNX's own node tests, and which of them are asked of joulec."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True)
class NodeCase:
    """One node test with its first data set (no node test has a second).

    Attributes:
        core: all its data are numpy arrays and no operator is random. The others hold sequences, optionals, single
            numbers in place of arrays, or types that numpy lacks (four-bit integers, eight-bit floats).
    """

    name: str
    model: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    rtol: float
    atol: float
    core: bool

    @property
    def operators(self) -> tuple[str, ...]:
        """Operator types of the model, in order of appearance."""
        return tuple(dict.fromkeys(node.op_type for node in self.model.graph.node))


def load_cases() -> list[NodeCase]:
    """All node tests of the installed onnx package, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return sorted((_case(one) for one in found), key=lambda case: case.name)


def _case(one: Any) -> NodeCase:
    inputs, outputs = one.data_sets[0]
    arrays = all(isinstance(array, np.ndarray) for array in (*inputs, *outputs))
    random = any(node.op_type in RANDOM for node in one.model.graph.node)
    return NodeCase(one.name, one.model, tuple(inputs), tuple(outputs), one.rtol, one.atol, core=arrays and not random)
