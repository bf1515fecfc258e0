"""The CUDA twins of `counter_random`, `counting` and `median`, line by line.

One thread computes one pixel; nothing is shared, so no order of threads can change a byte. Compile
with contraction into fused multiply-add off: then every float64 operation rounds as on the CPU.
"""

from __future__ import annotations

COUNTING = r"""
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ void uniform_pair(u32 pixel, u32 trial, const u64* words, double* u, double* v)
{
    u32 c0 = pixel, c1 = trial, c2 = (u32)words[0], c3 = (u32)words[1];
    u32 k0 = (u32)words[2], k1 = (u32)words[3];
    for (int round = 0; round < 10; ++round) {
        u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(p1 >> 32) ^ c1 ^ k0, n2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0; c1 = (u32)p1; c2 = n2; c3 = (u32)p0;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    const double step = 1.0 / 4503599627370496.0;  /* 2^-52 */
    *u = ((double)(c0 >> 6) * 67108864.0 + (double)(c1 >> 6) + 0.5) * step;
    *v = ((double)(c2 >> 6) * 67108864.0 + (double)(c3 >> 6) + 0.5) * step;
}

__device__ double natural_log(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0.7071067811865476) { m = 2.0 * m; e -= 1; }
    double t = (m - 1.0) / (m + 1.0);
    double s = t * t;
    double y = 1.0 / 19.0;
    y = 1.0 / 17.0 + s * y;
    y = 1.0 / 15.0 + s * y;
    y = 1.0 / 13.0 + s * y;
    y = 1.0 / 11.0 + s * y;
    y = 1.0 / 9.0 + s * y;
    y = 1.0 / 7.0 + s * y;
    y = 1.0 / 5.0 + s * y;
    y = 1.0 / 3.0 + s * y;
    y = 1.0 + s * y;
    return (double)e * 0.6931471805599453 + 2.0 * t * y;
}

__device__ double exponential(double x)
{
    double t = x * 0.0625;
    double y = 1.0;
    for (int n = 17; n > 0; --n) y = 1.0 - t * (1.0 / (double)n) * y;
    y *= y;
    y *= y;
    y *= y;
    return y * y;
}

__device__ double log_poisson(double k, double mean)
{
    if (k < 10.0) {
        const double log_factorial[10] = {LOG_FACTORIALS};
        return k * natural_log(mean) - mean - log_factorial[(int)k];
    }
    double r = 1.0 / k;
    double s = r * r;
    double correction
        = r * (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s * (1.0 / 1680.0))));
    return k * natural_log(mean / k) + (k - mean) - 0.5 * natural_log(k) - 0.9189385332046728
        - correction;
}

__device__ double poisson_by_inversion(double mean, u32 pixel, const u64* words)
{
    double u, v;
    uniform_pair(pixel, 0u, words, &u, &v);
    double k = 0.0;
    double p = exponential(mean);
    while (u > p && k < 110.0) {
        u -= p;
        k += 1.0;
        p = p * (mean / k);
    }
    return k;
}

__device__ double poisson_by_rejection(double mean, u32 pixel, const u64* words)
{
    double b = 0.931 + 2.53 * sqrt(mean);
    double a = -0.059 + 0.02483 * b;
    double inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
    double accept_below = 0.9277 - 3.6224 / (b - 2.0);
    for (u32 trial = 0;; ++trial) {
        double u, v;
        uniform_pair(pixel, trial, words, &u, &v);
        u -= 0.5;
        double us = 0.5 - fabs(u);
        double k = floor((2.0 * a / us + b) * u + mean + 0.43);
        if (us >= 0.07 && v <= accept_below) return k;
        if (k < 0.0 || (us < 0.013 && v > us)) continue;
        if (natural_log(v * inverse_alpha / (a / (us * us) + b)) <= log_poisson(k, mean)) return k;
    }
}

extern "C" __global__ void draw_poisson(
    const float* intensity, double scale, const u64* words, u32* counts, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double mean = (double)intensity[i] * scale;
    if (mean <= 0.0) counts[i] = 0u;
    else if (mean < 10.0) counts[i] = (u32)poisson_by_inversion(mean, (u32)i, words);
    else counts[i] = (u32)poisson_by_rejection(mean, (u32)i, words);
}

extern "C" __global__ void add_normal(
    const float* signal, double deviation, const u64* words, float* noisy, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double u, v, s;
    u32 trial = 0;
    do {
        uniform_pair((u32)i, trial++, words, &u, &v);
        u = 2.0 * u - 1.0;
        v = 2.0 * v - 1.0;
        s = u * u + v * v;
    } while (!(0.0 < s && s < 1.0));
    double normal = u * sqrt(-2.0 * natural_log(s) / s);
    noisy[i] = (float)((double)signal[i] + deviation * normal);
}
"""

# PIXEL becomes the image's C type.
MEDIAN = r"""
typedef PIXEL pixel;

__device__ pixel smaller(pixel a, pixel b) { return a < b ? a : b; }
__device__ pixel larger(pixel a, pixel b) { return a < b ? b : a; }
__device__ pixel middle(pixel a, pixel b, pixel c)
{
    return smaller(larger(smaller(a, b), c), larger(a, b));
}

extern "C" __global__ void median_pixels(const pixel* image, pixel* filtered, int ny, int nx)
{
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= ny * nx) return;
    int i = index / nx, j = index % nx;
    const pixel* above = image + (long long)(i > 0 ? i - 1 : 0) * nx;
    const pixel* here = image + (long long)i * nx;
    const pixel* below = image + (long long)(i < ny - 1 ? i + 1 : i) * nx;
    pixel low[3], mid[3], high[3];
    for (int d = 0; d < 3; ++d) {
        int c = j + d - 1;
        c = c < 0 ? 0 : (c > nx - 1 ? nx - 1 : c);
        pixel x = above[c], y = here[c], z = below[c];
        low[d] = smaller(smaller(x, y), z);
        high[d] = larger(larger(x, y), z);
        mid[d] = middle(x, y, z);
    }
    filtered[index] = middle(larger(larger(low[0], low[1]), low[2]),
                             middle(mid[0], mid[1], mid[2]),
                             smaller(smaller(high[0], high[1]), high[2]));
}
"""


def write_counting_source() -> str:
    """The CUDA source of `draw_poisson` and `add_normal`, with the CPU's table of ln k!."""
    from hpctem.detection.counting import LOG_FACTORIAL

    return COUNTING.replace("LOG_FACTORIALS", ", ".join(repr(float(x)) for x in LOG_FACTORIAL))


def write_median_source(pixel: str) -> str:
    """The CUDA source of `median_pixels` for images of the C type `pixel`."""
    return MEDIAN.replace("PIXEL", pixel)
