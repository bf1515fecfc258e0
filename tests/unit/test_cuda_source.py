"""The CUDA kernels, compiled as C++ for the CPU, against their Numba twins."""

from __future__ import annotations

import ctypes
import inspect
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.optics import kernels_cpu, kernels_cuda
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.kernels import find_support
from hpctem.optics.spreading import make_deposits, window_table

SHAPE = (3, 44, 57)
GRID = Grid(SHAPE[1:], (8.8, 11.4))

# One thread after another: blockIdx and threadIdx are plain variables that a loop sets.
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


def declare_loops(source: str) -> str:
    loops = ""
    for text in source.split('extern "C" __global__ void ')[1:]:
        name, rest = text.split("(", 1)
        declared = " ".join(rest.split(")", 1)[0].split())
        passed = ", ".join(item.split()[-1].lstrip("*") for item in declared.split(","))
        loops += LOOP.format(name=name, declared=declared, passed=passed)
    return loops


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The wrappers of `kernels_cuda`, launching on the CPU instead of through CuPy."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler")
    folder: Path = tmp_path_factory.mktemp("cuda")
    (folder / "kernels.cpp").write_text(
        SHIM + kernels_cuda.SOURCE + declare_loops(kernels_cuda.SOURCE)
    )
    command = [compiler, "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    subprocess.run([*command, "kernels.cpp", "-o", "kernels.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def convert(value: object) -> object:
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        kinds = {np.int32: ctypes.c_int, np.int64: ctypes.c_longlong, np.float32: ctypes.c_float}
        return kinds[type(value)](value.item())  # a Python number would be passed as garbage

    def launch(name: str, size: int, *arguments: object) -> None:
        blocks = -(-size // kernels_cuda.THREADS)
        converted = [convert(value) for value in arguments]
        getattr(library, f"run_{name}")(
            ctypes.c_uint(blocks), ctypes.c_uint(kernels_cuda.THREADS), *converted
        )

    kernels_cuda_launch = kernels_cuda._launch
    kernels_cuda._launch = launch
    yield kernels_cuda
    kernels_cuda._launch = kernels_cuda_launch


def make_field(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    parts = np.random.default_rng(seed).standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def make_half() -> np.ndarray:
    return antialias_aperture(GRID).astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


def list_functions(module: object) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }


def test_both_modules_have_the_same_functions() -> None:
    assert list_functions(kernels_cpu) == list_functions(kernels_cuda)
    assert len(list_functions(kernels_cpu)) == 8


@pytest.mark.parametrize("slices", [(0, 2), (1, -1)])
def test_spread(cuda, monkeypatch: pytest.MonkeyPatch, slices: tuple[int, int]) -> None:
    """Bins, wrapping at every edge, and atoms on a pixel or between."""
    generator = np.random.default_rng(5)
    row, column = generator.uniform(0, 1, (2, 400)) * np.array(SHAPE[1:])[:, None]
    row[:20], column[20:40] = 0.0, np.floor(column[20:40])
    row[40:60] = SHAPE[1] - 1e-9
    layer = generator.integers(0, 3 * SHAPE[0], 400)
    weight = generator.uniform(0.5, 2, 400).astype(np.float32)
    cpu = select_backend("cpu")
    table = window_table()
    expected, found = np.zeros(SHAPE, np.complex64), np.full(SHAPE, np.nan, np.complex64)
    deposits, order = make_deposits(row, column, layer, (SHAPE[0], 3), GRID, cpu)
    kernels_cpu.spread(expected, deposits._replace(weight=weight[order]), slices, table)
    monkeypatch.setattr(kernels_cpu, "bin_side", kernels_cuda.bin_side)
    binned, order = make_deposits(row, column, layer, (SHAPE[0], 3), GRID, cpu)
    assert binned.bins == (6, 8)
    cuda.spread(found, binned._replace(weight=weight[order]), slices, table)
    assert_close(found, expected)


@pytest.mark.parametrize("add", [False, True])
def test_combine(cuda, add: bool) -> None:
    half = make_half()
    expected, found = make_field(1), make_field(1)
    kernels_cpu.combine(expected, make_field(2), half, find_support(half), add)
    cuda.combine(found, make_field(2), half, find_support(half), add)
    assert_close(found, expected)


@pytest.mark.parametrize("part", [0, 1])
def test_phase_object(cuda, part: int) -> None:
    potential = 3000 * make_field(3)
    expected, found = np.empty_like(potential), np.empty_like(potential)
    kernels_cpu.phase_object(expected, potential, part, 7e-4)
    cuda.phase_object(found, potential, part, 7e-4)
    assert_close(found, expected)
    exact = np.exp(1j * np.float32(7e-4) * (potential.imag if part else potential.real))
    assert np.abs(expected - exact).max() < 3e-6


def test_multiply(cuda) -> None:
    expected, found = make_field(1), make_field(1)
    kernels_cpu.multiply(expected, make_field(2))
    cuda.multiply(found, make_field(2))
    assert_close(found, expected)


def test_propagate(cuda) -> None:
    half = make_half()
    along_y, along_x = make_field(4, SHAPE[1:2]), make_field(5, SHAPE[2:])
    expected, found = make_field(1), make_field(1)
    kernels_cpu.propagate(expected, along_y, along_x, half, find_support(half))
    cuda.propagate(found, along_y, along_x, half, find_support(half))
    assert_close(found, expected)


def test_focus(cuda) -> None:
    along_y, along_x = make_field(4, SHAPE[1:2]), make_field(5, SHAPE[2:])
    expected, found = np.empty(SHAPE, np.complex64), np.empty(SHAPE, np.complex64)
    for kernels, out in ((kernels_cpu, expected), (cuda, found)):
        kernels.focus(out, make_field(1), make_field(6, SHAPE[1:]), along_y, along_x)
    assert_close(found, expected)


def test_accumulate(cuda) -> None:
    weights = np.array([0.2, 0.5, 1.5], np.float32)
    expected, found = np.ones(SHAPE[1:], np.float32), np.ones(SHAPE[1:], np.float32)
    kernels_cpu.accumulate(expected, make_field(1), weights)
    cuda.accumulate(found, make_field(1), weights)
    assert_close(found, expected)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no CUDA compiler")
def test_nvcc_accepts_the_source(tmp_path: Path) -> None:
    (tmp_path / "kernels.cu").write_text(kernels_cuda.SOURCE)
    run = subprocess.run(
        ["nvcc", "-std=c++14", "-Werror", "all-warnings", "-ptx", "kernels.cu"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
