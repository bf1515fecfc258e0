"""How a field that has been transformed along y lies in memory on a CPU, and how it is moved.

It is kept as panels, float32 (panels, rows x 16): eight columns side by side, each a lane of
`line_transforms`, and of the transformed rows only those inside a band.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hpctem.compiling import compile_lanes, inline_lanes
from hpctem.optics.lanes import LANES, LINE, load, prefetch, store, transpose
from hpctem.optics.line_transforms import plan_lines

TILE = LANES * LINE
"""Numbers in a piece of eight rows and eight columns."""


class Band(NamedTuple):
    """The rows that panels keep, of `length` in the FFT's order.

    `frequency`, `place`: int64 (R,), the index of each row in that order and where `transform`
    leaves it. R is a multiple of 8; the last row is repeated to fill it up.
    """

    frequency: np.ndarray
    place: np.ndarray
    length: int


def keep_rows(inside: np.ndarray) -> Band:
    """The band of the rows where `inside`, bool (ny,) in the FFT's order, is true."""
    order = plan_lines(inside.size).order
    place = np.flatnonzero(inside[order])
    place = np.pad(place, (0, -place.size % LANES), mode="edge")
    return Band(order[place], place, inside.size)


def empty_lines(*shape: int) -> np.ndarray:
    """An empty float32 array that begins with a cache line, so that no eight lanes straddle two."""
    size = math.prod(shape)
    room = np.empty(size + LINE, np.float32)
    first = -room.ctypes.data % (LINE * room.itemsize) // room.itemsize
    return room[first : first + size].reshape(shape)


def count_panels(nx: int) -> int:
    """Panels of eight columns that hold `nx`; the last may hold columns of no meaning."""
    return -(-nx // LANES)


def arrange_half(half: np.ndarray, band: Band) -> np.ndarray:
    """An even factor, float32 (ny // 2 + 1, nx), as a pass along x meets it: (R / 8, nx * 8)."""
    row = np.minimum(band.frequency, band.length - band.frequency)
    order = plan_lines(half.shape[1]).order
    lanes = half[row[:, None], order].reshape(-1, LANES, half.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(lanes, dtype=np.float32).reshape(len(lanes), -1)


@inline_lanes
def line_blocks(panels, nx):
    size = panels.shape[0] * TILE
    return np.zeros(size, np.float32), np.empty(nx * LINE, np.float32)


@compile_lanes
def keep_band(panel, block, band):
    """Take the rows of the band out of a transformed block."""
    place = band[1]
    for r in range(place.size):
        i = place[r] * LINE
        store(panel, r * LINE, load(block, i))
        store(panel, r * LINE + LANES, load(block, i + LANES))


@compile_lanes
def spread_band(block, panel, band):
    """Put the rows of the band back in place, all others zero."""
    place = band[1]
    block[:] = 0
    for r in range(place.size):
        i = place[r] * LINE
        store(block, i, load(panel, r * LINE))
        store(block, i + LANES, load(panel, r * LINE + LANES))


@compile_lanes
def gather_rows(block, panels, b, nx):
    """Eight rows of all panels, turned: now the lanes are rows, and places follow along x.

    The next eight rows are asked for, since no processor guesses them.
    """
    ahead = min((b + 1) * TILE, panels.shape[1] - TILE)
    for p in range(panels.shape[0]):
        for i in range(0, TILE, LINE):
            prefetch(panels[p], ahead + i)
        transpose(panels[p], b * TILE, LINE, block, p * TILE, LINE)
        transpose(panels[p], b * TILE + LANES, LINE, block, p * TILE + LANES, LINE)
    block[nx * LINE :] = 0


@compile_lanes
def scatter_rows(panels, block, b):
    """Undo `gather_rows`."""
    for p in range(panels.shape[0]):
        transpose(block, p * TILE, LINE, panels[p], b * TILE, LINE)
        transpose(block, p * TILE + LANES, LINE, panels[p], b * TILE + LANES, LINE)


@compile_lanes
def put_lines(spectrum, line, frequency, b, order):
    """Eight transformed rows into the field that they belong to."""
    for j in range(order.size):
        for lane in range(LANES):
            value = complex(line[j * LINE + lane], line[j * LINE + LANES + lane])
            spectrum[frequency[b * LANES + lane], order[j]] = value


@inline_lanes
def gather_factors(parts, factors, frequency, b):
    """The factors of eight rows, one in each lane."""
    for lane in range(LANES):
        value = factors[frequency[b * LANES + lane]]
        parts[lane], parts[lane + LANES] = value.real, value.imag
    return load(parts, 0), load(parts, LANES)
