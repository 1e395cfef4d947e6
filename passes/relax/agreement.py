"""Operators that TVM's own ONNX frontend lowers, where the result was seen to agree with ONNX's (docs/adr/0010).

The frontend is silently wrong in places, so nothing of it is believed: what it makes of an operator is compiled and run
in a process of its own, on random inputs, beside ONNX Runtime or ONNX's reference implementation. The outcome is kept
in the cost database like any other: a cost where the two agree, else a failure that says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.store import CostStore
from joulec.passes.digest import source_digest
from joulec.passes.graph import Opaque, Value
from joulec.passes.onnx.engines import engine_for
from joulec.passes.onnx.evaluator import EVALUATOR, EvaluationError, EvaluationTimeout
from joulec.passes.onnx.program import bodies, held_numbers
from joulec.passes.onnx.reference import ort_refusals, ort_session
from joulec.passes.relax.frontend import Trial, Tried, through_frontend
from joulec.passes.relax.lowering import leaves_open
from joulec.passes.servant import Servant, ServantEnded, ServantTimeout
from joulec.passes.verification import is_float, largest_error, likely_inputs, random_inputs

_Array = npt.NDArray[Any]
_Sets = list[tuple[list[_Array], list[_Array]]]

ALGORITHM = "tvm-frontend"
"""The name under which it stands in tables and keys."""
_PROTOCOL = "agreement-1"
_TOLERANCE = 1e-5
_SEEDS = (0, 1)
_LEAST = 4
"""Sets of inputs that must have been compared."""
_TIME_LIMIT_S = 90.0
_REFERENCE_LIMIT_S = 20.0
_TYPES = frozenset(
    {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
_SERVANT = Servant("joulec.passes.relax.frontend_worker")


@dataclass
class Agreements:
    """What is known, and the trials of what is not.

    Attributes:
        store: the cost database.
        device: fingerprint of the device for which operators are compiled.
        compiler: compiler, version and target, as in costs' keys.
        target: TVM's target.
    """

    store: CostStore
    device: str
    compiler: str
    target: str
    _found: dict[Opaque, Opaque | None] = field(default_factory=dict)

    def lowered(self, op: Opaque) -> Opaque | None:
        """The operator in Relax's words, None where the frontend does not lower it to what ONNX means."""
        if op not in self._found:
            self._found[op] = through_frontend(op) if _may_be_tried(op) and self._agrees(op) else None
        return self._found[op]

    def _agrees(self, op: Opaque) -> bool:
        key = self._key(op)
        known = self.store.get_many([key]).get(key)
        if known is None:
            known = _tried(op, self.target)
            self.store.put_many([Measurement(key, known)])
        return isinstance(known, Cost)

    def _key(self, op: Opaque) -> CostKey:
        operands, results = (", ".join(map(str, types)) for types in (op.operand_types, op.result_types))
        return CostKey(
            operator=op.name,
            attributes=hashlib.sha256(op.definition).hexdigest(),
            epilogue="",
            shapes=f"{operands} -> {results}",
            layouts="row-major",
            placement="own",
            algorithm=ALGORITHM,
            parameters="agreement",
            digest=source_digest("joulec.passes.relax.frontend", __name__),
            device=self.device,
            compiler=self.compiler,
            energy_source="estimated",
            protocol=_PROTOCOL,
        )


def _may_be_tried(op: Opaque) -> bool:
    """Whether agreement on random inputs tells of all others: not of branches that these do not take."""
    model = onnx.load_from_string(op.definition)
    controlled = any(True for node in model.graph.node for _ in bodies(node))
    plain = {type.dtype for type in (*op.operand_types, *op.result_types)} <= _TYPES
    return op.pure and plain and not controlled and not leaves_open(op)


def _tried(op: Opaque, target: str) -> Cost | Failure:
    sets = _compared(op)
    if len(sets) < _LEAST:
        return Failure("run", f"{op.kind} takes only {len(sets)} sets of random inputs: too few to compare")
    if op.operand_types and all(_same(wanted, sets[0][1]) for _, wanted in sets):
        return Failure("run", f"{op.kind} gives the same results for all random inputs, which proves nothing")
    try:
        outcome = _SERVANT.ask(Trial(op, target, [operands for operands, _ in sets]), _TIME_LIMIT_S)
    except ServantTimeout as error:
        return Failure("timeout", str(error))
    except ServantEnded as error:
        return Failure("crash", str(error))
    if not isinstance(outcome, Tried):
        return Failure("build", str(outcome))
    for found, (_, wanted) in zip(outcome.outputs, sets, strict=True):
        if not _agree(found, wanted):
            apart = largest_error(found, wanted)
            return Failure("run", f"TVM's frontend and ONNX differ by {apart:.3g} on random inputs of {op.kind}")
    return Cost(outcome.time_s, None, "measured", None, spread=1.0, samples=len(sets))


def _compared(op: Opaque) -> _Sets:
    """Operands and results by ONNX's own engines, for those random inputs that the operator takes."""
    model = onnx.load_from_string(op.definition)
    names = [value.name for value in model.graph.input]
    values = [Value.input(name, type) for name, type in zip(names, op.operand_types, strict=True)]
    sets: list[dict[str, _Array]] = []
    for seed in _SEEDS:
        drawn = random_inputs(values, seed)
        sets += [*drawn, _whole(drawn[0]), *likely_inputs(values, held_numbers(model.graph)[:4], seed)]
    wanted = [(type.shape, type.dtype) for type in op.result_types]
    found = []
    for given, results in _by_onnx(op, sets):
        if [(np.shape(one), str(np.asarray(one).dtype)) for one in results] == wanted:
            found.append(([given[name] for name in names], list(results)))
    return found


def _whole(given: Mapping[str, _Array]) -> dict[str, _Array]:
    """The same, rounded to whole numbers: zeros and equal elements are among them."""
    return {name: array.round() if is_float(array.dtype) else array for name, array in given.items()}


def _by_onnx(
    op: Opaque, sets: Sequence[Mapping[str, _Array]]
) -> Iterator[tuple[Mapping[str, _Array], Sequence[_Array]]]:
    session = ort_session(op.definition) if engine_for(op) == "onnxruntime" else None
    refusals: tuple[type[Exception], ...] = (EvaluationError, *ort_refusals())
    for given in sets:
        try:
            if session is not None:
                yield given, session.run(None, given)
            else:
                yield given, EVALUATOR.run(op.definition, given, _REFERENCE_LIMIT_S)
        except EvaluationTimeout:
            return
        except refusals:
            continue


def _same(one: Sequence[_Array], other: Sequence[_Array]) -> bool:
    return all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))


def _agree(found: Sequence[_Array], wanted: Sequence[_Array]) -> bool:
    if [(one.shape, one.dtype) for one in found] != [(one.shape, one.dtype) for one in wanted]:
        return False
    exact = all(
        np.array_equal(left, right) for left, right in zip(found, wanted, strict=True) if not is_float(left.dtype)
    )
    return exact and largest_error(found, wanted) <= _TOLERANCE
