"""The tensors of an exported function, in their layouts: values that lie inside others are parts of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from joulec.passes.graph import Concat, Node, Part, TensorType, Value
from joulec.passes.kernels import loops
from joulec.passes.kernels.offsets import at_offsets
from joulec.passes.layouts.layout import PLAIN, blocked_shape, same_memory
from joulec.passes.layouts.values import LaidOut
from joulec.profiler.dtypes import carrier

Converter = Callable[[TensorType, int, int, tuple[int, ...]], Any]
"""The kernel that brings a tensor of a type from one layout to another, with operand or result at an offset."""


def relax_type(type: TensorType, layout: int = PLAIN) -> Any:
    """The Relax type of a tensor in a layout."""
    return relax.TensorType(blocked_shape(type.shape, layout), carrier(type.dtype))


def unique_names(names: Iterable[str]) -> list[str]:
    """Names that Relax accepts, made distinct."""
    found: list[str] = []
    for name in names:
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "input"
        base = base if not base[0].isdigit() else f"_{base}"
        candidate, count = base, 1
        while candidate in found:
            count += 1
            candidate = f"{base}_{count}"
        found.append(candidate)
    return found


class Tensors:
    """Relax expressions of a graph's values.

    A tensor that holds parts is allocated by the first call that writes one. Each call that writes another gives the
    next version of it, in place, and whoever reads takes the latest: so calls keep their order, and none is dropped.

    Args:
        builder: inside the function.
        parts: which values lie inside others.
        layouts: of the tensors that hold them, where they are not row-major.
        inputs: expressions of its inputs.
        converter: makes conversions.
    """

    def __init__(
        self,
        builder: Any,
        parts: Mapping[Value, Part],
        layouts: Mapping[Value, int],
        inputs: Mapping[Value, Any],
        converter: Converter,
    ) -> None:
        self._builder = builder
        self._layouts = layouts
        self._converter = converter
        self._inputs = dict(inputs)
        self._values = self._only({})
        self._parts = {**parts, **{part.whole: Part(part.whole, 0) for part in parts.values()}}

    def _only(self, known: Mapping[tuple[Value, int], Any]) -> LaidOut:
        """The inputs, and what else is known."""
        values = LaidOut(self._reshape, self._convert)
        for value, expression in self._inputs.items():
            values.keep(value, PLAIN, expression)
        for (value, layout), expression in known.items():
            values.keep(value, layout, expression)
        return values

    def argument(self, value: Value, layout: int = PLAIN) -> tuple[Any, ...]:
        """What a kernel is given to read a value: the tensor, or offset and tensor where it lies inside another."""
        if not self.lies_inside(value, layout):
            return (self.read(value, layout),)
        part = self._parts[value]
        return _offset(part), self._values.read(part.whole, layout)

    def lies_inside(self, value: Value, layout: int = PLAIN) -> bool:
        """Whether a value in a layout is a part of another."""
        return self.is_shared(value, layout) and self._parts[value].whole != value

    def is_shared(self, value: Value, layout: int = PLAIN) -> bool:
        """Whether a value in a layout is a part of another, or holds some: its kernel writes at an offset."""
        return value in self._parts and layout == self._layout(self._parts[value])

    def _layout(self, part: Part) -> int:
        """The layout of the tensor that holds a part."""
        return self._layouts.get(part.whole, PLAIN)

    def read(self, value: Value, layout: int = PLAIN) -> Any:
        """A value as a tensor of its own in a layout; a part is copied out."""
        part = self._parts.get(value)
        if part is None or part.whole == value or self._values.knows(value, layout):
            return self._values.read(value, layout)
        inside = self._layout(part)
        if same_memory(value.type.shape, inside, layout):
            found = self._copied_out(part, value.type, layout)
        else:
            kernel = self._converter(value.type, inside, layout, (0,))
            arguments = relax.Tuple(self.argument(value, inside))
            found = self._builder.emit(relax.op.call_tir(kernel, arguments, relax_type(value.type, layout)))
        self._values.keep(value, layout, found)
        return found

    def _copied_out(self, part: Part, type: TensorType, layout: int) -> Any:
        """A part as a tensor of its own, in a layout in which its memory looks alike."""
        flat = self._reshape(self._values.read(part.whole, self._layout(part)), (part.whole.type.size,))
        end = part.offset + type.size
        copied = self._builder.emit(relax.op.strided_slice(flat, axes=[0], begin=[part.offset], end=[end]))
        return self._reshape(copied, blocked_shape(type.shape, layout))

    def close(self, needed: Iterable[Value]) -> Callable[[], None]:
        """End a dataflow block: what is known of these values is its output.

        Returns:
            To be called after the block, so that later ones can read the values.
        """
        holders = (self._parts[value].whole if value in self._parts else value for value in needed)
        made = [one for one in dict.fromkeys(holders) if one not in self._inputs and self._values.home(one) is not None]
        names = [(one, self._values.home(one) or PLAIN) for one in made]
        together = None
        if names:
            together = self._builder.emit_output(relax.Tuple([self._values.read(*name) for name in names]))

        def take() -> None:
            known = {name: self._builder.emit(relax.TupleGetItem(together, i)) for i, name in enumerate(names)}
            self._values = self._only(known)

        return take

    def _reshape(self, data: Any, shape: tuple[int, ...]) -> Any:
        return self._builder.emit(relax.op.reshape(data, shape))

    def _convert(self, type: TensorType, source: int, layout: int, data: Any) -> Any:
        kernel = self._converter(type, source, layout, ())
        return self._builder.emit(relax.op.call_tir(kernel, relax.Tuple([data]), relax_type(type, layout)))

    def keep(self, value: Value, expression: Any) -> None:
        """A value that was computed as a row-major tensor of its own; a part is copied in."""
        if value in self._parts:
            self._bring_in(self._parts[value], value.type, PLAIN, expression)
        else:
            self._values.keep(value, PLAIN, expression)

    def join(self, node: Node, operands: Sequence[Any]) -> None:
        """Copy the operands of a concat that are not in place, given as expressions, into its result."""
        assert isinstance(node.op, Concat)
        around = self._parts[node.outputs[0]]
        begin = around.offset
        for operand, stays, expression in zip(node.operands, node.op.in_place, operands, strict=True):
            if not stays:
                self._bring_in(Part(around.whole, begin), operand.type, PLAIN, expression)
            begin += operand.type.size

    def _copy_in(self, part: Part, type: TensorType, expression: Any) -> None:
        """Copy a tensor in the layout of the one that holds a part to where that begins."""
        shaped = TensorType(blocked_shape(type.shape, self._layout(part)), type.dtype)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            loops.repeat(type.size, lambda index: loops.store(results[0], index, operands[0][index]))

        kernel = self._builder.add_func(at_offsets(loops.prim_func([shaped], [shaped], body), {1}), "copy_in")
        self._write(part, kernel, [expression])

    def compute(self, values: Sequence[Value], kernel: Any, arguments: Sequence[Any], layout: int = PLAIN) -> None:
        """Call a kernel for its results, which it writes in a layout.

        One that `is_shared` is the only one, and is written at an offset; one that belongs inside another tensor but is
        in another layout is converted on its way there.
        """
        if len(values) == 1 and self.is_shared(values[0], layout):
            self._write(self._parts[values[0]], kernel, arguments)
            return
        types = [relax_type(value.type, layout) for value in values]
        called = self._builder.emit(
            relax.op.call_tir(kernel, relax.Tuple(arguments), types[0] if len(types) == 1 else types)
        )
        for index, value in enumerate(values):
            found = called if len(values) == 1 else self._builder.emit(relax.TupleGetItem(called, index))
            self._values.keep(value, layout, found)
            if value in self._parts:
                self._bring_in(self._parts[value], value.type, layout, found)

    def _bring_in(self, part: Part, type: TensorType, layout: int, expression: Any) -> None:
        """Bring a tensor in some layout to where a part begins."""
        inside = self._layout(part)
        if layout == inside:
            self._copy_in(part, type, expression)
        elif same_memory(type.shape, layout, inside):
            self._copy_in(part, type, self._reshape(expression, blocked_shape(type.shape, inside)))
        else:
            self._write(part, self._converter(type, layout, inside, (1,)), [expression])

    def _write(self, part: Part, kernel: Any, arguments: Sequence[Any]) -> None:
        layout = self._layout(part)
        arguments = [*arguments, _offset(part)]
        type = relax_type(part.whole.type, layout)
        if self._values.knows(part.whole, layout):
            version = self._values.read(part.whole, layout)
            call = relax.op.call_tir_inplace(kernel, relax.Tuple([*arguments, version]), [len(arguments)], type)
        else:
            call = relax.op.call_tir(kernel, relax.Tuple(arguments), type)
        self._values.keep(part.whole, layout, self._builder.emit(call))


def _offset(part: Part) -> Any:
    return tirx.const(part.offset, "int64")
