"""Graph substitutions: equations between graphs, applied where their side conditions hold. Imports no TVM."""

from joulec.passes.rules.algebra import ALGEBRA
from joulec.passes.rules.convolutional import CONVOLUTIONAL
from joulec.passes.rules.convolutions import MergeConvolutions, MergeEnlargedConvolutions
from joulec.passes.rules.matmuls import MergeMatMuls
from joulec.passes.rules.movement import ConcatOfBranches, ConcatOfSplit, FlattenConcats, SplitOfConcat
from joulec.passes.rules.rule import Match, Mismatch, Rule, equation, find, substitutions

CONVERGENT: tuple[Rule, ...] = (
    MergeConvolutions(),
    MergeEnlargedConvolutions(),
    MergeMatMuls(),
    SplitOfConcat(),
    ConcatOfSplit(),
    FlattenConcats(),
    ConcatOfBranches(),
)
"""Rules that make every graph smaller, so that any sequence of them ends, and most often in one graph."""

RULES: tuple[Rule, ...] = (*CONVERGENT, *CONVOLUTIONAL, *ALGEBRA)
"""All rules; some undo each other, which the search, knowing the graphs it has seen, bears."""

__all__ = [
    "ALGEBRA",
    "CONVERGENT",
    "CONVOLUTIONAL",
    "RULES",
    "Match",
    "Mismatch",
    "Rule",
    "equation",
    "find",
    "substitutions",
]
