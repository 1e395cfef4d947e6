"""What becomes of the sums of an integer product: zero points accounted for, bias added, requantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.kernels import loops
from joulec.passes.kernels.integer_dot import Words
from joulec.passes.kernels.integer_product import IntegerProduct, Requantised

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Parameters:
    """Vectors of one value per output channel that lie behind the weights' words, as int32.

    With x and w as the words hold them, z and u their zero points, a sum is
    Σ(x - z)(w - u) = Σxw - u Σx - z (Σw - depth u): Σx is the window's, the last factor the channel's *total*.

    Attributes:
        product: whose parameters they are.
        words: how its factors are joined.
        words_count: words before them.
        channels: length of each vector.
        result: dtype of the results.
    """

    product: IntegerProduct
    words: Words
    words_count: int
    channels: int
    result: str

    @property
    def needs_windows(self) -> bool:
        """Whether the sum of each window counts: some channel of weights has a zero point as the words hold it."""
        offset = self.words.weight_offset(self.product.weight_type)
        return self.words.keeps_zero_points and bool((self.product.weight_zeros + offset).any())

    @property
    def size(self) -> int:
        """Words in all."""
        return self._begin + len(self._names) * self.channels * self._stride

    @property
    def _begin(self) -> int:
        return self.words_count + self.words_count % 2

    @property
    def _stride(self) -> int:
        return 1 if self.words.dtype == "int32" else 2

    @property
    def _names(self) -> tuple[str, ...]:
        requantised = self.product.requantised
        present = {
            "total": self.words.keeps_zero_points,
            "zero": self.needs_windows,
            "bias": self.product.bias is not None,
            "factor": requantised is not None and requantised.factors.size > 1,
        }
        return tuple(name for name, is_there in present.items() if is_there)

    def packed(self, words: Array, totals: Array) -> Array:
        """The words, then the vectors.

        Args:
            words: flat.
            totals: of each channel, its weights' sum less depth times its zero point (the same for offset ones).
        """
        product = self.product
        offset = self.words.weight_offset(product.weight_type)
        requantised = product.requantised
        vectors: dict[str, Array | None] = {
            "total": totals,
            "zero": product.weight_zeros + offset,
            "bias": product.bias,
            "factor": requantised.factors.view(np.int32) if requantised else None,
        }
        found = [np.asarray(vectors[name], np.int32).reshape(-1) for name in self._names]
        whole = [np.zeros(self._begin - words.size, words.dtype)]
        whole += [np.ascontiguousarray(np.broadcast_to(one, (self.channels,))).view(words.dtype) for one in found]
        return np.concatenate([words, *whole])

    def read(self, name: str, packed: Any, channel: Any, width: int) -> Any:
        """A vector of ``width`` values from a channel on."""
        place = self._begin + (self._names.index(name) * self.channels + channel) * self._stride
        loaded = packed[loops.run(place, width * self._stride)]
        dtype = "float32" if name == "factor" else "int32"
        dtype = loops.typed(dtype, width)
        return loaded if dtype == str(loaded.ty) else tirx.reinterpret(dtype, loaded)

    def of_channels(
        self, operands: Sequence[Any], channel: Any, zero: Any, width: int
    ) -> Callable[[Any, Any, int], Any]:
        """What turns vectors of sums and of their windows' sums into results, given their lanes too.

        Args:
            operands: the node's, of which the second holds words and vectors.
            channel: of the first sum.
            zero: the data's zero point as the words hold data.
            width: channels side by side that are finished at once; 1 where all sums are of one channel.
        """
        known = {name: loops.bind(self.read(name, operands[1], channel, width)) for name in self._names}
        added = self._operand(operands, channel, width)
        shift = loops.bind(loops.splat(zero, width) * known["total"]) if "total" in known else None
        requantised = self.product.requantised

        def finish(total: Any, window: Any, lanes: int) -> Any:
            def wide(value: Any) -> Any:
                return value if width > 1 else loops.splat(value, lanes)

            if "zero" in known:
                total = total - wide(known["zero"]) * window
            if shift is not None:
                total = total - wide(shift)
            if "bias" in known:
                total = total + wide(known["bias"])
            if added is not None:
                total = total + wide(added)
            if requantised is None:
                return total if self.result == "int32" else tirx.Cast(loops.typed(self.result, lanes), total)
            factor = wide(known["factor"]) if "factor" in known else _splat(requantised.factors[0], lanes)
            return _quantised(tirx.Cast(loops.typed("float32", lanes), total) * factor, requantised, lanes)

        return finish

    def _operand(self, operands: Sequence[Any], channel: Any, width: int) -> Any:
        """What an operand adds to the sums of some channels; None where none does."""
        if self.product.bias_operand is None:
            return None
        added = operands[self.product.bias_operand]
        alone = int(added.shape[0]) == 1
        return loops.bind(loops.splat(added[0], width) if alone else added[loops.run(channel, width)])


def _quantised(value: Any, to: Requantised, lanes: int) -> Any:
    """Floats rounded to even, moved by the zero point and saturated."""
    limits = np.iinfo(to.dtype)
    moved = tirx.nearbyint(value) + _splat(to.zero, lanes)
    kept = tirx.max(tirx.min(moved, _splat(limits.max, lanes)), _splat(limits.min, lanes))
    return tirx.Cast(loops.typed(to.dtype, lanes), tirx.Cast(loops.typed("int32", lanes), kept))


def _splat(number: Any, lanes: int) -> Any:
    return loops.splat(loops.f32(float(number)), lanes)
