"""The tensors of an exported function: values that lie inside others are parts of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from joulec.passes.graph import Concat, Node, Part, TensorType, Value
from joulec.passes.kernels import loops
from joulec.passes.kernels.offsets import at_offsets
from joulec.profiler.dtypes import carrier


def relax_type(type: TensorType) -> Any:
    """The Relax type of a tensor."""
    return relax.TensorType(type.shape, carrier(type.dtype))


class Tensors:
    """Relax expressions of a graph's values.

    A tensor that holds parts is allocated by the first call that writes one. Each call that writes another gives the
    next version of it, in place, and whoever reads takes the latest: so calls keep their order, and none is dropped.

    Args:
        builder: inside the function.
        parts: which values lie inside others.
        inputs: expressions of its inputs.
    """

    def __init__(self, builder: Any, parts: Mapping[Value, Part], inputs: Mapping[Value, Any]) -> None:
        self._builder = builder
        self._inputs = frozenset(inputs)
        self._known = dict(inputs)
        self._parts = {**parts, **{part.whole: Part(part.whole, 0) for part in parts.values()}}

    def argument(self, value: Value) -> tuple[Any, ...]:
        """What a kernel is given to read a value: the tensor, or offset and tensor where it `lies_inside` another."""
        if not self.lies_inside(value):
            return (self._known[value],)
        part = self._parts[value]
        return _offset(part), self._known[part.whole]

    def lies_inside(self, value: Value) -> bool:
        """Whether a value is a part of another."""
        part = self._parts.get(value)
        return part is not None and part.whole != value

    def is_shared(self, value: Value) -> bool:
        """Whether a value is a part of another, or holds some: its kernel writes at an offset."""
        return value in self._parts

    def read(self, value: Value) -> Any:
        """A value as a tensor of its own; a part is copied out."""
        if not self.lies_inside(value):
            return self._known[value]
        part = self._parts[value]
        flat = self._builder.emit(relax.op.reshape(self._known[part.whole], (part.whole.type.size,)))
        end = part.offset + value.type.size
        copied = self._builder.emit(relax.op.strided_slice(flat, axes=[0], begin=[part.offset], end=[end]))
        return self._builder.emit(relax.op.reshape(copied, value.type.shape))

    def close(self, needed: Iterable[Value]) -> Callable[[], None]:
        """End a dataflow block: what is known of these values is its output.

        Returns:
            To be called after the block, so that later ones can read the values.
        """
        holders = (self._parts[value].whole if value in self._parts else value for value in needed)
        names = [one for one in dict.fromkeys(holders) if one in self._known and one not in self._inputs]
        if not names:
            return lambda: None
        together = self._builder.emit_output(relax.Tuple([self._known[name] for name in names]))

        def take() -> None:
            for index, name in enumerate(names):
                self._known[name] = self._builder.emit(relax.TupleGetItem(together, index))

        return take

    def keep(self, value: Value, expression: Any) -> None:
        """A value that was computed as a tensor of its own; a part is copied in."""
        if self.is_shared(value):
            self._copy_in(self._parts[value], value.type, expression)
        else:
            self._known[value] = expression

    def join(self, node: Node, operands: Sequence[Any]) -> None:
        """Copy the operands of a concat that are not in place, given as expressions, into its result."""
        assert isinstance(node.op, Concat)
        around = self._parts[node.outputs[0]]
        begin = around.offset
        for operand, stays, expression in zip(node.operands, node.op.in_place, operands, strict=True):
            if not stays:
                self._copy_in(Part(around.whole, begin), operand.type, expression)
            begin += operand.type.size

    def _copy_in(self, part: Part, type: TensorType, expression: Any) -> None:
        """Copy a tensor of a type to where a part begins."""

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            loops.repeat(type.size, lambda index: loops.store(results[0], index, operands[0][index]))

        kernel = self._builder.add_func(at_offsets(loops.prim_func([type], [type], body), {1}), "copy_in")
        self._write(part, kernel, [expression])

    def compute(self, values: Sequence[Value], kernel: Any, arguments: Sequence[Any]) -> None:
        """Call a kernel for its results; one that `is_shared` is the only one, and is written at an offset."""
        if len(values) == 1 and self.is_shared(values[0]):
            self._write(self._parts[values[0]], kernel, arguments)
            return
        types = [relax_type(value.type) for value in values]
        called = self._builder.emit(
            relax.op.call_tir(kernel, relax.Tuple(arguments), types[0] if len(types) == 1 else types)
        )
        if len(values) == 1:
            self._known[values[0]] = called
            return
        for index, value in enumerate(values):
            self._known[value] = self._builder.emit(relax.TupleGetItem(called, index))

    def _write(self, part: Part, kernel: Any, arguments: Sequence[Any]) -> None:
        arguments = [*arguments, _offset(part)]
        type = relax_type(part.whole.type)
        version = self._known.get(part.whole)
        if version is None:
            call = relax.op.call_tir(kernel, relax.Tuple(arguments), type)
        else:
            call = relax.op.call_tir_inplace(kernel, relax.Tuple([*arguments, version]), [len(arguments)], type)
        self._known[part.whole] = self._builder.emit(call)


def _offset(part: Part) -> Any:
    return tirx.const(part.offset, "int64")
