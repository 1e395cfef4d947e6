"""Measuring what a store does not know, beside others who do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.store import CostStore
from joulec.profiler.candidate import Candidate
from joulec.profiler.harness import Harness
from joulec.profiler.rivalry import Rivalry, unfinished
from joulec.profiler.sharing import POLL_S, claim, rivals, turn


@dataclass(frozen=True)
class ProfilingSummary:
    """What came of a set of candidates, counted by distinct key.

    Attributes:
        measured: costs found now.
        reused: outcomes that the store already held; a failure known from before is not tried again.
        failed: failures found now.
        seconds: wall-clock seconds spent.
        unknown: skipped, so still without an outcome.
    """

    measured: int
    reused: int
    failed: int
    seconds: float
    unknown: int = 0


def profile(
    candidates: Sequence[Candidate],
    store: CostStore,
    harness: Harness,
    on_result: Callable[[Measurement], None] | None = None,
    keep_going: Callable[[Candidate], bool] | None = None,
    rivalry: Rivalry | None = None,
    on_known: Callable[[CostKey, Cost | Failure], None] | None = None,
) -> ProfilingSummary:
    """Measure the candidates that the store (the harness's own) does not know to the full; one look-up for all.

    Rivals (the same operator and shapes on the same device) that follow each other are measured in turns. Others may do
    the same with the same database: rivals are claimed together before they are measured, and what another is measuring
    is left for later, when most often it is known. On one device all take turns.

    Args:
        on_known: called with each outcome that another process has found meanwhile.
        Others: see `Harness.measure`; ``keep_going`` is asked while waiting too.

    Raises:
        As `Harness.measure`.
    """
    begun_s = time.monotonic()
    wanted = {candidate.key: candidate for candidate in candidates}
    judges = rivalry is not None and rivalry.judges

    def finished(keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        return {key: found for key, found in store.get_many(keys).items() if not unfinished(found, judges)}

    def again(candidate: Candidate, outcome: Cost | Failure) -> bool:
        """Whether what was left before it was measured to the full may still win here."""
        return unfinished(outcome, judges) and _still(keep_going, candidate)

    reused = len(known := finished(wanted))
    missing = [candidate for key, candidate in wanted.items() if key not in known]
    waiting = [list(race) for _, race in groupby(missing, key=lambda candidate: rivals(candidate.key))]
    found: dict[CostKey, Measurement] = {}
    while waiting:
        later: list[list[Candidate]] = []
        for race in waiting:
            entering = [candidate for candidate in race if _still(keep_going, candidate)]
            if not entering:
                continue
            with claim(store, rivals(entering[0].key)) as mine:
                if not mine:
                    later.append(race)
                    continue
                seen = store.get_many([candidate.key for candidate in entering])
                if on_known is not None:
                    for key, outcome in seen.items():
                        on_known(key, outcome)
                before = len(entering)
                entering = [one for one in entering if one.key not in seen or again(one, seen[one.key])]
                reused += before - len(entering)
                if not entering:
                    continue
                with turn(store, entering[0].key.device, partial(_still, keep_going, entering[0])) as ours:
                    if not ours:
                        continue
                    pacemaker = None if rivalry is None else rivalry.pacemaker(entering)
                    racing = [*entering, *filter(None, [pacemaker])]
                    measured = {one.key: one for one in harness.measure(racing, on_result, keep_going, rivalry)}
                    if pacemaker is not None:
                        measured.pop(pacemaker.key, None)
                    found |= measured
                    later += _reopened(entering, measured, again)
        if len(later) == len(waiting):
            time.sleep(POLL_S)
        waiting = later
    failed = sum(isinstance(measurement.outcome, Failure) for measurement in found.values())
    return ProfilingSummary(
        measured=len(found) - failed,
        reused=reused,
        failed=failed,
        seconds=time.monotonic() - begun_s,
        unknown=len(wanted) - reused - len(found),
    )


def _reopened(
    race: Sequence[Candidate],
    measured: Mapping[CostKey, Measurement],
    again: Callable[[Candidate, Cost | Failure], bool],
) -> list[list[Candidate]]:
    """Those of a race who were left on account of a rival that failed in the end: they may win after all."""
    if not any(isinstance(one.outcome, Failure) for one in measured.values()):
        return []
    left = [one for one in race if one.key in measured and again(one, measured[one.key].outcome)]
    return [left] if left else []


def _still(keep_going: Callable[[Candidate], bool] | None, candidate: Candidate) -> bool:
    return keep_going is None or keep_going(candidate)
