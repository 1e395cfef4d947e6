"""Which points of the frontier between time and energy become variants of one artifact."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulec.frontiers import Frontiers
from joulec.options import CompileOptions, OptionError
from joulec.passes.search.results import Plan
from joulec.progress import Progress
from joulec.runtime.manifest import Budget, EntryKey
from joulec.searching import Searched

_APART = math.log(1.01)
"""Points nearer than 1% in time and in energy are one."""
_MOST = 16


@dataclass(frozen=True)
class Variant:
    """A graph with its assignment that is to be compiled for one batch size.

    Attributes:
        searched: the batch size with what its search found.
        plan: graph and assignment.
        name: ``fast``, ``frugal`` or what lies between; None where there is one variant only.
    """

    searched: Searched
    plan: Plan
    name: str | None = None

    @property
    def batch(self) -> int:
        """The batch size."""
        return self.searched.source.batch

    @property
    def key(self) -> EntryKey:
        """What the artifact knows it by."""
        return self.batch, self.name


@dataclass(frozen=True)
class Variants:
    """All that is to be compiled.

    Attributes:
        names: from fast to frugal; empty where there is one variant only.
        items: in ascending batch size; of each, the one that is best under the objective comes first.
    """

    names: tuple[str, ...]
    items: tuple[Variant, ...]


def parse_variants(text: str | int | None) -> int:
    """``frontier:3``, or the number alone, as how many variants are wanted; 1 where none are.

    Raises:
        OptionError: the text has another form, or the number is out of range.
    """
    if text is None:
        return 1
    match = re.fullmatch(r"(?:frontier:)?(\d+)", str(text).strip())
    if match is None:
        raise OptionError(f"--variants {text!r}: write frontier:3 for three points of the frontier")
    count = int(match[1])
    if not 1 <= count <= _MOST:
        raise OptionError(f"--variants {text}: from 1 to {_MOST} variants can be compiled, not {count}")
    return count


def find_variants(
    found: Sequence[Searched], options: CompileOptions, frontiers: Frontiers, progress: Progress
) -> Variants:
    """Spread variants over the frontier of each batch size.

    A batch size whose frontier has fewer points than were asked for gets those, and a warning says so.

    Raises:
        CostingError: energies are not known, so that there is no frontier.
    """
    count = parse_variants(options.variants)
    if count == 1:
        return Variants((), tuple(Variant(one, one.result.best) for one in found))
    chosen = {one.source.batch: spread(one.result.best, frontiers.of(one), count) for one in found}
    for batch, plans in chosen.items():
        if len(plans) < count:
            points = f"{len(plans)} point{'s' if len(plans) > 1 else ''}"
            progress.warn(f"batch {batch}: the frontier has {points} at least 1% apart, and {count} were asked for")
    return _named(found, chosen)


def spread(best: Plan, frontier: Sequence[Plan], count: int) -> list[Plan]:
    """The objective's best, the fastest, the most frugal, and those between that are farthest from the rest.

    Args:
        best: what the objective prefers; it comes first.
        frontier: the plans that no other one beats, fastest first.
        count: how many at most.

    Returns:
        Plans at least 1% apart in time or in energy.
    """
    kept = [best]
    for end in (frontier[:1], frontier[-1:]):
        if end and len(kept) < count and _distance(end[0], kept) > _APART:
            kept.append(end[0])
    while len(kept) < count and frontier:
        farthest = max(frontier, key=lambda plan: _distance(plan, kept))
        if _distance(farthest, kept) <= _APART:
            break
        kept.append(farthest)
    return kept


def _distance(plan: Plan, others: Sequence[Plan]) -> float:
    """To the nearest of the others, in logarithms of time and energy."""
    time_s, energy_j = _point(plan)
    return min(max(abs(time_s - other[0]), abs(energy_j - other[1])) for other in map(_point, others))


def _point(plan: Plan) -> tuple[float, float]:
    least = 1e-30
    return math.log(max(plan.totals.time_s, least)), math.log(max(plan.totals.energy_j, least))


def names_of(count: int) -> tuple[str, ...]:
    """Names of so many variants, from fast to frugal."""
    if count == 1:
        return ("fast",)
    between = ("balanced",) if count == 3 else tuple(f"balanced-{place}" for place in range(1, count - 1))
    return ("fast", *between, "frugal")


def _named(found: Sequence[Searched], chosen: Mapping[int, Sequence[Plan]]) -> Variants:
    names = names_of(max(map(len, chosen.values())))
    if len(names) == 1:
        return Variants((), tuple(Variant(one, one.result.best) for one in found))
    items = []
    for one in found:
        plans = chosen[one.source.batch]
        order = sorted(plans, key=lambda plan: plan.totals.time_s)
        ours = names[:1] if len(plans) == 1 else (*names[: len(plans) - 1], names[-1])
        items += [Variant(one, plan, ours[order.index(plan)]) for plan in plans]
    return Variants(names, tuple(items))


def settle_names(variants: Variants, measured: Mapping[EntryKey, Budget], progress: Progress) -> dict[EntryKey, str]:
    """Names by what was measured: of each batch size, from fast to frugal; and a warning where one is no use.

    Predictions are off; what is called fast is to be the fastest.

    Returns:
        The name of each entry by its present key; empty where there is one variant only.
    """
    names: dict[EntryKey, str] = {}
    for batch in dict.fromkeys(one.batch for one in variants.items) if variants.names else ():
        ours = [one for one in variants.items if one.batch == batch]
        if any(measured.get(one.key, Budget()).time_s is None for one in ours):  # what was predicted stands
            names |= {one.key: one.name for one in ours if one.name is not None}
            continue
        order = sorted(ours, key=lambda one: measured[one.key].time_s or math.inf)
        known = [name for name in variants.names if name in {one.name for one in ours}]
        names |= {one.key: name for one, name in zip(order, known, strict=True)}
        least_j = math.inf
        for one in order:
            energy_j = measured[one.key].energy_j
            if energy_j is not None and energy_j >= least_j:
                progress.warn(
                    f"batch {batch}: a variant faster than {names[one.key]} takes no more energy, as measured: the "
                    "prediction was off, and this one is of no use"
                )
            least_j = min(least_j, math.inf if energy_j is None else energy_j)
    return names
