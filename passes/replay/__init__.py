"""Replayed measurements as a back end: nothing is compiled or measured, and no TVM is needed."""

from joulec.passes.replay.backend import ReplayAlgorithm, ReplayBackEnd, ReplayCosts
from joulec.passes.replay.rows import ReplayError, Row, read_rows

__all__ = ["ReplayAlgorithm", "ReplayBackEnd", "ReplayCosts", "ReplayError", "Row", "read_rows"]
