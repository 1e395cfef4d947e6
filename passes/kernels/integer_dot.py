"""Sums of products of small integers, exact in int32, as the vector unit of a target has them.

Neighbours along the depth of a product lie together in a *word*. Multiplying words and adding what comes out to a
vector of int32 is one instruction or two:

* words of four bytes, unsigned times signed (VNNI): nothing is saturated on the way;
* words of two int16, from which the zero points were taken before (AVX-512BW, AVX2, SSE2);
* words of one int16, a widening multiplication that LLVM finds (NEON, anything else).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.kernels import loops
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.kernels.target import has_feature

_PAIRS = {16: ("avx512bw", "avx512.pmaddw.d.512"), 8: ("avx2", "avx2.pmadd.wd"), 4: ("sse2", "sse2.pmadd.wd")}
"""By lanes: the feature, and the instruction that adds the products of two pairs."""
_VNNI = {16: ("avx512vnni", "512"), 8: ("avxvnni", "256")}
"""By lanes: the feature, and what its instructions are called after."""
DEEPEST = (2**31 - 1) // 255**2
"""Longest sum of products of differences of bytes that no int32 overflows, whatever they are."""


@dataclass(frozen=True)
class Words:
    """How a product's elements are joined to words on a target.

    Attributes:
        target: whose instructions multiply.
        group: elements of a word: 4, 2 or 1.
    """

    target: CpuTarget
    group: int

    @property
    def dtype(self) -> str:
        """What a word is stored as."""
        return "int32" if self.group > 1 else "int16"

    @property
    def bytes(self) -> int:
        """Size of a word."""
        return 4 if self.group > 1 else 2

    @property
    def keeps_zero_points(self) -> bool:
        """Whether words hold elements as they are, so that zero points must be accounted for in the sums."""
        return self.group == 4

    def count(self, depth: int) -> int:
        """Words that so many elements take."""
        return -(-depth // self.group)

    def data_offset(self, dtype: str) -> int:
        """What is added to a factor that is no constant, so that its bytes are unsigned."""
        return 128 if self.keeps_zero_points and dtype == "int8" else 0

    def weight_offset(self, dtype: str) -> int:
        """What is added to a constant factor, so that its bytes are signed."""
        return -128 if self.keeps_zero_points and dtype == "uint8" else 0

    def joined(self, elements: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Whole numbers [..., words * group] as words [..., words]."""
        narrow = {4: np.int8, 2: np.int16, 1: np.int16}[self.group]
        return np.ascontiguousarray(elements.astype(narrow)).view(self.dtype)

    def join(self, elements: Sequence[Any]) -> Any:
        """The word of int32 expressions; the rest of the word is zero where there are too few."""
        if self.group == 1:
            return tirx.Cast("int16", elements[0])
        bits = 32 // self.group
        word: Any = None
        for place, element in enumerate(elements):
            part = element & tirx.const((1 << bits) - 1, "int32")
            part = part << tirx.const(bits * place, "int32") if place else part
            word = part if word is None else word | part
        return word

    @property
    def ones(self) -> Any:
        """The word whose product with another one is the sum of that one's elements."""
        return tirx.const({4: 0x01010101, 2: 0x00010001, 1: 1}[self.group], self.dtype)

    def add(self, total: Any, data: Any, weights: Any) -> Any:
        """``total`` (a vector of int32) plus the products of two vectors of words."""
        lanes = self.target.lanes
        if self.group == 1:
            wide = loops.typed("int32", lanes)
            return total + tirx.Cast(wide, data) * tirx.Cast(wide, weights)
        narrow = f"int{32 // self.group}x{self.group * lanes}"
        factors = tirx.reinterpret(narrow, data), tirx.reinterpret(narrow, weights)
        result = loops.typed("int32", lanes)
        if self.group == 4 or _has(self.target, _VNNI):
            name = {4: "vpdpbusd", 2: "vpdpwssd"}[self.group]
            instruction = f"llvm.x86.avx512.{name}.{_VNNI[lanes][1]}"
            return tirx.call_llvm_pure_intrin(result, instruction, total, *factors)
        return total + tirx.call_llvm_pure_intrin(result, f"llvm.x86.{_PAIRS[lanes][1]}", *factors)


def words_of(target: CpuTarget) -> list[Words]:
    """The words that a target can multiply, the fastest first."""
    found = []
    if _has(target, _VNNI):
        found.append(Words(target, 4))
    found.append(Words(target, 2 if _has(target, _PAIRS) else 1))
    return found


def _has(target: CpuTarget, table: Mapping[int, tuple[str, str]]) -> bool:
    return target.lanes in table and has_feature(target, table[target.lanes][0])
