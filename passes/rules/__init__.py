"""Graph substitutions: equations between graphs, applied where their side conditions hold. Imports no TVM."""

from joulec.passes.rules.convolutions import MergeConvolutions, MergeEnlargedConvolutions
from joulec.passes.rules.matmuls import MergeMatMuls
from joulec.passes.rules.movement import ConcatOfBranches, ConcatOfSplit, FlattenConcats, SplitOfConcat
from joulec.passes.rules.rule import Match, Mismatch, Rule, equation, find, substitutions

RULES: tuple[Rule, ...] = (
    MergeConvolutions(),
    MergeEnlargedConvolutions(),
    MergeMatMuls(),
    SplitOfConcat(),
    ConcatOfSplit(),
    FlattenConcats(),
    ConcatOfBranches(),
)

__all__ = ["RULES", "Match", "Mismatch", "Rule", "equation", "find", "substitutions"]
