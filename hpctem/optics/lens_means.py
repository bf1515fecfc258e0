"""The aberrations in the autocorrelation of a circular aperture, averaged over the overlap.

Two disks of radius 1, shifted by s, overlap in a lens. With the aberration phase chi the transfer
of the probe's intensity is the overlap's area times the mean over it of

    exp(-i [chi(p + s/2) - chi(p - s/2)])

(see Goodman 2005, Introduction to Fourier Optics, section 6.4). Without the area's factor, which
has kinks at both ends, the mean is smooth in the length of s and in its azimuth. A Gaussian spread
of the defocus multiplies the integrand by a Gaussian and needs no further nodes.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_loop
from hpctem.optics.aberrations import Aberrations

DEGREE = 6
"""Largest power of the angle in chi."""


def lens_means(
    shifts: np.ndarray,
    azimuths: np.ndarray,
    terms: list[tuple[int, int, float, float]],
    damping: float,
    nodes: int,
) -> np.ndarray:
    """Means over the overlap for each azimuth and shift, complex128 (A, S).

    `shifts` s: float64 (S,) in (0, 2); `azimuths`: float64 (A,) in rad; `terms`: (n, m, c, phi) of
    chi = sum c r^(n+1) cos(m (azimuth - phi)) in rad, r from 0 to 1; `damping`: standard deviation
    of the coefficient of r^2; `nodes`: Gauss-Legendre nodes along each side of the overlap.
    """
    means = np.empty((azimuths.size, shifts.size), dtype=np.complex128)
    x, w = np.polynomial.legendre.leggauss(nodes)
    powers = _chi_powers(azimuths, terms)
    _average_lenses(means, np.ascontiguousarray(shifts), powers, float(damping), x, w)
    return means


def scale_terms(aberrations: Aberrations, semiangle: float, lam: float) -> list:
    """`aberrations` as terms of `lens_means`: the radius 1 is `semiangle` (rad)."""
    return [
        (n, m, 2 * math.pi / lam * c * semiangle ** (n + 1) / (n + 1), phi)
        for n, m, c, phi in aberrations.terms()
    ]


def _chi_powers(azimuths: np.ndarray, terms: list[tuple[int, int, float, float]]) -> np.ndarray:
    """Coefficients of x^i y^j in chi, float64 (A, 7, 7), x along each azimuth."""
    powers = np.zeros((azimuths.size, DEGREE + 1, DEGREE + 1))
    for n, m, c, phi in terms:
        # r^(n+1) exp(i m azimuth) = z^m (x^2 + y^2)^((n+1-m)/2) with z = x + i y
        product = {(0, 0): 1.0 + 0j}
        factors = [{(1, 0): 1, (0, 1): 1j}] * m + [{(2, 0): 1, (0, 2): 1}] * ((n + 1 - m) // 2)
        for factor in factors:
            longer: dict[tuple[int, int], complex] = {}
            for (i, j), a in product.items():
                for (p, q), b in factor.items():
                    longer[i + p, j + q] = longer.get((i + p, j + q), 0) + a * b
            product = longer
        turn = c * np.exp(-1j * m * (phi - azimuths))
        for (i, j), a in product.items():
            powers[:, i, j] += (turn * a).real
    return powers


@compile_loop
def _average_lenses(means, shifts, powers, damping, nodes, weights):
    binomial = np.zeros((7, 7))
    for i in range(7):
        binomial[i, 0] = 1.0
        for k in range(1, i + 1):
            binomial[i, k] = binomial[i - 1, k - 1] + (binomial[i - 1, k] if k < i else 0.0)
    difference = np.empty((6, 7))
    row = np.empty(6)
    for n in range(shifts.size):
        half = shifts[n] / 2
        widest = math.acos(half)
        for azimuth in range(powers.shape[0]):
            difference[:] = 0.0
            for i in range(1, 7):
                for k in range(1, i + 1, 2):
                    factor = 2 * binomial[i, k] * half**k
                    for j in range(7 - i):
                        difference[i - k, j] += factor * powers[azimuth, i, j]
            real, imaginary, total = 0.0, 0.0, 0.0
            for a in range(nodes.size):
                y, room = math.sin(widest * nodes[a]), math.cos(widest * nodes[a])
                reach = room - half
                for i in range(6):
                    row[i] = 0.0
                    for j in range(6 - i, -1, -1):
                        row[i] = row[i] * y + difference[i, j]
                outer = weights[a] * room * reach
                total += outer
                for b in range(nodes.size):
                    x = reach * nodes[b]
                    phase = row[5]
                    for i in range(4, -1, -1):
                        phase = phase * x + row[i]
                    part = outer * weights[b] / 2
                    if damping > 0:
                        spread = damping * 4 * half * x
                        part *= math.exp(-0.5 * spread * spread)
                    real += part * math.cos(phase)
                    imaginary -= part * math.sin(phase)
            means[azimuth, n] = complex(real / total, imaginary / total)
