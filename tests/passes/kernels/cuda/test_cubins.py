"""Every algorithm compiled to machine code of real GPUs by nvcc. Compiled, not run: this needs no GPU."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest
import tvm

from joulec.passes.relax.cuda_workload import own_executable
from joulec.profiler.nvcc import NvccError, compile_cubin, find_nvcc

sys.path.append(str(Path(__file__).parents[1] / "support"))

from cuda_cases import ARCHS, CASES, device_source, one_of_each, target

EM_CUDA = 190
STT_FUNC = 2


@pytest.fixture(scope="module", autouse=True)
def nvcc():
    try:
        return find_nvcc()
    except NvccError as error:
        pytest.skip(str(error))


def describe_elf(cubin):
    """Machine, architecture and names of functions of a 64-bit ELF file for a GPU."""
    assert cubin[:5] == b"\x7fELF\x02"
    machine, flags = struct.unpack_from("<H", cubin, 18)[0], struct.unpack_from("<I", cubin, 48)[0]
    (sections,) = struct.unpack_from("<Q", cubin, 40)
    size, count = struct.unpack_from("<HH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, sections + size * index) for index in range(count)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, entry in headers:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = headers[link][4]
        for at in range(offset, offset + length, entry):
            name, info = struct.unpack_from("<IB", cubin, at)
            if info & 15 == STT_FUNC:
                begin = strings + name
                names.add(cubin[begin : cubin.index(b"\0", begin)].decode())
    return machine, f"sm_{flags >> 8 & 255}", names


@pytest.mark.parametrize("arch", ARCHS)
def test_every_algorithm_becomes_machine_code(arch):
    chosen = target(arch)
    functions, launches = {}, {}
    for name, (node, kernel, params) in one_of_each(chosen).items():
        functions[name] = kernel.build(node.spec, params, chosen).with_attr("global_symbol", name)
        launches[name] = len(kernel.stages(node.spec, params))
    module = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(json.loads(chosen.target))).mod
    machine, found_arch, kernels = describe_elf(compile_cubin(device_source(module), arch))
    assert (machine, found_arch) == (EM_CUDA, arch)
    for name, least in launches.items():
        own = {kernel for kernel in kernels if kernel == f"{name}_kernel" or kernel.startswith(f"{name}_kernel_")}
        assert len(own) >= least, name
    assert "TVMBackendAllocWorkspace" in module.inspect_source("ll")  # what lies between stages


@pytest.mark.parametrize("arch", ARCHS)
def test_what_tvm_itself_does_becomes_machine_code(arch):
    chosen = tvm.target.Target(json.loads(target(arch).target))
    for label in ("3x3", "depthwise", "one row", "softmax", "local response norm", "concat"):
        executable = own_executable(CASES[label].spec, chosen)
        machine, found_arch, kernels = describe_elf(compile_cubin(device_source(executable.mod), arch))
        assert (machine, found_arch) == (EM_CUDA, arch)
        assert kernels, label
