"""Transforms of eight lines at once, and the passes that put them together to a field's."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from hpctem.backend import select_backend
from hpctem.optics import passes
from hpctem.optics.grid import Grid
from hpctem.optics.kernels import Deposits
from hpctem.optics.lanes import LANES, LINE, load, nearest, splat, store, transpose
from hpctem.optics.line_transforms import invert, plan_lines, transform
from hpctem.optics.panels import arrange_half, count_panels, keep_rows
from hpctem.optics.spreading import make_deposits, window_table
from hpctem.optics.spreading_cpu import spread_slice


def make_lines(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight lines of n numbers, complex (n, 8), and the block that holds them."""
    parts = np.random.default_rng(n).standard_normal((2, n, LANES))
    block = np.stack(parts, axis=1).astype(np.float32).ravel()
    return parts[0] + 1j * parts[1], block


def read_block(block: np.ndarray) -> np.ndarray:
    parts = block.reshape(-1, 2, LANES)
    return parts[:, 0] + 1j * parts[:, 1]


# every radix alone, twiddled, last and first; primes of no radix; lengths in use
@pytest.mark.parametrize(
    "n", [2, 3, 4, 5, 7, 8, 9, 16, 25, 32, 33, 60, 64, 75, 82, 101, 128, 480, 640, 1280]
)
def test_transform(n: int) -> None:
    lines, block = make_lines(n)
    plan, work = plan_lines(n), np.empty_like(block)
    assert sorted(plan.order) == list(range(n)) and np.prod(plan.radices) == n
    transform(block, plan, work)
    expected = np.fft.fft(lines, axis=0)[plan.order]
    assert np.abs(read_block(block) - expected).max() < 3e-7 * np.abs(expected).max()
    invert(block, plan, work)
    assert np.abs(read_block(block) / n - lines).max() < 3e-6


def test_lanes_do_not_mix() -> None:
    lines, block = make_lines(60)
    block.reshape(60, 2, LANES)[:, :, 3] = 0
    transform(block, plan_lines(60), np.empty_like(block))
    found = read_block(block)
    assert not found[:, 3].any()
    assert np.abs(found[:, 4] - np.fft.fft(lines[:, 4])[plan_lines(60).order]).max() < 1e-4


@njit
def compute(a, b, c):
    store(b, 8, load(a, 3) * splat(c) - load(a, 0))
    store(b, 0, nearest(load(a, 0)) + load(a, 8))


def test_lanes_compute() -> None:
    a, b = np.linspace(-3, 2.5, 24).astype(np.float32), np.zeros(24, np.float32)
    compute(a, b, np.float32(0.5))
    np.testing.assert_allclose(b[:8], np.rint(a[:8]) + a[8:16], rtol=1e-6)
    np.testing.assert_allclose(b[8:16], a[3:11] / 2 - a[:8], atol=1e-6)
    assert not b[16:].any()


@njit
def turn(a, b):
    transpose(a, 5, 11, b, 2, 9)


def test_transpose() -> None:
    a, b = np.arange(100, dtype=np.float32), np.full(80, -1, np.float32)
    turn(a, b)
    for row in range(LANES):
        for column in range(LANES):
            assert b[2 + 9 * column + row] == a[5 + 11 * row + column]
    assert np.sum(b == -1) == 80 - 64


def make_atoms(shape: tuple[int, int], slices: int, count: int) -> Deposits:
    """Atoms anywhere, some on the last columns and rows, of different weights."""
    generator = np.random.default_rng(1)
    row, column = generator.uniform(0, 1, (2, count)) * np.array(shape)[:, None]
    column[:20], row[20:40] = shape[1] - 1e-9, shape[0] - 1e-9
    layer, grid = generator.integers(0, slices, count), Grid(shape, (10.0, 10.0))
    deposits, _ = make_deposits(row, column, layer, (1, slices), grid, select_backend("cpu"))
    return deposits._replace(weight=generator.uniform(0.5, 2, count).astype(np.float32))


@pytest.mark.parametrize("shape", [(48, 64), (33, 50), (64, 75), (40, 32)])
def test_passes_filter_a_field(shape: tuple[int, int]) -> None:
    """Atoms of two slices, filtered by an even factor on the rows of a band: as with whole FFTs."""
    ny, nx = shape
    panels = count_panels(nx)
    deposits = make_atoms(shape, 3, 400)
    table = window_table()
    planes = np.empty((2, ny, nx + LANES), np.float32)
    for plane, s in zip(planes, (2, 0), strict=True):
        spread_slice(plane, deposits, 0, s, nx, table)
    fields = planes[:, :, :nx]
    row, column = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
    inside = row < ny // 3
    factor = np.exp(-0.02 * (row[:, None] ** 2 + column[None, :])) * inside[:, None]
    band = keep_rows(inside)
    half = arrange_half(factor[: ny // 2 + 1].astype(np.float32), band)
    along_y, along_x = plan_lines(ny), plan_lines(nx)
    filtered = np.empty((panels, band.place.size * LINE), np.float32)
    d = deposits
    atoms = d.row, d.column, d.row_phase, d.column_phase, d.weight
    passes.transform_atoms(filtered, (2, 0), deposits.first, atoms, table, nx, band, along_y)
    added = filtered.copy()
    passes.filter_lines(filtered, half, along_x)
    total = np.empty((half.shape[0], nx * LINE), np.float32)
    passes.weigh(total, added, half, along_x, False)
    passes.weigh(total, added, half, along_x, True)  # the same again: twice as much
    passes.invert_lines(added, total, along_x)
    expected = np.fft.ifft2(np.fft.fft2(fields[0] + 1j * fields[1]) * factor) * (ny * nx)
    for panel, times in ((filtered, 1), (added, 2)):
        found = np.empty((ny, panels * LANES), complex)
        for p in range(panels):
            block = np.zeros((ny, LINE), np.float32)
            block[band.place] = panel[p].reshape(-1, LINE)
            flat = block.ravel()
            invert(flat, along_y, np.empty_like(flat))
            found[:, p * LANES : (p + 1) * LANES] = read_block(flat)
        assert np.abs(found[:, :nx] - times * expected).max() < 2e-6 * np.abs(expected).max()


def test_band_is_filled_up_with_its_last_row() -> None:
    inside = np.zeros(40, bool)
    inside[[0, 1, 2, 38, 39]] = True
    band = keep_rows(inside)
    assert band.frequency.size == 8 and set(band.frequency) == {0, 1, 2, 38, 39}
    assert (band.frequency == plan_lines(40).order[band.place]).all() and band.length == 40
