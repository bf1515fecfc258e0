"""The loops of incoherent images on a CPU: one thread, a fixed order of every sum.

Arguments that all share: `values`: float32 (ny, nx) of a periodic picture, or (ny, m) of the half
of a transform; `table`: float32 (T + 1, 8), the window of `spreading` at the phases 0, 1/T, ..., 1.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_lanes, compile_loop, inline_lanes, inline_loop
from hpctem.optics.kernels import Deposits
from hpctem.optics.lanes import LANES, load, splat, store, transpose
from hpctem.optics.spreading_cpu import spread_slice

BLOCK = LANES * LANES


def deposit(deposits: Deposits, layer: int, shape: tuple[int, int], table: np.ndarray):
    """The atoms of one layer, spread over `shape` (ny, nx) pixels: float32, contiguous."""
    plane = np.empty((shape[0], shape[1] + LANES), np.float32)
    spread_slice(plane, deposits, 0, layer, shape[1], table)
    return np.ascontiguousarray(plane[:, : shape[1]])


def weigh(half: np.ndarray, along_y: np.ndarray, along_x: np.ndarray, values: np.ndarray) -> None:
    """Multiply the complex64 `half` (ny, m) by float32 (ny,) and (m,) and by `values` (ny, m)."""
    (_weigh_real if values.dtype == np.float32 else _weigh_complex)(half, along_y, along_x, values)


@compile_loop
def _weigh_real(half, along_y, along_x, values):
    for i in range(half.shape[0]):
        for j in range(half.shape[1]):
            half[i, j] *= along_y[i] * along_x[j] * values[i, j]


@compile_loop
def _weigh_complex(half, along_y, along_x, values):
    for i in range(half.shape[0]):
        for j in range(half.shape[1]):
            half[i, j] *= values[i, j] * (along_y[i] * along_x[j])


@compile_loop
def fill_round(values, ky, kx, radial, band):
    """Set `values`, float32 (ny, m), to the table `radial` at |k| / band, 0 beyond the band.

    `ky` (ny,), `kx` (m,): float64 in 1/A; `radial`: float32 (R + 2,), its last value a zero.
    """
    steps = radial.size - 2
    scale = steps / band
    for i in range(ky.size):
        for j in range(kx.size):
            u = math.sqrt(ky[i] * ky[i] + kx[j] * kx[j]) * scale
            if u < steps:
                n = int(u)
                values[i, j] = radial[n] + (radial[n + 1] - radial[n]) * np.float32(u - n)
            else:
                values[i, j] = 0.0


def fill_polar(values, ky, kx, radial, means, band) -> None:
    """Set `values`, complex64 (ny, m), to `radial` at |k| times `means` at |k| and azimuth.

    `means`: complex64 (S + 3, A + 3); see `probe.ProbeTable`. Cubic interpolation.
    """
    _fill_polar(values, ky, kx, radial, means.view(np.float32), band)


@compile_lanes
def _fill_polar(values, ky, kx, radial, means, band):
    steps, lengths, turns = radial.size - 2, means.shape[0] - 3, means.shape[1] // 2 - 3
    width, flat = means.shape[1], means.reshape(means.size)
    along, around = np.empty(4, np.float32), np.empty(4, np.float32)
    parts = np.empty(LANES, np.float32)
    per_turn, per_band = turns / math.pi, 1 / band
    for i in range(ky.size):
        for j in range(kx.size):
            u = math.sqrt(ky[i] * ky[i] + kx[j] * kx[j]) * per_band
            if u >= 1.0:
                values[i, j] = 0.0
                continue
            n = int(u * steps)
            level = radial[n] + (radial[n + 1] - radial[n]) * np.float32(u * steps - n)
            place, azimuth = u * lengths, math.atan2(ky[i], kx[j]) * per_turn + 0.5 * turns
            p, q = min(int(place), lengths - 1), min(int(azimuth), turns - 1)
            _cubic(along, np.float32(place - p))
            _cubic(around, np.float32(azimuth - q))
            # four neighbours around, each a real and an imaginary part, fill the lanes
            first = p * width + 2 * q
            total = load(flat, first) * splat(along[0])
            for a in range(1, 4):
                total = total + load(flat, first + a * width) * splat(along[a])
            store(parts, 0, total)
            real, imaginary = np.float32(0), np.float32(0)
            for b in range(4):
                real += around[b] * parts[2 * b]
                imaginary += around[b] * parts[2 * b + 1]
            values[i, j] = complex(level * real, level * imaginary)


@inline_loop
def _cubic(weights, t):
    """Lagrange's weights of the points -1, 0, 1 and 2 at t."""
    half, sixth, one, two = np.float32(0.5), np.float32(1 / 6), np.float32(1), np.float32(2)
    before, after, last = t + one, t - one, t - two
    weights[0] = -t * after * last * sixth
    weights[1] = before * after * last * half
    weights[2] = -before * t * last * half
    weights[3] = before * t * after * sixth


def gather(out, values, lines, columns, table) -> None:
    """Set `out`, float32 (ny, nx), to the mean over frames of the picture at a scan's points.

    Point c of line r in frame f lies at `lines`[f, r] + `columns`[c], each (row, column) in pixels
    of the picture, float64 (frames, ny, 2) and (nx, 2).
    """
    # eight columns again behind the last one, so that no window is cut by the picture's end
    padded = np.concatenate([values, values[:, :LANES]], axis=1)
    if columns[:, 0].any():
        _gather_points(out, padded, lines, columns, table)
    elif np.all(lines[..., 1] == lines[0, 0, 1]):
        _gather_even(out, padded, lines, columns[:, 1].copy(), table)
    else:
        _gather_lines(out, padded, lines, columns[:, 1].copy(), table)


@inline_lanes
def _window(windows, steps, start, position):
    """The window's values about `position` if it begins at the whole number `start`."""
    u = (start - position + LANES / 2) * steps
    n = min(int(u), steps - 1)
    below, above = load(windows, n * LANES), load(windows, (n + 1) * LANES)
    return below + (above - below) * splat(np.float32(u - n))


@compile_lanes
def _blend_rows(line, padded, windows, steps, position):
    """Set `line` to the picture along the row at `position`, interpolated between its rows."""
    ny, width = padded.shape
    flat = padded.reshape(padded.size)
    start = math.ceil(position - LANES / 2)
    weights = np.empty(LANES, np.float32)
    store(weights, 0, _window(windows, steps, start, position))
    begin = np.empty(LANES, np.int64)
    for p in range(LANES):
        begin[p] = (start + p) % ny * width
    for j in range(0, width - LANES + 1, LANES):
        total = load(flat, begin[0] + j) * splat(weights[0])
        for p in range(1, LANES):
            total = total + load(flat, begin[p] + j) * splat(weights[p])
        store(line, j, total)
    for j in range(width - width % LANES, width):
        total_here = np.float32(0)
        for p in range(LANES):
            total_here += flat[begin[p] + j] * weights[p]
        line[j] = total_here


@inline_lanes
def _sum_lanes(products, turned, sums, c):
    """Put the sums of eight rows of eight `products` into `sums` from `c` on."""
    transpose(products, 0, LANES, turned, 0, LANES)
    total = load(turned, 0)
    for n in range(1, LANES):
        total = total + load(turned, n * LANES)
    store(sums, c, load(sums, c) + total)


@compile_lanes
def _gather_lines(out, padded, lines, across, table):
    """`gather` where a line of the scan keeps to one row: that row first, then its points."""
    steps, windows = table.shape[0] - 1, table.reshape(table.size)
    nx = padded.shape[1] - LANES
    count = across.size
    row, sums = np.empty(padded.shape[1], np.float32), np.empty(count + LANES, np.float32)
    products, turned = np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    share = np.float32(1 / lines.shape[0])
    for r in range(out.shape[0]):
        sums[:] = 0
        for f in range(lines.shape[0]):
            _blend_rows(row, padded, windows, steps, lines[f, r, 0])
            for c in range(0, count, LANES):
                for n in range(min(LANES, count - c)):
                    position = lines[f, r, 1] + across[c + n]
                    start = math.ceil(position - LANES / 2)
                    window = _window(windows, steps, start, position)
                    store(products, n * LANES, window * load(row, start % nx))
                _sum_lanes(products, turned, sums, c)
        for c in range(count):
            out[r, c] = sums[c] * share


@compile_lanes
def _gather_even(out, padded, lines, across, table):
    """`gather` where, besides, all lines begin at one column: windows are found once."""
    steps, windows = table.shape[0] - 1, table.reshape(table.size)
    nx = padded.shape[1] - LANES
    count = across.size
    starts = np.zeros(count + LANES, np.int64)
    factors = np.zeros(starts.size * LANES, np.float32)
    for c in range(count):
        position = lines[0, 0, 1] + across[c]
        start = math.ceil(position - LANES / 2)
        starts[c] = start % nx
        store(factors, c * LANES, _window(windows, steps, start, position))
    row, sums = np.empty(padded.shape[1], np.float32), np.empty(starts.size, np.float32)
    total = np.empty(padded.shape[1], np.float32)
    products, turned = np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    share = np.float32(1 / lines.shape[0])
    for r in range(out.shape[0]):
        total[:] = 0
        for f in range(lines.shape[0]):
            _blend_rows(row, padded, windows, steps, lines[f, r, 0])
            for j in range(total.size):
                total[j] += row[j]
        sums[:] = 0
        for c in range(0, count, LANES):
            for n in range(LANES):
                window = load(factors, (c + n) * LANES)
                store(products, n * LANES, window * load(total, starts[c + n]))
            _sum_lanes(products, turned, sums, c)
        for c in range(count):
            out[r, c] = sums[c] * share


@compile_lanes
def _gather_points(out, padded, lines, columns, table):
    """`gather` for any scan: every point by itself."""
    steps, windows = table.shape[0] - 1, table.reshape(table.size)
    ny, width = padded.shape
    nx = width - LANES
    flat = padded.reshape(padded.size)
    along_y, products = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    share = np.float32(1 / lines.shape[0])
    for r in range(out.shape[0]):
        for c in range(columns.shape[0]):
            sum_here = np.float32(0)
            for f in range(lines.shape[0]):
                y, x = lines[f, r, 0] + columns[c, 0], lines[f, r, 1] + columns[c, 1]
                top, left = math.ceil(y - LANES / 2), math.ceil(x - LANES / 2)
                store(along_y, 0, _window(windows, steps, top, y))
                begin = left % nx
                total = load(flat, top % ny * width + begin) * splat(along_y[0])
                for p in range(1, LANES):
                    place = (top + p) % ny * width + begin
                    total = total + load(flat, place) * splat(along_y[p])
                store(products, 0, total * _window(windows, steps, left, x))
                for n in range(LANES):
                    sum_here += products[n]
            out[r, c] = sum_here * share
