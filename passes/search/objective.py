"""Cost functions of time, energy and power (first paper, Section 3.2), and how they are parsed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from joulec.passes.search.totals import Bounds, Totals

Function = Callable[[Totals, Totals], Any]


class ObjectiveError(ValueError):
    """An objective that cannot be understood; the message names what is allowed."""


@dataclass(frozen=True)
class Objective:
    """What a search minimises.

    Attributes:
        name: for people.
        function: value of (totals, totals of the original graph); works on arrays where ``vectorised``.
        bounds: what a result must keep.
        linear: for an objective a·time_s + b·energy_j + c, the weights (a, b) given the original's totals.
        affine: for an objective a·time_s + b·energy_j + p·power_w + c, where c is the same for all assignments of a
            graph, the weights (a, b, p) given the original's totals.
        monotone: it never falls when time or energy grows.
        product: it is c · time^a · energy^b with a, b ≥ 0, whose minimum lies on the lower hull of (time, energy).
        is_power: it is mean power, as a ratio or in watts.
        uses_energy: whether joules are needed at all.
        uses_figures: whether FLOPs, bytes, memory or kernels count.
        vectorised: whether the function takes arrays.
    """

    name: str
    function: Function
    bounds: Bounds = field(default_factory=Bounds)
    linear: Callable[[Totals], tuple[float, float]] | None = None
    affine: Callable[[Totals], tuple[float, float, float]] | None = None
    monotone: bool = False
    product: bool = False
    is_power: bool = False
    uses_energy: bool = True
    uses_figures: bool = False
    vectorised: bool = True

    def value(self, totals: Totals, origin: Totals) -> Any:
        """The cost; an array where the totals hold arrays. Where an expression has no value, it is not a number."""
        if self.vectorised:
            with np.errstate(all="ignore"):
                return self.function(totals, origin)
        if not isinstance(totals.time_s, np.ndarray):
            return self.function(totals, origin)
        times, energies = np.broadcast_arrays(totals.time_s, totals.energy_j)
        points = zip(times.ravel().tolist(), energies.ravel().tolist(), strict=True)
        values = [self.function(replace(totals, time_s=time, energy_j=energy), origin) for time, energy in points]
        return np.array(values, dtype=float).reshape(times.shape)

    def within(self, bounds: Bounds) -> Objective:
        """The same objective under bounds. A bound on power can be met by taking longer: nothing is monotone then."""
        return replace(
            self,
            bounds=bounds,
            monotone=self.monotone and bounds.max_power_w is None,
            uses_energy=self.uses_energy or bounds.max_energy_j is not None or bounds.max_power_w is not None,
        )


def as_objective(objective: str | Function | Objective, bounds: Bounds | None = None) -> Objective:
    """An objective from an expression, a Python function of (totals, origin totals), or itself.

    Raises:
        ObjectiveError: the expression cannot be understood.
    """
    if isinstance(objective, str):
        objective = parse_objective(objective)
    elif not isinstance(objective, Objective):
        if not callable(objective):
            raise ObjectiveError(f"an objective is an expression or a function, not {type(objective).__name__}")
        name = getattr(objective, "__name__", "function")
        objective = Objective(name, objective, uses_figures=True, vectorised=False)
    return objective if bounds is None else objective.within(bounds)


def weighted(w: float) -> Objective:
    """``w·energy + (1-w)·time``, both relative to the original graph (first paper, Section 3.2)."""
    w = _weight(w)
    return parse_objective(f"{w!r}*energy + {1 - w!r}*time")


def linear_objective(weights: tuple[float, float], offset: float = 0.0) -> Objective:
    """``a · time_s + b · energy_j + offset``; a weight of 0 leaves its term out, which may be unknown.

    Args:
        weights: (a, b), per second and per joule.
    """

    def value(totals: Totals, origin: Totals) -> Any:
        terms = zip(weights, (totals.time_s, totals.energy_j), strict=True)
        return offset + sum(weight * part for weight, part in terms if weight != 0)

    return Objective(
        "linear", value, linear=lambda origin: weights, monotone=min(weights) >= 0, uses_energy=weights[1] != 0
    )


def product(w: float) -> Objective:
    """``energy^w · time^(1-w)``, both relative to the original graph (first paper, Section 3.2)."""
    w = _weight(w)
    return parse_objective(f"energy**{w!r} * time**{1 - w!r}")


def _weight(w: float) -> float:
    if not 0 <= w <= 1:
        raise ObjectiveError(f"the weight on energy lies between 0 and 1, not at {w}")
    return float(w)


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole. A graph of views alone costs nothing: its own parts stand at 1."""
    return np.where(np.equal(part, 0), 1.0, np.inf)[()] if whole == 0 else np.divide(part, whole)


def _per(coefficient: float, whole: float) -> float:
    return coefficient / whole if coefficient and whole else coefficient


_VARIABLES: dict[str, Function] = {
    "time": lambda totals, origin: _ratio(totals.time_s, origin.time_s),
    "energy": lambda totals, origin: _ratio(totals.energy_j, origin.energy_j),
    "power": lambda totals, origin: _ratio(totals.power_w, origin.power_w),
    "time_s": lambda totals, origin: totals.time_s,
    "energy_j": lambda totals, origin: totals.energy_j,
    "power_w": lambda totals, origin: totals.power_w,
    "flops": lambda totals, origin: totals.flops,
    "bytes": lambda totals, origin: totals.bytes,
    "peak_memory_bytes": lambda totals, origin: totals.peak_memory_bytes,
    "kernels": lambda totals, origin: float(totals.kernels),
}
_FIGURES = frozenset({"flops", "bytes", "peak_memory_bytes", "kernels"})
_OPERATORS: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[float, float], Any]]] = {
    ast.Add: (np.add, operator.add),
    ast.Sub: (np.subtract, operator.sub),
    ast.Mult: (np.multiply, operator.mul),
    ast.Div: (np.divide, operator.truediv),
    ast.Pow: (np.power, operator.pow),
}
"""How costs are combined (not a number rather than an error), and how constants are."""
_DEEPEST = 200
_HELP = f"an expression of {', '.join(_VARIABLES)}, numbers, + - * / ** and parentheses"


def parse_objective(text: str) -> Objective:
    """Parse an expression such as ``0.3*energy + 0.7*time``; nothing of it is run as code.

    ``time``, ``energy`` and ``power`` are ratios to the original graph; ``time_s``, ``energy_j``, ``power_w`` SI.

    Raises:
        ObjectiveError: it is no such expression.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ObjectiveError(f"cannot read the objective {text!r}: write {_HELP}") from error
    if _depth(tree) > _DEEPEST:
        raise ObjectiveError(f"the objective {text[:40]!r}... is nested too deeply: write {_HELP}")
    function = _compile(tree, text)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not names:
        raise ObjectiveError(f"the objective {text!r} depends on nothing: write {_HELP}")
    coefficients = _affine(tree)

    def weights(origin: Totals) -> tuple[float, float, float]:
        assert coefficients is not None
        get = coefficients.get
        time, energy, power = (
            _per(get(ratio, 0.0), getattr(origin, si)) + get(si, 0.0)
            for ratio, si in (("time", "time_s"), ("energy", "energy_j"), ("power", "power_w"))
        )
        return time, energy, power

    linear = coefficients is not None and not coefficients.keys() & {"power", "power_w", *_FIGURES}
    return Objective(
        text.strip(),
        function,
        linear=(lambda origin: weights(origin)[:2]) if linear else None,
        affine=None if coefficients is None else weights,
        monotone=_monotone(tree),
        product=_product(tree),
        is_power=isinstance(tree, ast.Name) and tree.id in ("power", "power_w"),
        uses_energy=bool(names & {"energy", "energy_j", "power", "power_w"}),
        uses_figures=bool(names & _FIGURES),
    )


def _depth(tree: ast.expr) -> int:
    """How deeply operators are nested, found without recursion."""
    level, depth = [tree], 0
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return depth


def _compile(node: ast.expr, text: str) -> Function:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            value = _finite(number, text)
            return lambda totals, origin: value
        case ast.Name(id=name) if name in _VARIABLES:
            return _VARIABLES[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            negated = _compile(inner, text)
            return lambda totals, origin: -negated(totals, origin)
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _OPERATORS:
            apply, first, second = _OPERATORS[type(symbol)][0], _compile(left, text), _compile(right, text)
            if isinstance(symbol, ast.Div) and _constant(right) == 0:
                raise ObjectiveError(f"the objective {text!r} divides by zero: {ast.unparse(node)}")
            return lambda totals, origin: apply(first(totals, origin), second(totals, origin))
    raise ObjectiveError(f"cannot read {ast.unparse(node)!r} in the objective {text!r}: write {_HELP}")


def _finite(number: Any, text: str) -> float:
    """The number as a float; ObjectiveError where it is none or not finite."""
    try:
        value = float(number)
    except (OverflowError, TypeError) as error:
        raise ObjectiveError(f"cannot compute {text!r} in the objective: {error}") from error
    if not math.isfinite(value):
        raise ObjectiveError(f"cannot compute {text!r} in the objective: it is not finite")
    return value


def _constant(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=int() | float() as number):
            return _finite(number, str(node.value)[:40])
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = _constant(inner)
            return None if value is None else -value
        case ast.BinOp(left=left, op=symbol, right=right):
            first, second = _constant(left), _constant(right)
            if first is None or second is None:
                return None
            try:
                value = _OPERATORS[type(symbol)][1](first, second)
            except (ZeroDivisionError, OverflowError) as error:
                raise ObjectiveError(f"cannot compute {ast.unparse(node)!r} in the objective: {error}") from error
            return _finite(value, ast.unparse(node))
    return None


def _affine(node: ast.expr) -> dict[str, float] | None:
    """Coefficients of an affine function of single variables (constants under ""), None for anything else."""
    constant = _constant(node)
    if constant is not None:
        return {"": constant}
    match node:
        case ast.Name(id=name) if name in _VARIABLES:
            return {name: 1.0}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _scaled(_affine(inner), -1.0)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as symbol, right=right):
            first, second = _affine(left), _scaled(_affine(right), 1.0 if isinstance(symbol, ast.Add) else -1.0)
            if first is None or second is None:
                return None
            return {key: first.get(key, 0.0) + second.get(key, 0.0) for key in first | second}
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            factor, other = (_constant(left), right) if _constant(left) is not None else (_constant(right), left)
            return None if factor is None else _scaled(_affine(other), factor)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _constant(right)
            return None if not divisor else _scaled(_affine(left), 1.0 / divisor)
    return None


def _scaled(coefficients: dict[str, float] | None, factor: float) -> dict[str, float] | None:
    return None if coefficients is None else {key: value * factor for key, value in coefficients.items()}


def _monotone(node: ast.expr) -> bool:
    """Whether it is surely positive and never falls as time or energy grows."""
    constant = _constant(node)
    if constant is not None:
        return constant >= 0
    match node:
        case ast.Name(id=name):
            return name not in ("power", "power_w")
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult(), right=right):
            return _monotone(left) and _monotone(right)
        case ast.BinOp(left=left, op=ast.Div() | ast.Pow() as symbol, right=right):
            exponent = _constant(right)
            positive = exponent is not None and (exponent > 0 or (exponent == 0 and isinstance(symbol, ast.Pow)))
            return positive and _monotone(left)
    return False


def _product(node: ast.expr) -> bool:
    """Whether it is a positive constant times non-negative powers of time and energy."""
    constant = _constant(node)
    if constant is not None:
        return constant > 0
    match node:
        case ast.Name(id="time" | "time_s" | "energy" | "energy_j"):
            return True
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(left) and _product(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            exponent = _constant(right)
            return exponent is not None and exponent >= 0 and _product(left)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _constant(right)
            return divisor is not None and divisor > 0 and _product(left)
    return False
