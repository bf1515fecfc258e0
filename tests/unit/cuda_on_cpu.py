"""CUDA loops: compiled as C++ and run on the CPU, one thread after another; compiled for GPUs."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# What a C++ compiler lacks of CUDA: blockIdx and threadIdx are plain variables that a loop sets.
SHIM = """
#include <cmath>
#define __global__
#define __device__
struct index3 { unsigned x, y, z; };
static index3 blockIdx, threadIdx, blockDim;
"""
LOOP = """
extern "C" void run_{name}(unsigned blocks, unsigned threads, {declared})
{{
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {name}({passed});
}}
"""
# The only types that CuPy may be given for a parameter declared so; it converts nothing.
SCALARS = {
    "int": (np.int32, ctypes.c_int),
    "index_t": (np.int64, ctypes.c_longlong),
    "float": (np.float32, ctypes.c_float),
    "double": (np.float64, ctypes.c_double),
}
# Of arrays; complex numbers are pairs of these, and may be handed over as such.
PARTS = {"int": np.int32, "float": np.float32, "double": np.float64, "complex_t": np.float32}


def find_kernels(source: str) -> dict[str, list[str]]:
    """Names of the kernels of a source, and the declarations of their parameters."""
    kernels = {}
    for text in source.split('extern "C" __global__ void ')[1:]:
        name, rest = text.split("(", 1)
        declared = " ".join(rest.split(")", 1)[0].split())
        kernels[name] = [item.strip() for item in declared.split(",")]
    return kernels


def convert(declared: str, value: object) -> object:
    """A value as its parameter takes it; AssertionError where a GPU would read garbage."""
    kind = declared.removeprefix("const ").split()[0]
    if kind.endswith("*"):
        assert isinstance(value, np.ndarray) and value.flags.c_contiguous, declared
        assert value.real.dtype == PARTS[kind.rstrip("*")], (declared, value.dtype)
        return ctypes.c_void_p(value.ctypes.data)
    given, passed = SCALARS[kind]
    assert type(value) is given, (declared, type(value))
    return passed(value.item())


@contextlib.contextmanager
def launch_on_cpu(module: ModuleType, folder: Path) -> Iterator[ModuleType]:
    """The wrappers of a module of CUDA, launching on the CPU instead of through CuPy."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler")
    kernels = find_kernels(module.SOURCE)
    loops = [
        LOOP.format(
            name=name,
            declared=", ".join(declared),
            passed=", ".join(item.split()[-1].lstrip("*") for item in declared),
        )
        for name, declared in kernels.items()
    ]
    (folder / "loops.cpp").write_text(SHIM + module.SOURCE + "".join(loops))
    command = [compiler, "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    subprocess.run([*command, "loops.cpp", "-o", "loops.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "loops.so"))

    def launch(name: str, size: int, *arguments: object) -> None:
        blocks, threads = -(-size // module.THREADS), module.THREADS
        passed = [convert(*pair) for pair in zip(kernels[name], arguments, strict=True)]
        getattr(library, f"run_{name}")(ctypes.c_uint(blocks), ctypes.c_uint(threads), *passed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_launch", launch)
        yield module


def compile_for_gpu(source: str, *options: str) -> None:
    """NVIDIA's run-time compiler, which CuPy calls, makes machine code of it without a warning.

    For an A100 and an H100; no kernel needs more registers than a thread may have.
    """
    package = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") else None
    if package is None:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed (extra test)")
    [folder] = package.submodule_search_locations or []
    [library] = Path(folder, "lib").glob("libnvrtc.so.*")
    nvrtc = ctypes.CDLL(str(library))
    for architecture in ("sm_80", "sm_90"):
        given = [f"--gpu-architecture={architecture}", "--ptxas-options=-v", *options]
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        named = source.encode(), b"kernels.cu", 0, None, None
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), *named) == 0
        passed = (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
        code = nvrtc.nvrtcCompileProgram(program, len(given), passed)
        assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
        log = ctypes.create_string_buffer(size.value)
        assert nvrtc.nvrtcGetProgramLog(program, log) == 0
        text = log.value.decode()
        assert code == 0 and "warning" not in text, text
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0 and size.value > 1000
        spilled = re.findall(r"(\d+) bytes spill", text)
        assert len(spilled) == 2 * source.count("__global__") and set(spilled) == {"0"}, text


def list_functions(module: ModuleType) -> dict[str, list[str]]:
    """Names of the functions that a module offers, compiled or not, and of their parameters."""
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(module, callable)
        if not name.startswith("_") and getattr(function, "__module__", "") == module.__name__
    }
