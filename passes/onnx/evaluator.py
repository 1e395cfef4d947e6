"""ONNX's reference implementation in a process of its own: slow operators can be ended, and it starts once.

Run as a program it answers requests (`joulec.passes.servant`): a model and its inputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.servant import Servant, ServantEnded, ServantTimeout, serve
from joulec.profiler.values import unboxed

_Array = npt.NDArray[Any]


class EvaluationError(RuntimeError):
    """The reference implementation cannot compute the model for these inputs."""


class EvaluationTimeout(RuntimeError):
    """It did not answer in time."""


class Evaluator:
    """The process, started when first asked."""

    def __init__(self) -> None:
        self._servant = Servant("joulec.passes.onnx.evaluator")

    def run(self, model: bytes, given: Mapping[str, _Array], time_limit_s: float) -> Sequence[_Array]:
        """The model's outputs.

        Args:
            model: a serialised ModelProto.
            given: inputs by name; more than it takes may be given.

        Raises:
            EvaluationError: it cannot be computed.
            EvaluationTimeout: it takes longer than the limit.
        """
        try:
            outcome = self._servant.ask((model, dict(given)), time_limit_s)
        except ServantTimeout as error:
            raise EvaluationTimeout(str(error)) from error
        except ServantEnded as error:
            raise EvaluationError("onnx.reference ended while computing the model") from error
        if isinstance(outcome, str):
            raise EvaluationError(outcome)
        found: Sequence[_Array] = outcome
        return found


EVALUATOR = Evaluator()
"""The one of this process."""


def _evaluate(request: tuple[bytes, Mapping[str, _Array]]) -> list[Any] | str:
    import onnx
    from onnx.reference import ReferenceEvaluator

    definition, given = request
    try:
        model = onnx.load_from_string(definition)
        evaluator = ReferenceEvaluator(model)
        with np.errstate(all="ignore"):
            outputs = evaluator.run(None, {name: given[name] for name in evaluator.input_names})
    except Exception as error:  # noqa: BLE001 - its operators are numpy code, which raises whatever it meets
        return " ".join(str(error).split()) or type(error).__name__
    outputs = [unboxed(one, value.type) for one, value in zip(outputs, model.graph.output, strict=True)]
    return [one if isinstance(one, list | dict) or one is None else np.asarray(one) for one in outputs]


if __name__ == "__main__":
    serve(_evaluate)
