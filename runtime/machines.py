"""How each TVM runs a library's functions: 0.27 by Relax's virtual machine, 0.19 by one graph executor per function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.profiler.nvcc import COMPILE_CALLBACK, compile_cubin, find_nvcc
from joulec.runtime.external import EXTERNALS, FUNCTION, ExternalError
from joulec.runtime.manifest import Entry
from joulec.runtime.profile import STEPS_SUFFIX
from joulec.words import plain_word

_Array = npt.NDArray[Any]


class GpuError(RuntimeError):
    """A GPU that is needed is not there."""


class Machine(Protocol):
    """A loaded library.

    Attributes:
        reuses: whether the next call overwrites what a call returned.
    """

    reuses: bool

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An aligned tensor."""

    def wrap(self, array: _Array) -> Any:
        """A tensor in the array's memory, which is aligned."""

    def view(self, tensor: Any) -> _Array:
        """An array in the tensor's memory."""

    def function(self, entry: Entry, weights: Sequence[Any]) -> Callable[..., Any]:
        """What takes the inputs and returns a tensor or several."""

    def steps(self, entry: Entry, weights: Sequence[Any], watch: Callable[..., int]) -> Callable[..., Any] | None:
        """The same function run step by step, each told to ``watch``; None where the library has none."""


class RelaxMachine:
    """The virtual machine of TVM 0.27."""

    reuses = False

    def __init__(self, tvm: Any, library: Path) -> None:
        tvm.register_global_func(FUNCTION, partial(_call_external, np.from_dlpack), override=True)
        tvm.error.register_error(ExternalError.__name__, ExternalError)  # it passes through the machine as it is
        self._tvm, self._library = tvm, tvm.runtime.load_module(str(library))
        self._machine = tvm.relax.VirtualMachine(self._library, tvm.cpu())
        self.empty: Callable[..., Any] = partial(tvm.runtime.empty, device=tvm.cpu())
        self.wrap: Callable[[_Array], Any] = tvm.runtime.from_dlpack
        self.view: Callable[[Any], _Array] = np.from_dlpack

    def function(self, entry: Entry, weights: Sequence[Any]) -> Callable[..., Any]:
        """See `Machine`."""
        function = self._machine[entry.function]
        return lambda *inputs: function(*inputs, *weights)

    def steps(self, entry: Entry, weights: Sequence[Any], watch: Callable[..., int]) -> Callable[..., Any] | None:
        """See `Machine`."""
        name = f"{entry.function}{STEPS_SUFFIX}"
        machine = self._tvm.relax.VirtualMachine(self._library, self._tvm.cpu())  # one that nobody else calls
        if not machine.module.implements_function(name):
            return None
        machine.set_instrument(watch)
        function = machine[name]
        return lambda *inputs: function(*inputs, *weights)


class DeviceMachine(RelaxMachine):
    """The same on a device whose memory is its own: inputs and results are copied on each call, weights once.

    Tensors that come and go lie in the host's memory, as with the other machines.

    Args:
        device: TVM's device.
    """

    def __init__(self, tvm: Any, library: Path, device: Any) -> None:
        super().__init__(tvm, library)
        self._device = device
        self._machine = tvm.relax.VirtualMachine(self._library, device)
        self._held: dict[int, tuple[Any, Any]] = {}

    def function(self, entry: Entry, weights: Sequence[Any]) -> Callable[..., Any]:
        """See `Machine`."""
        function = self._machine[entry.function]
        held = [self._hold(weight) for weight in weights]

        def call(*inputs: Any) -> list[Any]:
            result = function(*(tensor.copyto(self._device) for tensor in inputs), *held)
            parts = [result] if hasattr(result, "copyto") else list(result)
            copies = [part.copyto(self._tvm.cpu()) for part in parts]
            self._device.sync()
            return copies

        return call

    def _hold(self, weight: Any) -> Any:
        """The weight on the device; entries share it."""
        address = self.view(weight).ctypes.data
        if address not in self._held:
            self._held[address] = (weight, weight.copyto(self._device))
        return self._held[address][1]

    def steps(self, entry: Entry, weights: Sequence[Any], watch: Callable[..., int]) -> Callable[..., Any] | None:
        """See `Machine`: what is watched would be launches, not what they launch."""
        return None


class RelayMachine:
    """Graph executors of TVM 0.19; weights are set once and shared by all."""

    reuses = True

    def __init__(self, tvm: Any, library: Path) -> None:
        tvm.register_func(FUNCTION, partial(_call_external, _view), override=True)
        self._tvm = tvm
        self._library = tvm.runtime.load_module(str(library))
        self.empty: Callable[..., Any] = tvm.nd.empty
        self.wrap: Callable[[_Array], Any] = tvm.nd.from_dlpack

    def view(self, tensor: Any) -> _Array:
        """See `Machine`."""
        return _view(tensor)

    def function(self, entry: Entry, weights: Sequence[Any]) -> Callable[..., Any]:
        """See `Machine`."""
        from tvm.contrib import graph_executor

        create = self._library.get_function(entry.function, query_imports=True)
        machine = graph_executor.GraphModule(create(self._tvm.cpu()))
        for digest, weight in zip(entry.weights, weights, strict=True):
            if machine.get_input_index(f"w_{digest}") >= 0:  # what no kernel reads has no place
                machine.module["set_input_zero_copy"](f"w_{digest}", weight)
        places = [machine.get_input_index(plain_word(tensor.name)) for tensor in entry.inputs]
        put, run, take = (machine.module[name] for name in ("set_input_zero_copy", "run", "get_output"))
        count = machine.get_num_outputs()

        def call(*inputs: Any) -> list[Any]:
            for place, tensor in zip(places, inputs, strict=True):
                if place >= 0:
                    put(place, tensor)
            run()
            return [take(index) for index in range(count)]

        return call

    def steps(self, entry: Entry, weights: Sequence[Any], watch: Callable[..., int]) -> Callable[..., Any] | None:
        """See `Machine`: graph executors have none."""
        return None


def make_machine(frontend: str, tvm: Any, library: Path, arch: str | None = None) -> Machine:
    """The machine that a library of a back end needs.

    Args:
        arch: the GPU's architecture that it was compiled for; None for CPUs.

    Raises:
        GpuError: it needs a GPU, and there is none.
        NvccError: it needs a GPU, and there is no nvcc: libraries hold CUDA source.
    """
    if frontend == "relay":
        return RelayMachine(tvm, library)
    if arch is None:
        return RelaxMachine(tvm, library)
    device = tvm.cuda(0)
    if not device.exist:
        raise GpuError(
            f"the model was compiled for a GPU ({arch}), and TVM finds none here: an NVIDIA GPU and its driver are "
            "needed"
        )
    find_nvcc()
    tvm.register_global_func(COMPILE_CALLBACK, lambda source: compile_cubin(str(source), arch), override=True)
    return DeviceMachine(tvm, library, device)


def _view(tensor: Any) -> _Array:
    """An array in the memory of a tensor of TVM 0.19, whose DLPack numpy takes as read-only."""
    described = tensor.handle.contents
    shape, dtype = tuple(tensor.shape), np.dtype(tensor.dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = (ctypes.c_uint8 * size).from_address(described.data + described.byte_offset)
    array: _Array = np.frombuffer(raw, dtype).reshape(shape)
    return array


def _call_external(view: Callable[[Any], _Array], digest: str, *tensors: Any) -> None:
    EXTERNALS(str(digest), [view(tensor) for tensor in tensors])
