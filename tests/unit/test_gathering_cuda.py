"""The CUDA loops of incoherent images, compiled as C++ for the CPU, against their Numba twins."""

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
from hpctem.optics import gathering_cpu, gathering_cuda
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.probe import Probe, tabulate_probe
from hpctem.optics.spreading import window_table

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
TURNED = Probe(80e3, 0.025, 30, Aberrations(C12=20, phi12=0.4, C21=600, C30=1e4), 20, 0.5)


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
    """The wrappers of `gathering_cuda`, launching on the CPU instead of through CuPy."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler")
    folder: Path = tmp_path_factory.mktemp("cuda")
    source = gathering_cuda.SOURCE
    (folder / "loops.cpp").write_text(SHIM + source + declare_loops(source))
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "loops.cpp", "-o", "loops.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "loops.so"))

    def convert(value: object) -> object:
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        kinds = {np.int32: ctypes.c_int, np.float64: ctypes.c_double}
        return kinds[type(value)](value.item())  # a Python number would be passed as garbage

    def launch(name: str, size: int, *arguments: object) -> None:
        blocks = -(-size // gathering_cuda.THREADS)
        threads = ctypes.c_uint(gathering_cuda.THREADS)
        run = getattr(library, f"run_{name}")
        run(ctypes.c_uint(blocks), threads, *(convert(value) for value in arguments))

    kept = gathering_cuda._launch
    gathering_cuda._launch = launch
    yield gathering_cuda
    gathering_cuda._launch = kept


def list_functions(module: object) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(module)
        if not name.startswith("_") and getattr(function, "__module__", "") == module.__name__
    }


def test_both_modules_have_the_same_functions() -> None:
    found = list_functions(gathering_cpu)
    assert found == list_functions(gathering_cuda)
    assert sorted(found) == ["deposit", "fill_polar", "fill_round", "gather", "weigh"]


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_weigh(cuda, dtype: type) -> None:
    generator = np.random.default_rng(1)
    half, values = generator.normal(size=(2, 30, 17)) + 1j * generator.normal(size=(2, 30, 17))
    values = (values.real if dtype == np.float32 else values).astype(dtype)
    along_y, along_x = (generator.random(n, dtype=np.float32) for n in (30, 17))
    exact = half * values * along_y[:, None] * along_x
    for module in (gathering_cpu, cuda):
        found = half.astype(np.complex64)
        module.weigh(found, along_y, along_x, values)
        assert np.abs(found - exact).max() < 2e-6 * np.abs(exact).max()


def test_fill(cuda) -> None:
    """On the axes, about the band's end and beyond it."""
    band = 2 * TURNED.cutoff
    ky, kx = np.linspace(-1.1, 1.1, 41) * band, np.linspace(0, 1.1, 29) * band
    ky[20] = 0.0
    table = tabulate_probe(TURNED)
    found, expected = (np.full((41, 29), np.nan, np.complex64) for _ in range(2))
    cuda.fill_polar(found, ky, kx, table.radial, table.means, band)
    gathering_cpu.fill_polar(expected, ky, kx, table.radial, table.means, band)
    assert np.abs(found - expected).max() < 1e-6
    assert abs(found[20, 0] - 1) < 1e-5 and found[0, 28] == 0
    rounds = [np.full((41, 29), np.nan, np.float32) for _ in range(2)]
    for module, values in zip((cuda, gathering_cpu), rounds, strict=True):
        module.fill_round(values, ky, kx, table.radial, band)
    np.testing.assert_allclose(*rounds, atol=1e-7)
    assert rounds[0][20, 0] == 1 and rounds[0][0, 28] == 0


@pytest.mark.parametrize("scan", ["even", "lines", "points"])
def test_gather(cuda, scan: str) -> None:
    """All three ways of the CPU, and points whose windows lie across every edge."""
    generator = np.random.default_rng(3)
    values = generator.normal(size=(40, 36)).astype(np.float32)
    lines = np.zeros((3, 29, 2))
    lines[..., 0] = np.linspace(-5, 43, 29) + generator.normal(0, 0.3, (3, 29))
    lines[..., 1] = -4.3
    if scan != "even":
        lines[..., 1] += generator.normal(0, 1, (3, 29))
    columns = np.stack([np.zeros(43), np.linspace(0, 45, 43)], axis=1)
    if scan == "points":
        columns[:, 0] = np.linspace(0, 6, 43)
    columns[7] = np.round(columns[7])
    found, expected = (np.full((29, 43), np.nan, np.float32) for _ in range(2))
    cuda.gather(found, values, lines, columns, window_table())
    gathering_cpu.gather(expected, values, lines, columns, window_table())
    assert np.abs(found - expected).max() < 5e-6 * np.abs(expected).max()


def test_deposit_is_the_window_at_each_atom() -> None:
    """Against a sum of windows written out, of one layer of two, with weights."""
    from hpctem.optics.grid import Grid
    from hpctem.optics.spreading import WIDTH, make_deposits

    cpu, table = select_backend("cpu"), window_table()
    generator = np.random.default_rng(7)
    row, column = generator.uniform(0, 1, (2, 50)) * np.array([[40], [36]])
    layer, weight = generator.integers(0, 2, 50), generator.uniform(0.5, 2, 50)
    deposits, order = make_deposits(row, column, layer, (1, 2), Grid((40, 36), (40.0, 36.0)), cpu)
    deposits = deposits._replace(weight=weight[order].astype(np.float32))
    exact = np.zeros((40, 36))
    phases = np.linspace(0, 1, len(table))
    for n in np.flatnonzero(layer == 1):
        start = np.ceil([row[n] - WIDTH / 2, column[n] - WIDTH / 2]).astype(int)
        legs = [
            [np.interp(s - place + WIDTH / 2, phases, table[:, q]) for q in range(WIDTH)]
            for s, place in zip(start, (row[n], column[n]), strict=True)
        ]
        rows, columns = (np.arange(s, s + WIDTH) % m for s, m in zip(start, (40, 36), strict=True))
        exact[np.ix_(rows, columns)] += weight[n] * np.outer(*legs)
    found = gathering_cpu.deposit(deposits, 1, (40, 36), table)
    assert np.abs(found - exact).max() < 2e-6 * exact.max()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no CUDA compiler")
def test_nvcc_accepts_the_source(tmp_path: Path) -> None:
    (tmp_path / "loops.cu").write_text(gathering_cuda.SOURCE)
    run = subprocess.run(
        ["nvcc", "-std=c++14", "-Werror", "all-warnings", "-ptx", "loops.cu"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
