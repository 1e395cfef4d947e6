"""What of a model runs before and after its compiled function, as the manifest describes it.

The compiled function takes and gives tensors of numbers with fixed shapes. What stands before inputs that are none
(text, sequences, optionals) is the *head*; what makes outputs that are none, or whose size depends on data, is the
*tail*. Both are ONNX models that an engine runs (`joulec.runtime.staging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from joulec.costdb.cost import EnergySource
from joulec.profiler.values import TEXT, is_form, is_tensor, random_value
from joulec.runtime.fields import Fields, ManifestError


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a whole model.

    Attributes:
        form: as `joulec.profiler.values` writes it: a numpy dtype, ``text``, ``sequence(float32)``…
        shape: of a tensor; a size that depends on data is None, and so is the shape where its rank does.
        span: of whole numbers, the least that the model expects and the one after the largest; None where not known.
    """

    name: str
    form: str
    shape: tuple[int | None, ...] | None
    span: tuple[int, int] | None = None

    @property
    def dtype(self) -> str:
        """The form, as other tensors call it."""
        return self.form

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor may have this shape."""
        if self.shape is None or not is_tensor(self.form):
            return True
        sizes = zip(shape, self.shape, strict=False)
        return len(shape) == len(self.shape) and all(size in (have, None) for have, size in sizes)

    def random(self, rng: np.random.Generator, words: Sequence[str]) -> Any:
        """A seeded value; see `random_value`."""
        if self.span is not None and self.shape is not None and None not in self.shape and self.form != TEXT:
            sizes = [size or 0 for size in self.shape]
            return np.asarray(rng.integers(*self.span, sizes)).astype(self.form)
        return random_value(rng, self.form, self.shape, words)

    @staticmethod
    def from_json(data: object, where: str) -> ValueInfo:
        """Read one back; raises ManifestError, which names the place."""
        fields = Fields(data, where)
        shape, place = fields.child("shape")
        if shape is not None and not (isinstance(shape, list | tuple) and all(_is_size(one) for one in shape)):
            raise ManifestError(f"{place} must be null or a list of sizes and nulls")
        span = fields.integers("span") if fields.child("span")[0] is not None else None
        if span is not None and not (len(span) == 2 and span[0] < span[1]):
            raise ManifestError(f"{where}.span must be two ascending whole numbers")
        both = None if span is None else (span[0], span[1])
        form = fields.text("form")
        if not is_form(form):
            raise ManifestError(f"{where}.form is unknown: {form!r}")
        return ValueInfo(fields.text("name"), form, None if shape is None else tuple(shape), both)

    def __str__(self) -> str:
        if self.shape is None or not is_tensor(self.form):
            return self.form
        return f"{self.form}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


def _is_size(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


@dataclass(frozen=True)
class Part:
    """A head or a tail.

    Attributes:
        place: ``head`` or ``tail``.
        key: what its ONNX model is called in the artifact.
        engine: ``onnxruntime`` or ``onnx.reference``: what it was compiled for.
        operators: what it consists of, e.g. ``NonMaxSuppression+Gather``.
        nodes: how many.
        inputs: names of the values that it takes.
        outputs: names of those that it gives.
        time_s: of a run on random inputs, measured; None where the model takes none.
        energy_j: of the same.
        energy_source: where that comes from.
        dram_bytes: what it reads and gives on these.
    """

    place: str
    key: str
    engine: str
    operators: str
    nodes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    time_s: float | None = None
    energy_j: float | None = None
    energy_source: EnergySource | None = None
    dram_bytes: float = 0.0

    @staticmethod
    def from_json(data: object, where: str) -> Part | None:
        """Read one back, None where there is none; raises ManifestError."""
        if data is None:
            return None
        fields = Fields(data, where)
        source: Any = fields.optional_text("energy_source")
        if source not in (None, *get_args(EnergySource)):
            raise ManifestError(f"{where}.energy_source is unknown: {source!r}")
        place = where.rpartition(".")[2]
        if fields.text("place") != place:
            raise ManifestError(f"{where}.place must be {place!r}, not {fields.text('place')!r}")
        return Part(
            place,
            fields.text("key"),
            fields.text("engine"),
            fields.text("operators"),
            fields.integer("nodes"),
            fields.texts("inputs"),
            fields.texts("outputs"),
            fields.optional_cost("time_s"),
            fields.optional_cost("energy_j"),
            source,
            fields.number("dram_bytes"),
        )


@dataclass(frozen=True)
class Parts:
    """What stands around a compiled function.

    Attributes:
        inputs: what the caller supplies, in the model's order.
        outputs: what the caller receives.
        head: runs before; None where nothing does.
        tail: runs after; None where nothing does.
        words: text that the model holds, for random inputs.
    """

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    head: Part | None = None
    tail: Part | None = None
    words: tuple[str, ...] = ()

    @property
    def there(self) -> tuple[Part, ...]:
        """Those parts that there are, in the order in which they run."""
        return tuple(part for part in (self.head, self.tail) if part is not None)

    def check(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Make sure that whatever is read is there when it is.

        Args:
            inputs: of the compiled function.
            outputs: of the compiled function.

        Raises:
            ManifestError: something reads a value that nothing before it gives.
        """
        known = {one.name for one in self.inputs}
        parts = [[] if one is None else [(one.place, one.inputs, one.outputs)] for one in (self.head, self.tail)]
        function = ("the compiled function", inputs, outputs)
        wanted = ("the caller", [one.name for one in self.outputs], ())
        for what, read, given in (*parts[0], function, *parts[1], wanted):
            missing = next((name for name in read if name not in known), None)
            if missing is not None:
                raise ManifestError(f"{what} reads {missing!r}, which nothing before it gives")
            known.update(given)

    def random_inputs(self, seed: int) -> list[Any]:
        """Seeded inputs in the model's order."""
        rng = np.random.default_rng(seed)
        return [one.random(rng, self.words) for one in self.inputs]

    @staticmethod
    def from_json(data: object, where: str) -> Parts | None:
        """Read them back, None where there are none; raises ManifestError."""
        if data is None:
            return None
        fields = Fields(data, where)
        return Parts(
            tuple(ValueInfo.from_json(*item) for item in fields.items("inputs")),
            tuple(ValueInfo.from_json(*item) for item in fields.items("outputs")),
            Part.from_json(*fields.child("head")),
            Part.from_json(*fields.child("tail")),
            fields.texts("words"),
        )


def describe(value: Any) -> str:
    """What a value is, e.g. ``float32[1,3]``, ``a list of 2``."""
    if isinstance(value, np.ndarray):
        array: npt.NDArray[Any] = value
        return f"{'text' if array.dtype.kind in 'OU' else array.dtype}[{','.join(map(str, array.shape))}]"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else type(value).__name__
