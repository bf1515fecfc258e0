"""What the CPU does to a field on its way to a transform and back, in passes over the field.

A field that has been transformed along y is kept as panels, float32 (panels, rows x 16): eight
columns side by side, each a lane of `line_transforms`, and of the transformed rows only those
inside a band. Passes along y go panel by panel; passes along x take eight rows out of all panels,
turn them by 90 degrees, work on them and put them back. So a step reads and writes a field twice,
and what lies outside the band is neither transformed nor moved.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hpctem.compiling import compile_lanes, inline_lanes
from hpctem.optics.kernels import Deposits
from hpctem.optics.lanes import LANES, load, nearest, prefetch, splat, store, transpose
from hpctem.optics.line_transforms import LINE, invert, plan_lines, transform

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
        window = _window(windows, steps, row_phase[a]) * splat(weight[a])
        store(along_y, 0, window)
        along_x = _window(windows, steps, column_phase[a])
        for p in range(LANES):
            i = row[a] + p
            place = (i - ny if i >= ny else i) * width + column[a]
            store(flat, place, load(flat, place) + splat(along_y[p]) * along_x)


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


@compile_lanes
def transform_pair(panels, planes, band, plan):
    """Transform two real fields along y: `planes`, float32 (2, ny, at least 8 x panels)."""
    ny, width = planes.shape[1], planes.shape[2]
    flat = planes.reshape(planes.size)
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    for p in range(panels.shape[0]):
        for i in range(ny):
            store(block, i * LINE, load(flat, i * width + p * LANES))
            store(block, i * LINE + LANES, load(flat, (ny + i) * width + p * LANES))
        transform(block, plan, work)
        _keep(panels[p], block, band)


@compile_lanes
def weigh(total, panels, factor, plan, add):
    """Transform along x and multiply by `factor`; set `total`, (R / 8, nx x 16), or add to it."""
    nx = total.shape[1] // LINE
    block, work = _line_blocks(panels, nx)
    line = block[: nx * LINE]
    for b in range(total.shape[0]):
        _gather(block, panels, b, nx)
        transform(line, plan, work)
        for j in range(nx):
            i = j * LINE
            f = load(factor[b], j * LANES)
            re, im = load(line, i) * f, load(line, i + LANES) * f
            if add:
                re, im = re + load(total[b], i), im + load(total[b], i + LANES)
            store(total[b], i, re)
            store(total[b], i + LANES, im)


@compile_lanes
def invert_lines(panels, total, plan):
    """Undo the transform along x of `total`, which is used up, but for the factor nx."""
    nx = total.shape[1] // LINE
    block, work = _line_blocks(panels, nx)
    for b in range(total.shape[0]):
        block[: nx * LINE] = total[b]
        invert(block[: nx * LINE], plan, work)
        _scatter(panels, block, b)


@compile_lanes
def filter_lines(panels, factor, plan):
    """Transform along x, multiply by the real `factor` and go back."""
    nx = factor.shape[1] // LANES
    block, work = _line_blocks(panels, nx)
    line = block[: nx * LINE]
    for b in range(factor.shape[0]):
        _gather(block, panels, b, nx)
        transform(line, plan, work)
        for j in range(nx):
            i = j * LINE
            f = load(factor[b], j * LANES)
            store(line, i, load(line, i) * f)
            store(line, i + LANES, load(line, i + LANES) * f)
        invert(line, plan, work)
        _scatter(panels, block, b)


@compile_lanes
def propagate_lines(panels, factor, along_y, along_x, plan, spectrum, band):
    """Transform along x, multiply by factor along_y along_x and go back; or, where `spectrum`,
    complex64 (ny, nx) in the FFT's order, is not empty, put the product there instead.

    `along_y`: complex64 (ny,), `along_x`: complex64 (nx,), both in the FFT's order.
    """
    nx = factor.shape[1] // LANES
    frequency, order = band[0], plan[3]
    block, work = _line_blocks(panels, nx)
    line, y_parts = block[: nx * LINE], np.empty(LINE, np.float32)
    for b in range(factor.shape[0]):
        _gather(block, panels, b, nx)
        transform(line, plan, work)
        y = _gather_factors(y_parts, along_y, frequency, b)
        for j in range(nx):
            i = j * LINE
            x = splat(along_x[order[j]].real), splat(along_x[order[j]].imag)
            f = load(factor[b], j * LANES)
            p = _multiply(y, x)
            wave = _multiply((load(line, i) * f, load(line, i + LANES) * f), p)
            store(line, i, wave[0])
            store(line, i + LANES, wave[1])
        if spectrum.size:
            _put_lines(spectrum, line, frequency, b, order)
        else:
            invert(line, plan, work)
            _scatter(panels, block, b)


@compile_lanes
def make_phase_objects(first, second, potentials, sigma, band, wide, plan):
    """From the panels of two potentials in V A, real and imaginary part on the rows of `wide`, the
    panels of exp(i sigma V) on those of `band`; none of the second where it has no panels."""
    ny = band[2]
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    phase_object = np.empty(ny * LINE, np.float32)
    scale = splat(sigma)
    for p in range(potentials.shape[0]):
        _spread_out(block, potentials[p], wide)
        invert(block, plan, work)
        for part, panels in enumerate((first, second)):
            if panels.shape[0]:
                for i in range(0, ny * LINE, LINE):
                    cosine, sine = _cos_sin(load(block, i + part * LANES) * scale)
                    store(phase_object, i, cosine)
                    store(phase_object, i + LANES, sine)
                transform(phase_object, plan, work)
                _keep(panels[p], phase_object, band)


@compile_lanes
def multiply_fields(wave, transmission, band, plan):
    """Go back along y with both, multiply `wave` by `transmission`, and transform it again."""
    ny = band[2]
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    factor = np.empty(ny * LINE, np.float32)
    for p in range(wave.shape[0]):
        _spread_out(factor, transmission[p], band)
        invert(factor, plan, work)
        _spread_out(block, wave[p], band)
        invert(block, plan, work)
        for i in range(0, ny * LINE, LINE):
            a = load(block, i), load(block, i + LANES)
            product = _multiply(a, (load(factor, i), load(factor, i + LANES)))
            store(block, i, product[0])
            store(block, i + LANES, product[1])
        transform(block, plan, work)
        _keep(wave[p], block, band)


@compile_lanes
def arrange_spectrum(lines, spectrum, transfer, band, plan):
    """Set `lines`, (R / 8, nx x 16), to the rows of spectrum transfer, complex64 (ny, nx) both."""
    order = plan[3]
    for r in range(band[0].size):
        values, factors = spectrum[band[0][r]], transfer[band[0][r]]
        line, lane = lines[r // LANES], r % LANES
        for j in range(order.size):
            value = values[order[j]] * factors[order[j]]
            line[j * LINE + lane], line[j * LINE + LANES + lane] = value.real, value.imag


@compile_lanes
def focus_lines(panels, lines, along_y, along_x, plan, band):
    """Multiply `lines` by along_y along_x (`propagate_lines`) and go back along x."""
    nx = lines.shape[1] // LINE
    frequency, order = band[0], plan[3]
    block, work = _line_blocks(panels, nx)
    line, y_parts = block[: nx * LINE], np.empty(LINE, np.float32)
    for b in range(lines.shape[0]):
        y = _gather_factors(y_parts, along_y, frequency, b)
        for j in range(nx):
            i = j * LINE
            x = splat(along_x[order[j]].real), splat(along_x[order[j]].imag)
            wave = load(lines[b], i), load(lines[b], i + LANES)
            wave = _multiply(wave, _multiply(y, x))
            store(line, i, wave[0])
            store(line, i + LANES, wave[1])
        invert(line, plan, work)
        _scatter(panels, block, b)


@compile_lanes
def add_intensity(intensity, panels, share, band, plan):
    """Go back along y and add share |psi|^2 to `intensity`, float32 (ny, 8 x panels)."""
    ny, width = intensity.shape
    flat = intensity.reshape(intensity.size)
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    factor = splat(share)
    for p in range(panels.shape[0]):
        _spread_out(block, panels[p], band)
        invert(block, plan, work)
        for i in range(ny):
            re, im = load(block, i * LINE), load(block, i * LINE + LANES)
            place = i * width + p * LANES
            store(flat, place, load(flat, place) + factor * (re * re + im * im))


@compile_lanes
def add_scaled(image, intensity, weight):
    """Add weight times the first columns of `intensity` to `image`, float32 (ny, nx)."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            image[i, j] += weight * intensity[i, j]


@inline_lanes
def _multiply(a, b):
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@inline_lanes
def _gather_factors(parts, factors, frequency, b):
    """The factors of eight rows, one in each lane."""
    for lane in range(LANES):
        value = factors[frequency[b * LANES + lane]]
        parts[lane], parts[lane + LANES] = value.real, value.imag
    return load(parts, 0), load(parts, LANES)


_PI_1 = np.float32(3.140625)  # pi in three parts (Cody & Waite), the first two short
_PI_2 = np.float32(9.67502593994140625e-4)
_PI_3 = np.float32(1.509957990978376e-7)
_SINE = tuple(np.float32(x) for x in (-1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800))
_COSINE = tuple(
    np.float32(x) for x in (-1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600)
)


@inline_lanes
def _cos_sin(x):
    """Cosine and sine to 2e-7 for |x| < 8000: x less n pi, then Taylor's series up to pi / 2."""
    one = splat(np.float32(1))
    n = nearest(x * splat(np.float32(1 / np.pi)))
    r = ((x - n * splat(_PI_1)) - n * splat(_PI_2)) - n * splat(_PI_3)
    odd = n - splat(np.float32(2)) * nearest(n * splat(np.float32(0.5)))  # 0, or 1 or -1
    sign = one - splat(np.float32(2)) * odd * odd
    square = r * r
    s = splat(_SINE[4]) * square + splat(_SINE[3])
    s = (s * square + splat(_SINE[2])) * square + splat(_SINE[1])
    s = (s * square + splat(_SINE[0])) * square * r + r
    c = splat(_COSINE[5]) * square + splat(_COSINE[4])
    c = (c * square + splat(_COSINE[3])) * square + splat(_COSINE[2])
    c = (c * square + splat(_COSINE[1])) * square + splat(_COSINE[0])
    c = c * square + one
    return c * sign, s * sign


@inline_lanes
def _line_blocks(panels, nx):
    size = panels.shape[0] * TILE
    return np.zeros(size, np.float32), np.empty(nx * LINE, np.float32)


@compile_lanes
def _keep(panel, block, band):
    """Take the rows of the band out of a transformed block."""
    place = band[1]
    for r in range(place.size):
        i = place[r] * LINE
        store(panel, r * LINE, load(block, i))
        store(panel, r * LINE + LANES, load(block, i + LANES))


@compile_lanes
def _spread_out(block, panel, band):
    """Put the rows of the band back in place, all others zero."""
    place = band[1]
    block[:] = 0
    for r in range(place.size):
        i = place[r] * LINE
        store(block, i, load(panel, r * LINE))
        store(block, i + LANES, load(panel, r * LINE + LANES))


@compile_lanes
def _gather(block, panels, b, nx):
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
def _scatter(panels, block, b):
    """Undo `_gather`."""
    for p in range(panels.shape[0]):
        transpose(block, p * TILE, LINE, panels[p], b * TILE, LINE)
        transpose(block, p * TILE + LANES, LINE, panels[p], b * TILE + LANES, LINE)


@compile_lanes
def _put_lines(spectrum, line, frequency, b, order):
    """Eight transformed rows into the field that they belong to."""
    for j in range(order.size):
        for lane in range(LANES):
            value = complex(line[j * LINE + lane], line[j * LINE + LANES + lane])
            spectrum[frequency[b * LANES + lane], order[j]] = value
