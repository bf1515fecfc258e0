"""CUDA loops of a module, compiled as C++ and run on the CPU, one thread after another."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import shutil
import subprocess
from collections.abc import Iterator
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


def compile_by_nvcc(module: ModuleType, folder: Path) -> None:
    """The CUDA compiler takes the source without a warning, where there is one."""
    if not shutil.which("nvcc"):
        pytest.skip("no CUDA compiler")
    (folder / "kernels.cu").write_text(module.SOURCE)
    command = ["nvcc", "-std=c++14", "-Werror", "all-warnings", "-ptx", "kernels.cu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def list_functions(module: ModuleType) -> dict[str, list[str]]:
    """Names of the functions that a module offers, compiled or not, and of their parameters."""
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(module, callable)
        if not name.startswith("_") and getattr(function, "__module__", "") == module.__name__
    }
