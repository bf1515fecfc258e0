"""The CUDA kernels, compiled as C++ for the CPU, against their Numba twins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from cuda_on_cpu import compile_for_gpu, launch_on_cpu, list_functions

from hpctem.backend import Backend, select_backend
from hpctem.optics import kernels_cpu, kernels_cuda
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.kernels import find_support
from hpctem.optics.spreading import make_deposits, window_table

SHAPE = (3, 44, 57)
GRID = Grid(SHAPE[1:], (8.8, 11.4))


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with launch_on_cpu(kernels_cuda, tmp_path_factory.mktemp("cuda")) as module:
        yield module


def make_field(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    parts = np.random.default_rng(seed).standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def make_half() -> np.ndarray:
    return antialias_aperture(GRID).astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


def test_both_modules_have_the_same_functions() -> None:
    assert list_functions(kernels_cpu) == list_functions(kernels_cuda)
    assert len(list_functions(kernels_cpu)) == 9


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
    assert deposits.bins == (1, 8)
    monkeypatch.setattr(kernels_cpu, "bin_side", kernels_cuda.bin_side)
    binned, order = make_deposits(row, column, layer, (SHAPE[0], 3), GRID, cpu)
    assert binned.bins == (6, 8)
    cuda.spread(found, binned._replace(weight=weight[order]), slices, table)
    assert_close(found, expected)


def test_atoms_of_many_bins_are_sorted_by_bin_and_then_as_they_come() -> None:
    """More bins than two bytes count, as a GPU has."""
    gpu, grid = Backend("cupy", np, "cufft", ""), Grid((640, 640), (64.0, 64.0))
    generator = np.random.default_rng(1)
    row, column = generator.uniform(0, 640, (2, 5000))
    layer = generator.integers(0, 12, 5000)
    deposits, order = make_deposits(row, column, layer, (2, 6), grid, gpu)
    assert deposits.first.size == 12 * 80 * 80 + 1 > 2**16
    i, j = (np.ceil(values - 4).astype(int) % 640 // 8 for values in (row, column))
    key = (layer * 80 + i) * 80 + j
    np.testing.assert_array_equal(order, np.lexsort((np.arange(5000), key)))
    found = np.repeat(np.arange(deposits.first.size - 1), np.diff(deposits.first))
    np.testing.assert_array_equal(found, key[order])


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
    transfer = make_field(6, SHAPE[1:])
    transfer[10:30, 5:] = 0  # as an aperture makes it
    expected, found = np.empty(SHAPE, np.complex64), np.full(SHAPE, np.nan, np.complex64)
    for kernels, out in ((kernels_cpu, expected), (cuda, found)):
        kernels.focus(out, make_field(1), transfer, along_y, along_x)
    assert_close(found, expected)


def test_accumulate(cuda) -> None:
    weights = np.array([0.2, 0.5, 1.5], np.float32)
    expected, found = np.ones(SHAPE[1:], np.float32), np.ones(SHAPE[1:], np.float32)
    kernels_cpu.accumulate(expected, make_field(1), weights)
    cuda.accumulate(found, make_field(1), weights)
    assert_close(found, expected)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_add_planes(cuda, count: int) -> None:
    """More images than a thread sums at once; and an image has the same bytes among others."""
    generator = np.random.default_rng(7)
    planes = generator.standard_normal(SHAPE).astype(np.float32)
    weights = generator.standard_normal((SHAPE[0], count)).astype(np.float32)
    weights[1, 0] = 0
    images = generator.standard_normal((count, *SHAPE[1:])).astype(np.float32)
    expected, found, alone = images.copy(), images.copy(), images[-1:].copy()
    kernels_cpu.add_planes(expected, planes, weights)
    cuda.add_planes(found, planes, weights)
    cuda.add_planes(alone, planes, weights[:, -1:].copy())
    assert_close(found, expected)
    assert found[-1].tobytes() == alone.tobytes()
    exact = images + np.einsum("nm,nyx->myx", weights.astype(np.float64), planes)
    assert np.abs(expected - exact).max() < 1e-6 * np.abs(exact).max()


def test_the_source_is_compiled_for_gpus() -> None:
    compile_for_gpu(kernels_cuda.SOURCE)
