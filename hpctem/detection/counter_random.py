"""Random numbers and their logarithm as pure functions of a counter, in plain IEEE arithmetic.

Every pixel owns a counter, so no order of evaluation exists that could change the result, and only
operations that IEEE 754 rounds correctly (+, -, *, /, sqrt, frexp) are used, never the libraries'
log or exp, whose last bit differs between machines. `cuda_source.py` holds the same functions for
the GPU, line by line, and a test compares their bytes.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_loop, inline_loop

# Philox4x32-10: multipliers and Weyl increments (Salmon et al., SC11,
# doi:10.1145/2063384.2063405, section 3.3 and the published Random123 parameters).
M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
DROP = np.uint64(6)
LN2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476


@inline_loop
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox: four 32-bit words (each in a uint64) from a counter and a key."""
    for _ in range(10):
        p0 = M0 * c0
        p1 = M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0 = (k0 + W0) & LOW
        k1 = (k1 + W1) & LOW
    return c0, c1, c2, c3


@inline_loop
def uniform(high, low):
    """A float64 in the open interval (0, 1) on a lattice of 2^-52, from two 32-bit words."""
    return (np.float64(high >> DROP) * 67108864.0 + np.float64(low >> DROP) + 0.5) * 2.0**-52


@inline_loop
def uniform_pair(pixel, trial, words):
    """Two uniforms of a pixel's trial; `words` (4,) names the stream: half counter, half key."""
    a, b, c, d = philox4x32(pixel, trial, words[0], words[1], words[2], words[3])
    return uniform(a, b), uniform(c, d)


@compile_loop
def natural_log(x):
    """ln x for x > 0: x = m 2^e with m near 1, ln m = 2 artanh((m - 1) / (m + 1)) as a series."""
    m, e = math.frexp(x)
    if m < SQRT_HALF:
        m = 2.0 * m
        e -= 1
    t = (m - 1.0) / (m + 1.0)
    s = t * t
    # 1 + s/3 + s^2/5 + ...; s < 0.0295, so the first term left out is below 3e-17.
    y = 1.0 / 19.0
    y = 1.0 / 17.0 + s * y
    y = 1.0 / 15.0 + s * y
    y = 1.0 / 13.0 + s * y
    y = 1.0 / 11.0 + s * y
    y = 1.0 / 9.0 + s * y
    y = 1.0 / 7.0 + s * y
    y = 1.0 / 5.0 + s * y
    y = 1.0 / 3.0 + s * y
    y = 1.0 + s * y
    return np.float64(e) * LN2 + 2.0 * t * y


def draw_words(generator: np.random.Generator) -> np.ndarray:
    """Draw the 128 bits that name one image's stream: (4,) uint64, each below 2^32."""
    return generator.integers(0, 2**32, size=4, dtype=np.uint64)
