"""Pinned lowering: one Relay function to one compiled kernel, under the implementation that was chosen.

A node stands in an exported module as a function of its own whose body is plain Relay and whose attribute `ALGORITHM`
names implementation and configuration. It is marked for the external compiler ``joulec``, so that no pass of
`relay.build` rewrites or fuses it, and `relay.build` hands it to `compile_kernel`, which measuring uses as well.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import autotvm, relay
from tvm.autotvm.task.space import ConfigEntity, FallbackConfigEntity, OtherOptionEntity, SplitEntity
from tvm.topi.x86 import dense

from joulec.passes.graph import NodeSpec
from joulec.passes.relay.algorithm import DENSE, RelayAlgorithm, kernel_name
from joulec.passes.relay.emit import emit_function
from joulec.passes.relay.external import DIGEST, compile_external

COMPILER = "joulec"
ALGORITHM = "joulec.algorithm"
_AOT_MARK = "used_memory"
"""An attribute that `relay.build` gives functions for the AOT executor alone."""


class Pinned(autotvm.FallbackContext):  # type: ignore[misc]
    """Answers for one AutoTVM template with one configuration, for every other one with TVM's fallback.

    Args:
        template: its name; empty pins nothing.
        config: tiles and knobs by name; empty takes TVM's own for a matrix product.
    """

    def __init__(self, template: str, config: dict[str, Any]) -> None:
        super().__init__()
        self._template = template
        self._config = config

    def query(self, target: Any, workload: Any) -> Any:
        """The configuration of a workload."""
        if workload is None or workload[0] != self._template:
            return super()._query_inside(target, workload)
        tiles: dict[str, Any] = {} if self._config else _dense_default(workload)
        tiles.update({name: _entity(name, value) for name, value in self._config.items()})
        found = ConfigEntity(0, None, tiles, [])
        found.cost = 0.0
        return found

    def _query_inside(self, target: Any, workload: Any) -> Any:
        return self.query(target, workload)


def _dense_default(workload: Any) -> dict[str, Any]:
    """TVM's fallback tiles of a matrix product, as a configuration that its strategy prefers."""
    (rows, depth), (columns, _) = workload[1][1], workload[2][1]
    config = FallbackConfigEntity()
    fill = dense._default_dense_pack_config if "_pack" in workload[0] else dense._default_dense_nopack_config
    fill(config, rows, columns, depth)
    return dict(config._entity_map)


def _entity(name: str, value: int | list[int]) -> Any:
    """A knob of an AutoTVM configuration: all sizes of a split, its innermost one, or an option."""
    if isinstance(value, list):
        return SplitEntity([-1, *value[1:]])
    if name in ("tile_ic", "tile_oc", "tile_ow"):
        return SplitEntity([-1, value])
    return OtherOptionEntity(bool(value) if name == "unroll_kw" else value)


def kernel_function(spec: NodeSpec, algorithm: RelayAlgorithm) -> Any:
    """The node as a Relay function that `relay.build` compiles under its algorithm."""
    function = emit_function(spec, algorithm)
    one = tvm.tir.IntImm("int32", 1)
    for key, value in (
        ("Compiler", COMPILER),
        ("Primitive", one),
        ("Inline", one),
        ("global_symbol", kernel_name(spec, algorithm)),
        (ALGORITHM, algorithm_text(algorithm)),
    ):
        function = function.with_attr(key, value)
    return function


def algorithm_text(algorithm: RelayAlgorithm) -> str:
    """What the attribute holds."""
    return json.dumps(
        {
            "implementation": algorithm.implementation,
            "config": dict(algorithm.config),
            "target": algorithm.target.target,
        },
        sort_keys=True,
    )


def compile_kernel(function: Any) -> Any:
    """Compile one function of an exported module; `relay.build` calls this.

    Returns:
        A runtime module with one function, named by ``global_symbol``.
    """
    name = str(function.attrs["global_symbol"])
    attributes = dict(function.attrs.items())
    in_aot = _AOT_MARK in attributes
    if DIGEST in attributes:
        built = compile_external(function, name)
        return _linked_once(built, name) if in_aot else built
    asked = json.loads(str(function.attrs[ALGORITHM]))
    target = tvm.target.Target(json.loads(asked["target"]))
    plain = relay.Function(function.params, function.body, function.ret_type)
    plain = plain.with_attr("Primitive", tvm.tir.IntImm("int32", 1)).with_attr(ALGORITHM, f"{name} {asked}")
    primitive = relay.transform.InferType()(tvm.IRModule.from_expr(plain))["main"]
    pinned = asked["implementation"] if asked["config"] or asked["implementation"] in DENSE else ""
    options = {"tir.disable_assert": in_aot}  # the AOT executor passes addresses without shapes
    with target, Pinned(pinned, asked["config"]), tvm.transform.PassContext(opt_level=3, config=options):
        lowered = relay.backend.te_compiler.get().lower(primitive, target)
        (body,) = lowered.funcs.functions.values()
        built = tvm.build(tvm.IRModule({name: body.with_attr("global_symbol", name)}), target=target)
    return _linked_once(built, name) if in_aot else built


def _linked_once(module: Any, name: str) -> Any:
    """The compiled function as a weak symbol.

    The AOT executor compiles a function anew at each place where it is called, unlike the graph executor, and all of
    them meet when the library is linked.
    """
    text, count = re.subn(
        rf"^define dllexport (.*@{re.escape(name)}\()",
        r"define weak_odr dllexport \1",
        module.get_source("ll"),
        flags=re.MULTILINE,
    )
    assert count == 1, f"{count} definitions of {name}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ll"
        path.write_text(text)
        return tvm.runtime.load_module(str(path), "ll")


tvm.register_func(f"relay.ext.{COMPILER}", compile_kernel, override=True)


def compiled(spec: NodeSpec, algorithm: RelayAlgorithm) -> Any:
    """The packed function of a node: operands, then results."""
    return compile_kernel(kernel_function(spec, algorithm))[kernel_name(spec, algorithm)]
