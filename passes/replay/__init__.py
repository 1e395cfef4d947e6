"""Replayed measurements as a back end: nothing is compiled or measured, and no TVM is needed."""

from joulec.passes.replay.backend import ReplayAlgorithm, ReplayBackEnd, ReplayCosts
from joulec.passes.replay.bench import SCHEME, ReplayBench
from joulec.passes.replay.rows import ReplayError, Row, read_rows

__all__ = [
    "SCHEME",
    "ReplayAlgorithm",
    "ReplayBackEnd",
    "ReplayBench",
    "ReplayCosts",
    "ReplayError",
    "Row",
    "read_rows",
]
