"""Poisson and normal variates per pixel: the CPU's loops over `counter_random`.

`cuda_source.py` holds the same functions for the GPU, line by line.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_loop
from hpctem.detection.counter_random import natural_log, uniform_pair

# ln k! for k = 0..9, where Stirling's series is too short.
LOG_FACTORIAL = np.array([math.log(math.factorial(k)) for k in range(10)])
# exp(-x) is summed to x^17 / 17!: 1e-18 at the largest x used, 10 / 16.
RECIPROCAL = np.array([0.0] + [1.0 / n for n in range(1, 18)])
HALF_LN_2PI = 0.9189385332046728
INVERT_BELOW = 10.0


@compile_loop
def exponential(x):
    """exp(-x) for 0 <= x < 10: Taylor's series of exp(-x / 16), squared four times."""
    t = x * 0.0625
    y = 1.0
    for n in range(17, 0, -1):
        y = 1.0 - t * RECIPROCAL[n] * y
    y *= y
    y *= y
    y *= y
    return y * y


@compile_loop
def log_poisson(k, mean):
    """ln of the Poisson probability of the integer k >= 0 (float64) at `mean`.

    Written with ln(mean / k), so that nothing large cancels: 1e-10 at a mean of 1e6.
    """
    if k < 10.0:
        return k * natural_log(mean) - mean - LOG_FACTORIAL[int(k)]
    r = 1.0 / k
    s = r * r
    # Stirling: ln k! = k ln k - k + ln(2 pi k) / 2 + 1/12k - 1/360k^3 + 1/1260k^5 - 1/1680k^7
    correction = r * (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s * (1.0 / 1680.0))))
    return k * natural_log(mean / k) + (k - mean) - 0.5 * natural_log(k) - HALF_LN_2PI - correction


@compile_loop
def poisson_by_inversion(mean, pixel, words):
    """Smallest k whose cumulative probability exceeds one uniform; for small means."""
    u, _ = uniform_pair(pixel, np.uint64(0), words)
    k = 0.0
    p = exponential(mean)
    # 110 lies where the tail of the largest mean, 10, is below 1e-70: rounding cannot loop here.
    while u > p and k < 110.0:
        u -= p
        k += 1.0
        p = p * (mean / k)
    return k


@compile_loop
def poisson_by_rejection(mean, pixel, words):
    """Transformed rejection with squeeze, PTRS (Hoermann 1993, Insur. Math. Econ. 12, 39)."""
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    accept_below = 0.9277 - 3.6224 / (b - 2.0)
    trial = np.uint64(0)
    while True:
        u, v = uniform_pair(pixel, trial, words)
        trial += np.uint64(1)
        u -= 0.5
        us = 0.5 - abs(u)
        k = np.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= accept_below:
            return k
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        if natural_log(v * inverse_alpha / (a / (us * us) + b)) <= log_poisson(k, mean):
            return k


@compile_loop
def draw_poisson(intensity, scale, words):
    """Counts, uint32 (n,), with means intensity (n,) float32 times scale; below zero is zero."""
    counts = np.empty(intensity.size, np.uint32)
    for i in range(intensity.size):
        mean = np.float64(intensity[i]) * scale
        if mean <= 0.0:
            counts[i] = 0
        elif mean < INVERT_BELOW:
            counts[i] = np.uint32(poisson_by_inversion(mean, np.uint64(i), words))
        else:
            counts[i] = np.uint32(poisson_by_rejection(mean, np.uint64(i), words))
    return counts


@compile_loop
def add_normal(signal, deviation, words):
    """signal (n,) float32 plus normal noise of the given standard deviation, as float32 (n,).

    Marsaglia's polar method (Marsaglia & Bray 1964, SIAM Rev. 6, 260): log and sqrt suffice.
    """
    noisy = np.empty(signal.size, np.float32)
    for i in range(signal.size):
        trial = np.uint64(0)
        while True:
            u, v = uniform_pair(np.uint64(i), trial, words)
            trial += np.uint64(1)
            u = 2.0 * u - 1.0
            v = 2.0 * v - 1.0
            s = u * u + v * v
            if 0.0 < s < 1.0:
                break
        normal = u * math.sqrt(-2.0 * natural_log(s) / s)
        noisy[i] = np.float32(np.float64(signal[i]) + deviation * normal)
    return noisy
