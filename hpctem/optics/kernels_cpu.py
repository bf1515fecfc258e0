"""Inner loops on the CPU, compiled by Numba: one thread, fixed order, row buffers for sin and cos.

`hpctem.optics.kernels` describes the arguments that all share. Only multiply-add contraction is
allowed to the compiler, not reassociation, so the order of every sum is the one written.
"""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_lanes
from hpctem.optics.kernels import Deposits
from hpctem.optics.lanes import LANES
from hpctem.optics.spreading_cpu import spread_slice

_TWO_OVER_PI = np.float32(0.63661977236758134)
_HALF_PI_1 = np.float32(1.5703125)  # pi/2 in three parts (Cody & Waite), the first two short
_HALF_PI_2 = np.float32(4.837512969970703125e-4)
_HALF_PI_3 = np.float32(7.549789948768648e-8)


def bin_side(shape: tuple[int, int]) -> tuple[int, int]:
    """Pixels (rows, columns) of a bin of atoms: a panel of columns, which are spread in turn."""
    return shape[0], LANES


def spread(grid: np.ndarray, deposits: Deposits, slices: tuple[int, int], table: np.ndarray):
    """Set `grid` to the atoms of two slices, spread by the kernel: real and imaginary part.

    `slices`: indices of the two slices, the second -1 for none; `table`: float32 (T + 1, 8), the
    kernel's values for each phase 0, 1/T, ..., 1.
    """
    nx = grid.shape[2]
    plane = np.empty((grid.shape[1], nx + LANES), np.float32)
    grid.fill(0)
    for b in range(grid.shape[0]):
        parts = grid[b].view(np.float32).reshape(*grid.shape[1:], 2)
        for part, s in enumerate(slices):
            if s >= 0:
                spread_slice(plane, deposits, b, s, nx, table)
                parts[:, :, part] = plane[:, :nx]


def combine(total: np.ndarray, grid: np.ndarray, half: np.ndarray, support: np.ndarray, add: bool):
    """Set `total` to `grid` times the even real factor, or add that; `total` may be `grid`."""
    for b in range(grid.shape[0]):
        (_add_scaled if add else _set_scaled)(total[b], grid[b], half, support)


@compile_lanes
def _set_scaled(total, grid, half, support):
    ny, nx = grid.shape
    for i in range(ny):
        q = min(i, ny - i)
        m = support[q]
        left = min(m, nx)
        right = max(nx - m + 1, left) if m > 0 else nx
        for j in range(left):
            total[i, j] = grid[i, j] * half[q, j]
        for j in range(left, right):
            total[i, j] = 0
        for j in range(right, nx):
            total[i, j] = grid[i, j] * half[q, j]


@compile_lanes
def _add_scaled(total, grid, half, support):
    ny, nx = grid.shape
    for i in range(ny):
        q = min(i, ny - i)
        m = support[q]
        left = min(m, nx)
        right = max(nx - m + 1, left) if m > 0 else nx
        for j in range(left):
            total[i, j] += grid[i, j] * half[q, j]
        for j in range(right, nx):
            total[i, j] += grid[i, j] * half[q, j]


def phase_object(transmission: np.ndarray, potential: np.ndarray, part: int, sigma: float):
    """Set `transmission` to exp(i sigma V), V the real (0) or imaginary (1) `part` in V A."""
    for b in range(potential.shape[0]):
        _phase_object(transmission[b], potential[b], part, np.float32(sigma))


@compile_lanes
def _phase_object(transmission, potential, part, sigma):
    ny, nx = potential.shape
    phase = np.empty(nx, np.float32)
    cosine = np.empty(nx, np.float32)
    sine = np.empty(nx, np.float32)
    for i in range(ny):
        values = potential[i].view(np.float32)
        out = transmission[i].view(np.float32)
        for j in range(nx):
            phase[j] = sigma * values[2 * j + part]
        _cos_sin(phase, cosine, sine)
        for j in range(nx):
            out[2 * j] = cosine[j]
            out[2 * j + 1] = sine[j]


@compile_lanes
def _cos_sin(phase, cosine, sine):
    """Cosine and sine to 2 ulp for |phase| < 8000 (polynomials of Cephes, S. L. Moshier)."""
    for j in range(phase.size):
        n = np.floor(phase[j] * _TWO_OVER_PI + np.float32(0.5))
        r = ((phase[j] - n * _HALF_PI_1) - n * _HALF_PI_2) - n * _HALF_PI_3
        r2 = r * r
        s = np.float32(-1.9515295891e-4) * r2 + np.float32(8.3321608736e-3)
        s = (s * r2 + np.float32(-1.6666654611e-1)) * r2 * r + r
        c = np.float32(2.443315711809948e-5) * r2 + np.float32(-1.388731625493765e-3)
        c = (c * r2 + np.float32(4.166664568298827e-2)) * r2 * r2
        c = c - np.float32(0.5) * r2 + np.float32(1)
        quadrant = np.int32(n) & 3
        swap = (quadrant & 1) != 0
        x = s if swap else c
        y = c if swap else s
        cosine[j] = -x if (quadrant == 1) | (quadrant == 2) else x
        sine[j] = -y if quadrant >= 2 else y


def multiply(wave: np.ndarray, factor: np.ndarray):
    """Multiply `wave` by `factor`, both complex [batch, y, x]."""
    for b in range(wave.shape[0]):
        _multiply(wave[b], factor[b])


@compile_lanes
def _multiply(wave, factor):
    for i in range(wave.shape[0]):
        a, f = wave[i].view(np.float32), factor[i].view(np.float32)
        for j in range(wave.shape[1]):
            re, im = a[2 * j], a[2 * j + 1]
            a[2 * j] = re * f[2 * j] - im * f[2 * j + 1]
            a[2 * j + 1] = re * f[2 * j + 1] + im * f[2 * j]


def propagate(
    wave: np.ndarray, along_y: np.ndarray, along_x: np.ndarray, half: np.ndarray, support
):
    """Multiply the transformed `wave` by along_y[i] along_x[j] half[i, j] (complex64 vectors)."""
    for b in range(wave.shape[0]):
        _propagate(wave[b], along_y, along_x, half, support)


@compile_lanes
def _propagate(wave, along_y, along_x, half, support):
    ny, nx = wave.shape
    for i in range(ny):
        q = min(i, ny - i)
        m = support[q]
        left = min(m, nx)
        right = max(nx - m + 1, left) if m > 0 else nx
        y = along_y[i]
        for j in range(left):
            wave[i, j] *= y * along_x[j] * half[q, j]
        for j in range(left, right):
            wave[i, j] = 0
        for j in range(right, nx):
            wave[i, j] *= y * along_x[j] * half[q, j]


def focus(out: np.ndarray, wave: np.ndarray, transfer: np.ndarray, along_y, along_x):
    """Set `out` to the transformed `wave` times transfer[y, x] along_y[y] along_x[x], complex64."""
    for b in range(wave.shape[0]):
        _focus(out[b], wave[b], transfer, along_y, along_x)


@compile_lanes
def _focus(out, wave, transfer, along_y, along_x):
    ny, nx = wave.shape
    for i in range(ny):
        y = along_y[i]
        for j in range(nx):
            out[i, j] = wave[i, j] * transfer[i, j] * (y * along_x[j])


def accumulate(intensity: np.ndarray, waves: np.ndarray, weights: np.ndarray):
    """Add sum_b weights[b] |waves[b]|^2 to `intensity`; float32 [y, x] and float32 (batch,)."""
    for b in range(waves.shape[0]):
        _accumulate(intensity, waves[b], weights[b])


@compile_lanes
def _accumulate(intensity, wave, weight):
    for i in range(wave.shape[0]):
        a = wave[i].view(np.float32)
        for j in range(wave.shape[1]):
            intensity[i, j] += weight * (a[2 * j] * a[2 * j] + a[2 * j + 1] * a[2 * j + 1])


@compile_lanes
def add_planes(images, planes, weights):
    """Add sum_n weights[n, m] planes[n] to images[m], in the order of n.

    float32 [m, y, x], [n, y, x] and (n, m).
    """
    for m in range(images.shape[0]):
        for n in range(planes.shape[0]):
            for i in range(images.shape[1]):
                for j in range(images.shape[2]):
                    images[m, i, j] += weights[n, m] * planes[n, i, j]
