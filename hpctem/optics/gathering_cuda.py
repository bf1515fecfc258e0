"""The loops of incoherent images on a GPU: CUDA C compiled by CuPy, the twins of `gathering_cpu`.

One thread makes one pixel from start to end, without atomics. The source is plain enough to
compile as C++ on a CPU, where a test compares it with the Numba twins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from hpctem.optics import kernels_cuda
from hpctem.optics.kernels import Deposits

THREADS = 256

SOURCE = r"""
typedef long long index_t;
struct complex_t { float re, im; };

#define PIXEL_OF(n) \
    index_t t = (index_t)blockIdx.x * blockDim.x + threadIdx.x; \
    if (t >= (n)) return;

extern "C" __global__ void weigh(
    complex_t* half, const float* along_y, const float* along_x, const float* values, int parts,
    int ny, int m)
{
    PIXEL_OF((index_t)ny * m)
    float factor = along_y[t / m] * along_x[t % m];
    float re = half[t].re * factor, im = half[t].im * factor;
    float a = values[parts * t], b = parts > 1 ? values[parts * t + 1] : 0.0f;
    half[t].re = re * a - im * b;
    half[t].im = re * b + im * a;
}

__device__ inline float level_at(const float* radial, int steps, double u)
{
    int n = (int)u;
    return radial[n] + (radial[n + 1] - radial[n]) * (float)(u - n);
}

extern "C" __global__ void fill_round(
    float* values, const double* ky, const double* kx, const float* radial, int steps, double band,
    int ny, int m)
{
    PIXEL_OF((index_t)ny * m)
    double y = ky[t / m], x = kx[t % m];
    double u = sqrt(y * y + x * x) * (steps / band);
    values[t] = u < steps ? level_at(radial, steps, u) : 0.0f;
}

__device__ inline void cubic(float* w, float t)
{
    float before = t + 1.0f, after = t - 1.0f, last = t - 2.0f;
    w[0] = -t * after * last / 6.0f;
    w[1] = before * after * last / 2.0f;
    w[2] = -before * t * last / 2.0f;
    w[3] = before * t * after / 6.0f;
}

extern "C" __global__ void fill_polar(
    complex_t* values, const double* ky, const double* kx, const float* radial, int steps,
    const complex_t* means, int lengths, int turns, double band, int ny, int m)
{
    PIXEL_OF((index_t)ny * m)
    double y = ky[t / m], x = kx[t % m];
    double u = sqrt(y * y + x * x) / band;
    values[t].re = values[t].im = 0.0f;
    if (u >= 1.0) return;
    float level = level_at(radial, steps, u * steps);
    double place = u * lengths, azimuth = (atan2(y, x) / 3.14159265358979323846 + 0.5) * turns;
    int p = (int)place, q = (int)azimuth;
    if (p > lengths - 1) p = lengths - 1;
    if (q > turns - 1) q = turns - 1;
    float along[4], around[4], re = 0.0f, im = 0.0f;
    cubic(along, (float)(place - p));
    cubic(around, (float)(azimuth - q));
    for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) {
            complex_t mean = means[(index_t)(p + a) * (turns + 3) + q + b];
            re += along[a] * around[b] * mean.re;
            im += along[a] * around[b] * mean.im;
        }
    values[t].re = level * re;
    values[t].im = level * im;
}

__device__ inline int set_window(float* w, const float* table, int steps, double position)
{
    int start = (int)ceil(position - 4.0);
    double u = (start - position + 4.0) * steps;
    int n = (int)u;
    if (n > steps - 1) n = steps - 1;
    for (int q = 0; q < 8; ++q) {
        float low = table[n * 8 + q], high = table[(n + 1) * 8 + q];
        w[q] = low + (high - low) * (float)(u - n);
    }
    return start;
}

__device__ inline int wrapped(int i, int n)
{
    i %= n;
    return i < 0 ? i + n : i;
}

extern "C" __global__ void gather(
    float* out, const float* values, int ny, int nx, const double* lines, const double* columns,
    int frames, int rows, int across, const float* table, int steps)
{
    PIXEL_OF((index_t)rows * across)
    int r = (int)(t / across), c = (int)(t % across);
    float along_y[8], along_x[8], sum = 0.0f;
    for (int f = 0; f < frames; ++f) {
        const double* line = lines + 2 * ((index_t)f * rows + r);
        double y = line[0] + columns[2 * c], x = line[1] + columns[2 * c + 1];
        int top = wrapped(set_window(along_y, table, steps, y), ny);
        int left = wrapped(set_window(along_x, table, steps, x), nx);
        for (int p = 0; p < 8; ++p) {
            const float* row = values + (index_t)((top + p) % ny) * nx;
            float here = 0.0f;
            for (int q = 0; q < 8; ++q) here += along_x[q] * row[(left + q) % nx];
            sum += along_y[p] * here;
        }
    }
    out[t] = sum / frames;
}
"""


@lru_cache(maxsize=1)
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE)


def _launch(name: str, size: int, *arguments: Any) -> None:
    blocks = (size + THREADS - 1) // THREADS
    _module().get_function(name)((blocks,), (THREADS,), arguments)


def _sizes(*numbers: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(n) for n in numbers)


def deposit(deposits: Deposits, layer: int, shape: tuple[int, int], table: Any) -> Any:
    """Twin of `gathering_cpu.deposit`, by the kernel that spreads atoms for potentials."""
    import cupy

    grid = cupy.empty((1, *shape), dtype=np.complex64)
    kernels_cuda.spread(grid, deposits, (layer, -1), table)
    return cupy.ascontiguousarray(grid[0].real)


def weigh(half: Any, along_y: Any, along_x: Any, values: Any) -> None:
    """Twin of `gathering_cpu.weigh`."""
    parts = 1 if values.dtype == np.float32 else 2
    _launch("weigh", half.size, half, along_y, along_x, values, *_sizes(parts, *half.shape))


def fill_round(values: Any, ky: Any, kx: Any, radial: Any, band: float) -> None:
    """Twin of `gathering_cpu.fill_round`."""
    steps = np.int32(radial.size - 2)
    width, sizes = np.float64(band), _sizes(*values.shape)
    _launch("fill_round", values.size, values, ky, kx, radial, steps, width, *sizes)


def fill_polar(values: Any, ky: Any, kx: Any, radial: Any, means: Any, band: float) -> None:
    """Twin of `gathering_cpu.fill_polar`."""
    steps = np.int32(radial.size - 2)
    table = (means, *_sizes(*(n - 3 for n in means.shape)))
    width, sizes = np.float64(band), _sizes(*values.shape)
    _launch("fill_polar", values.size, values, ky, kx, radial, steps, *table, width, *sizes)


def gather(out: Any, values: Any, lines: Any, columns: Any, table: Any) -> None:
    """Twin of `gathering_cpu.gather`."""
    steps = np.int32(table.shape[0] - 1)
    sizes = _sizes(lines.shape[0], *out.shape)
    _launch("gather", out.size, out, values, *_sizes(*values.shape), lines, columns, *sizes,
            table, steps)  # fmt: skip
