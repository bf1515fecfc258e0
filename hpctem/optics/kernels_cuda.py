"""Inner loops on a GPU: CUDA C compiled by CuPy, the twins of `kernels_cpu`.

One thread makes one pixel from start to end, without shared memory or atomics, so nothing depends
on the order in which threads run. Atoms are gathered: they come sorted by bins of `BIN` x `BIN`
pixels, and each pixel sums the atoms of the few bins that can reach it, in their order. The source
is plain enough to compile as C++ on a CPU, where a test compares it with the Numba twins.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from hpctem.optics.kernels import Deposits

BIN = 8
THREADS = 256

SOURCE = r"""
typedef long long index_t;
struct alignas(8) complex_t { float re, im; };  /* read and written as one */

#define PIXEL_OF(n) \
    index_t t = (index_t)blockIdx.x * blockDim.x + threadIdx.x; \
    if (t >= (n)) return;

/* in 32 bits: divisions of 64 take a GPU longer than the memory */
#define ROW_AND_COLUMN(ny, nx) \
    unsigned line = (unsigned)t / (unsigned)(nx); \
    int j = (int)((unsigned)t - line * (unsigned)(nx)), i = (int)(line % (unsigned)(ny));

#define GROUP 8  /* images that a thread sums in registers */

__device__ inline complex_t times(complex_t a, complex_t b)
{
    complex_t product = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return product;
}

__device__ inline float kernel_value(const float* table, int steps, int w, float phase, int q)
{
    float u = phase * (float)steps;
    int n = (int)u;
    if (n > steps - 1) n = steps - 1;
    float low = table[n * w + q], high = table[(n + 1) * w + q];
    return low + (high - low) * (u - (float)n);
}

extern "C" __global__ void spread(
    complex_t* grid, int batch, int ny, int nx, const int* row, const int* column,
    const float* row_phase, const float* column_phase, const float* weight, const int* first,
    int slices, int bins_y, int bins_x, int side_y, int side_x, int slice0, int slice1,
    const float* table, int steps, int w)
{
    PIXEL_OF((index_t)batch * ny * nx)
    ROW_AND_COLUMN(ny, nx)
    index_t b = line / (unsigned)ny;
    int above = i - w + 1, before = j - w + 1;  /* first pixels of the atoms that reach this one */
    int by0 = (above < 0 ? above + ny : above) / side_y, by1 = i / side_y;
    int bx0 = (before < 0 ? before + nx : before) / side_x, bx1 = j / side_x;
    float parts[2] = {0.0f, 0.0f};
    for (int part = 0; part < 2; ++part) {
        int s = part ? slice1 : slice0;
        if (s < 0) continue;
        index_t offset = (b * slices + s) * bins_y * bins_x;
        for (int by = by0;; by = by + 1 == bins_y ? 0 : by + 1) {
            for (int bx = bx0;; bx = bx + 1 == bins_x ? 0 : bx + 1) {
                index_t bin = offset + (index_t)by * bins_x + bx;
                for (int a = first[bin]; a < first[bin + 1]; ++a) {
                    int p = i - row[a], q = j - column[a];
                    if (p < 0) p += ny;
                    if (q < 0) q += nx;
                    if (p < w && q < w)
                        parts[part] += weight[a] * kernel_value(table, steps, w, row_phase[a], p)
                                     * kernel_value(table, steps, w, column_phase[a], q);
                }
                if (bx == bx1) break;
            }
            if (by == by1) break;
        }
    }
    grid[t].re = parts[0];
    grid[t].im = parts[1];
}

extern "C" __global__ void combine(
    complex_t* total, const complex_t* grid, const float* half, int batch, int ny, int nx, int add)
{
    PIXEL_OF((index_t)batch * ny * nx)
    ROW_AND_COLUMN(ny, nx)
    float f = half[(index_t)(i < ny - i ? i : ny - i) * nx + j];
    complex_t sum = {0.0f, 0.0f};
    if (f == 0.0f) {  /* outside the aperture, in two thirds of the pixels, nothing is read */
        if (!add) total[t] = sum;
        return;
    }
    complex_t a = grid[t];
    if (add) sum = total[t];
    sum.re += a.re * f;
    sum.im += a.im * f;
    total[t] = sum;
}

extern "C" __global__ void phase_object(
    complex_t* transmission, const complex_t* potential, index_t size, int part, float sigma)
{
    PIXEL_OF(size)
    complex_t v = potential[t], factor;
    sincosf(sigma * (part ? v.im : v.re), &factor.im, &factor.re);
    transmission[t] = factor;
}

extern "C" __global__ void multiply(complex_t* wave, const complex_t* factor, index_t size)
{
    PIXEL_OF(size)
    wave[t] = times(wave[t], factor[t]);
}

extern "C" __global__ void propagate(
    complex_t* wave, const complex_t* along_y, const complex_t* along_x, const float* half,
    int batch, int ny, int nx)
{
    PIXEL_OF((index_t)batch * ny * nx)
    ROW_AND_COLUMN(ny, nx)
    float f = half[(index_t)(i < ny - i ? i : ny - i) * nx + j];
    complex_t leg = {0.0f, 0.0f};
    if (f == 0.0f) {
        wave[t] = leg;
        return;
    }
    leg = times(along_y[i], along_x[j]);
    leg.re *= f;
    leg.im *= f;
    wave[t] = times(wave[t], leg);
}

extern "C" __global__ void focus(
    complex_t* out, const complex_t* wave, const complex_t* transfer, const complex_t* along_y,
    const complex_t* along_x, int batch, int ny, int nx)
{
    PIXEL_OF((index_t)batch * ny * nx)
    ROW_AND_COLUMN(ny, nx)
    complex_t f = transfer[(index_t)i * nx + j];
    if (f.re == 0.0f && f.im == 0.0f) out[t] = f;
    else out[t] = times(times(wave[t], f), times(along_y[i], along_x[j]));
}

extern "C" __global__ void accumulate(
    float* intensity, const complex_t* waves, const float* weights, int batch, index_t size)
{
    PIXEL_OF(size)
    float sum = intensity[t];
    for (int b = 0; b < batch; ++b) {
        complex_t a = waves[b * size + t];
        sum += weights[b] * (a.re * a.re + a.im * a.im);
    }
    intensity[t] = sum;
}

extern "C" __global__ void add_planes(
    float* images, const float* planes, const float* weights, int count, int number, index_t size)
{
    PIXEL_OF(size)
    for (int first = 0; first < count; first += GROUP) {
        float sums[GROUP];
#pragma unroll
        for (int m = 0; m < GROUP; ++m)
            sums[m] = first + m < count ? images[(first + m) * size + t] : 0.0f;
        for (int n = 0; n < number; ++n) {
            float value = planes[n * size + t];
            const float* row = weights + (index_t)n * count + first;
#pragma unroll
            for (int m = 0; m < GROUP; ++m)
                if (first + m < count) sums[m] += row[m] * value;
        }
#pragma unroll
        for (int m = 0; m < GROUP; ++m)
            if (first + m < count) images[(first + m) * size + t] = sums[m];
    }
}
"""


@lru_cache(maxsize=1)
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE)


@cache
def _function(name: str) -> Any:
    return _module().get_function(name)


def _launch(name: str, size: int, *arguments: Any) -> None:
    blocks = (size + THREADS - 1) // THREADS
    _function(name)((blocks,), (THREADS,), arguments)


def _shape(field: Any) -> tuple[np.int32, np.int32, np.int32]:
    batch, ny, nx = field.shape
    return np.int32(batch), np.int32(ny), np.int32(nx)


def bin_side(shape: tuple[int, int]) -> tuple[int, int]:
    """Pixels (rows, columns) of a bin of atoms."""
    return BIN, BIN


def spread(grid: Any, deposits: Deposits, slices: tuple[int, int], table: Any) -> None:
    """Twin of `kernels_cpu.spread`."""
    d = deposits
    atoms = (d.row, d.column, d.row_phase, d.column_phase, d.weight, d.first)
    numbers = (d.slices, *d.bins, *d.side, *slices)
    steps, w = table.shape[0] - 1, table.shape[1]
    sizes = tuple(np.int32(n) for n in numbers)
    _launch("spread", grid.size, grid, *_shape(grid), *atoms, *sizes, table,
            np.int32(steps), np.int32(w))  # fmt: skip


def combine(total: Any, grid: Any, half: Any, support: Any, add: bool) -> None:
    """Twin of `kernels_cpu.combine`; the factor's zeros do what `support` does there."""
    _launch("combine", grid.size, total, grid, half, *_shape(grid), np.int32(add))


def phase_object(transmission: Any, potential: Any, part: int, sigma: float) -> None:
    """Twin of `kernels_cpu.phase_object`."""
    size = np.int64(potential.size)
    _launch("phase_object", potential.size, transmission, potential, size, np.int32(part),
            np.float32(sigma))  # fmt: skip


def multiply(wave: Any, factor: Any) -> None:
    """Twin of `kernels_cpu.multiply`."""
    _launch("multiply", wave.size, wave, factor, np.int64(wave.size))


def propagate(wave: Any, along_y: Any, along_x: Any, half: Any, support: Any) -> None:
    """Twin of `kernels_cpu.propagate`."""
    _launch("propagate", wave.size, wave, along_y, along_x, half, *_shape(wave))


def focus(out: Any, wave: Any, transfer: Any, along_y: Any, along_x: Any) -> None:
    """Twin of `kernels_cpu.focus`."""
    _launch("focus", wave.size, out, wave, transfer, along_y, along_x, *_shape(wave))


def accumulate(intensity: Any, waves: Any, weights: Any) -> None:
    """Twin of `kernels_cpu.accumulate`."""
    size = np.int64(intensity.size)
    _launch("accumulate", intensity.size, intensity, waves, weights, np.int32(waves.shape[0]), size)


def add_planes(images: Any, planes: Any, weights: Any) -> None:
    """Twin of `kernels_cpu.add_planes`."""
    (number, count), size = weights.shape, planes[0].size
    _launch("add_planes", size, images, planes, weights, np.int32(count), np.int32(number),
            np.int64(size))  # fmt: skip
