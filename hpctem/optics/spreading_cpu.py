"""Atoms spread over the pixels of a slice on a CPU, eight columns of the window at once."""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_lanes, inline_lanes
from hpctem.optics.kernels import Deposits
from hpctem.optics.lanes import LANES, LINE, load, splat, store


def spread_slice(plane: np.ndarray, deposits: Deposits, b: int, s: int, nx: int, table: np.ndarray):
    """Set `plane`, float32 (ny, at least nx + 8), to the atoms of slice `s` of configuration `b`.

    From column `nx` on it is zero.
    """
    d = deposits
    bins = d.bins[0] * d.bins[1]
    begin, end = (int(d.first[(b * d.slices + n) * bins]) for n in (s, s + 1))
    atoms = (d.row, d.column, d.row_phase, d.column_phase, d.weight)
    _spread_atoms(plane, begin, end, *atoms, table)
    _fold_columns(plane, nx)


@compile_lanes
def _spread_atoms(plane, begin, end, row, column, row_phase, column_phase, weight, table):
    """Set `plane`, float32 (ny, width) with width at least nx + 8, to some atoms, spread.

    Atoms `begin` to `end` of `Deposits`; `table`: float32 (T + 1, 8), the window's values for the
    phases 0, 1/T, ..., 1. What reaches beyond the last column waits there for `_fold_columns`.
    """
    steps = table.shape[0] - 1
    ny, width = plane.shape
    flat, windows = plane.reshape(plane.size), table.reshape(table.size)
    along_y = np.empty(LANES, np.float32)
    flat[:] = 0
    for a in range(begin, end):
        store(along_y, 0, _window(windows, steps, row_phase[a]) * splat(weight[a]))
        along_x = _window(windows, steps, column_phase[a])
        for p in range(LANES):
            i = row[a] + p
            place = (i - ny if i >= ny else i) * width + column[a]
            store(flat, place, load(flat, place) + splat(along_y[p]) * along_x)


@inline_lanes
def spread_atom(block, following, part, column, atoms, a, windows, along_y, shifted):
    """Add atom `a` at a column of a block of eight, and what hangs over to the block that follows.

    `shifted`: float32 (24,), zero but for the eight in the middle, which are set here.
    """
    steps, ny = windows.size // LANES - 1, block.size // LINE
    store(along_y, 0, _window(windows, steps, atoms[2][a]) * splat(atoms[4][a]))
    store(shifted, LANES, _window(windows, steps, atoms[3][a]))
    here, beyond = load(shifted, LANES - column), load(shifted, 2 * LANES - column)
    for q in range(LANES):
        i = atoms[0][a] + q
        place = (i - ny if i >= ny else i) * LINE + part * LANES
        store(block, place, load(block, place) + splat(along_y[q]) * here)
        store(following, place, load(following, place) + splat(along_y[q]) * beyond)


@inline_lanes
def _window(windows, steps, phase):
    """The window's values at one phase, between two entries of its table."""
    u = phase * np.float32(steps)
    n = min(int(u), steps - 1)
    below, above = load(windows, n * LANES), load(windows, (n + 1) * LANES)
    return below + (above - below) * splat(u - np.float32(n))


@compile_lanes
def _fold_columns(plane, nx):
    """Add to the first columns what `_spread_atoms` put beyond column nx, and clear it there."""
    for i in range(plane.shape[0]):
        for j in range(LANES - 1):
            plane[i, j] += plane[i, nx + j]
        plane[i, nx:] = 0
