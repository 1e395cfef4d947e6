"""The canonical form of a graph: nothing that computes nothing, elementwise steps fused into what comes before them."""

from joulec.passes.canonical.canonical import SIMPLIFICATIONS, canonicalise
from joulec.passes.canonical.in_place import TakesParts, place
from joulec.passes.canonical.site import Fuses

__all__ = ["SIMPLIFICATIONS", "Fuses", "TakesParts", "canonicalise", "place"]
