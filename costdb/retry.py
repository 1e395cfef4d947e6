"""Waiting for a server that is restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_PASSING_STATES = ("08", "40", "57P")
"""Connection lost, deadlock or serialisation failure, shut down or starting up."""


@dataclass(frozen=True)
class Retry:
    """How long to try again, and how often.

    Attributes:
        patience_s: seconds after which the error is final.
        pause_s: seconds between the first two tries; doubled each time, up to ``longest_pause_s``.
    """

    patience_s: float = 30.0
    pause_s: float = 0.05
    longest_pause_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self, work: Callable[[], _T], where: str) -> _T:
        """Do the work, again and again while a server is away for a moment.

        Args:
            work: may be done any number of times.
            where: the database in the user's words.

        Raises:
            SQLAlchemyError: what the last try raised, or an error that does not pass.
        """
        begun_s, pause_s = self.clock(), self.pause_s
        while True:
            try:
                return work()
            except SQLAlchemyError as error:
                left_s = self.patience_s - (self.clock() - begun_s)
                if not passes(error) or left_s <= 0:
                    raise
                if pause_s == self.pause_s:
                    _log.warning("cost database %s is away; trying again for %.0f s", where, left_s)
                self.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, self.longest_pause_s)


def passes(error: SQLAlchemyError) -> bool:
    """Whether an error of a server may be gone in a moment. SQLite waits by itself."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    state = getattr(error.orig, "sqlstate", "unknown")
    if state is None:  # psycopg: no server was reached, or it hung up
        return type(error.orig).__name__ == "OperationalError"
    return state.startswith(_PASSING_STATES)
