"""Relax modules brought to the form that the importer reads: one function `main` of tensors of fixed shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from joulec.passes.module_errors import ImportModuleError


def prepared(
    module: Any, entry: str | None, input_shapes: Mapping[str, Sequence[int]], batch: int | None
) -> tuple[Any, bool]:
    """The module with its entry as `main`, its symbolic dimensions fixed and its tuples taken apart.

    Args:
        entry: which function; None takes `main`, or the only one that is public.
        input_shapes: shapes of inputs by name; the parts of a tuple are called after it, numbered from 0.
        batch: what leading dimensions that stay symbolic become; None leaves them.

    Returns:
        The module, and whether a leading dimension became the batch.

    Raises:
        ImportModuleError: no such function, or a dimension that stays unknown or contradicts another.
    """
    name = _entry(module, entry)
    sizes, batched = _sizes(module[name], input_shapes, batch)
    if sizes:
        module = relax.transform.BindSymbolicVars(sizes, name)(module)
    if name == "main" and _is_flat(module[name]):
        return module, batched
    return _wrapped(module, name), batched


def _entry(module: Any, asked: str | None) -> str:
    functions = {str(one.name_hint): function for one, function in module.functions_items()}
    relaxed = sorted(name for name, function in functions.items() if isinstance(function, relax.Function))
    if asked is not None:
        if asked not in relaxed:
            raise ImportModuleError(
                f"the module has no Relax function {asked!r}; it has {', '.join(relaxed) or 'none'}"
            )
        return asked
    if "main" in relaxed:
        return "main"
    public = [name for name in relaxed if "global_symbol" in (functions[name].attrs or {})]
    if len(public) != 1:
        has = f"it has {', '.join(public)}: choose one with entry=" if public else "it has no public function"
        raise ImportModuleError(f"the module has no Relax function 'main'; {has}")
    return public[0]


def _leaves(name: str, type: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a parameter, named."""
    if isinstance(type, relax.TupleType):
        for index, part in enumerate(type.fields):
            yield from _leaves(f"{name}_{index}", part)
    else:
        yield name, type


def _sizes(function: Any, input_shapes: Mapping[str, Sequence[int]], batch: int | None) -> tuple[dict[Any, int], bool]:
    """What each symbolic dimension becomes, and whether one became the batch."""
    inputs = {name: type for one in function.params for name, type in _leaves(one.name, one.ty)}
    for name in input_shapes:
        if name not in inputs:
            raise ImportModuleError(f"the module has no input {name!r}; its inputs are {', '.join(inputs)}")
    shapes = {name: list(type.shape.values) for name, type in inputs.items() if _has_shape(type)}
    sizes: dict[Any, int] = {}
    for name, shape in shapes.items():
        if name in input_shapes:
            _take(sizes, name, shape, input_shapes[name])
    batched = False
    for shape in shapes.values():
        if batch is not None and shape and _is_variable(shape[0]) and shape[0] not in sizes:
            sizes[shape[0]] = batch
            batched = True
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            if _is_variable(size) and size not in sizes:
                example = ",".join("1" if _is_variable(one) else f"{int(one)}" for one in shape)
                raise ImportModuleError(
                    f"input {name!r} has no size for dimension {axis} ({size.name!r}); give its shape, "
                    f"e.g. input_shapes={{'{name}': [{example}]}}"
                )
    return sizes, batched


def _take(sizes: dict[Any, int], name: str, shape: Sequence[Any], wanted: Sequence[int]) -> None:
    if len(wanted) != len(shape):
        raise ImportModuleError(f"input {name!r} has {len(shape)} dimensions, not {len(wanted)} as in {list(wanted)}")
    for size, asked in zip(shape, wanted, strict=True):
        if _is_variable(size):
            known = sizes.setdefault(size, int(asked))
            if known != asked:
                raise ImportModuleError(f"dimension {size.name!r} cannot be both {known} and {asked}")
        elif isinstance(size, tvm.tirx.IntImm) and int(size) != asked:
            raise ImportModuleError(f"input {name!r} has size {int(size)} where {list(wanted)} has {asked}")


def _has_shape(type: Any) -> bool:
    return isinstance(type, relax.TensorType) and isinstance(type.shape, relax.ShapeExpr)


def _is_variable(size: Any) -> bool:
    return isinstance(size, tvm.tirx.Var)


def _is_flat(function: Any) -> bool:
    nested = isinstance(function.ret_ty, relax.TupleType) and any(
        isinstance(part, relax.TupleType) for part in function.ret_ty.fields
    )
    return not nested and not any(isinstance(one.ty, relax.TupleType) for one in function.params)


def _wrapped(module: Any, name: str) -> Any:
    """The module with a `main` of tensors that calls the function and is all of it once that is inlined."""
    others = {one: function for one, function in module.functions_items() if one.name_hint not in (name, "main")}
    builder = relax.BlockBuilder(tvm.IRModule(others, attrs=module.attrs))
    function = module[name]
    inner = builder.add_func(function.without_attr("global_symbol"), f"{name}_body")
    parameters: list[Any] = []

    def argument(called: str, type: Any) -> Any:
        if isinstance(type, relax.TupleType):
            return relax.Tuple([argument(f"{called}_{index}", part) for index, part in enumerate(type.fields)])
        parameters.append(relax.Var(called, type))
        return parameters[-1]

    arguments = [argument(one.name, one.ty) for one in function.params]

    def parts(expression: Any, type: Any) -> Iterator[Any]:
        if not isinstance(type, relax.TupleType):
            yield expression
            return
        for index, part in enumerate(type.fields):
            yield from parts(builder.emit(relax.TupleGetItem(expression, index)), part)

    with builder.function("main", parameters, pure=bool(function.is_pure)):
        given = [builder.emit(one) if isinstance(one, relax.Tuple) else one for one in arguments]
        called = builder.emit(relax.Call(inner, given))
        results = list(parts(called, function.ret_ty))
        several = isinstance(function.ret_ty, relax.TupleType)
        builder.emit_func_output(builder.emit(relax.Tuple(results)) if several else results[0])
    return relax.transform.InlinePrivateFunctions()(builder.get())
