"""The branches of an If among the nodes around it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
import onnx.helper
import onnx.numpy_helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold, is_random
from joulec.passes.onnx.inlining import inlined, renamed
from joulec.passes.onnx.program import Program, title

_MOST = 32
"""How many Ifs are tried: each takes shape inference of the whole model."""
_WHERE = 9
"""The opset from which on there is a Where."""
_BRANCHES = ("then_branch", "else_branch")


def opened(program: Program, types: Mapping[str, TensorType]) -> tuple[Program, dict[str, TensorType]]:
    """The program with both branches' nodes in place of each If, and one Where that takes its pick of each result.

    So a graph of the nodes can be optimised as a whole; a back end must see to it that only the branch taken runs. A
    branch that does not fit the program's shapes stays inside the If, which is then what is run where it would be
    taken. An If stays as it is where neither fits, where they give tensors of different types, or draw random numbers.

    Args:
        types: of the program's values.

    Returns:
        The program given and its types where no If could be opened.
    """
    current, known = program, dict(types)
    tried: set[str] = set()
    for _ in range(_MOST):
        ifs = (one for one in current.nodes if one.op_type == "If" and one.output[0] not in tried)
        node = next((one for one in ifs if _may_open(one, current, known)), None)
        if node is None:
            break
        tried.update((node.output[0], *(f"{node.output[0]}/{branch}/{node.output[0]}" for branch in _BRANCHES)))
        ways = (_with_open(node, current, known, fitting) for fitting in (_BRANCHES, _BRANCHES[:1], _BRANCHES[1:]))
        current, known = next((way for way in ways if way is not None), (current, known))
    return current, known


def _may_open(node: onnx.NodeProto, program: Program, types: Mapping[str, TensorType]) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and program.opset >= _WHERE
        and node.input[0] in types
        and all(node.output)
        and not is_random(node, program.constants)
        and not any(attribute.g.sparse_initializer for attribute in node.attribute)
    )


def _with_open(
    node: onnx.NodeProto, program: Program, known: Mapping[str, TensorType], fitting: Collection[str]
) -> tuple[Program, dict[str, TensorType]] | None:
    """The program with these branches out of the If and its types; None where one of them does not fit."""
    trial = program.copy()
    condition = f"{node.output[0]}/condition"
    added = [onnx.helper.make_node("Squeeze", [node.input[0]], [condition], name=f"{title(node)}/condition")]
    arms: dict[str, list[str]] = {}
    stated: dict[str, TensorType] = {}
    for attribute in node.attribute:
        prefix = f"{node.output[0]}/{attribute.name}"
        if attribute.name in fitting:
            nodes, constants, arms[attribute.name] = inlined(attribute.g, prefix)
            trial.constants.update(constants)
        else:
            nodes, arms[attribute.name] = [_whole(node, prefix)], [f"{prefix}/{name}" for name in node.output]
            stated = {f"{prefix}/{name}": known[name] for name in node.output if name in known}
        added += nodes
    picks = dict(zip(node.output, zip(*(arms[branch] for branch in _BRANCHES), strict=True), strict=True))
    for output, pair in picks.items():
        added.append(onnx.helper.make_node("Where", [condition, *pair], [output], name=f"{title(node)}/{output}"))
    trial.nodes = [other for one in program.nodes for other in (added if one is node else [one])]
    outputs = {value.name for value in program.outputs}
    trial.seen = {**{name: type for name, type in program.seen.items() if name not in outputs}, **stated}
    try:
        types = fold(trial)
    except ModelError:  # a branch that is never taken need not fit
        return None
    left = {name for one in trial.nodes for name in one.output}
    if not all(_alike((output, *pair), types) for output, pair in picks.items() if output in left):
        return None
    unknown = {name: type for name, type in program.seen.items() if name not in types}
    trial.seen = {**{name: type for name, type in trial.seen.items() if name in left}, **unknown}
    trial.unsure = (program.unsure | set(stated)) - (outputs - set(unknown))
    return trial, {**types, **unknown}


def _whole(node: onnx.NodeProto, prefix: str) -> onnx.NodeProto:
    """The If giving results of other names."""
    return renamed(node, {name: f"{prefix}/{name}" for name in node.output})


def _alike(names: Sequence[str], types: Mapping[str, TensorType]) -> bool:
    """Whether values have one known type, which is that of a tensor of numbers."""
    found = {types.get(name) for name in names}
    type = found.pop()
    return not found and type is not None and type.dtype != "object"
