"""Cross sections of single atoms for scattering into an annular detector.

    sigma = gamma^2 integral |f(k)|^2 dOmega = 2 pi gamma^2 lambda^2 integral |f(k)|^2 k dk

over k = alpha / lambda from the inner to the outer angle, with the scattering factor f of the first
Born approximation at rest mass and gamma = m / m0 (see Reimer & Kohl 2008, Transmission Electron
Microscopy, ch. 5; the solid angle is lambda^2 d^2k, as in paraxial multislice). The square of f at
every k is all that an atom scatters there: thermal motion only moves it from the Bragg spots to
between them (see Loane, Xu & Silcox 1991, Acta Cryst. A47, 267), so elastic and thermal diffuse
scattering are both in sigma, and a Debye-Waller factor must not enter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from hpctem.errors import ConfigError
from hpctem.optics.electron import relativistic_mass, wavelength
from hpctem.optics.scattering_factors import scattering_factor

NODES = 64
"""Gauss-Legendre nodes in each piece of the annulus."""


@lru_cache(maxsize=4096)
def annular_cross_section(
    number: int, energy: float, inner: float, outer: float, parametrization: str = "lobato"
) -> float:
    """Cross section in A^2 of one atom at rest for scattering between two angles.

    `number`: atomic number; `energy` in eV; `inner`, `outer` in rad; the share of a probe that is
    collected is this times the probe's intensity per area at the atom. Raises ConfigError for
    angles out of order, an element that is not tabulated and angles beyond the table.
    """
    if not 0 <= inner < outer:
        raise ConfigError(
            f"the detector's inner angle {1e3 * inner:g} mrad must not be negative and must lie "
            f"below the outer, {1e3 * outer:g} mrad."
        )
    lam = wavelength(energy)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # f varies on a scale of k itself, so pieces that double in k are equally smooth
    edges = [inner / lam, outer / lam]
    while edges[-2] < edges[-1] / 2 and len(edges) < 12:
        edges.insert(-1, max(edges[-2] * 2, edges[-1] / 1024))
    total = 0.0
    for low, high in pairwise(edges):
        k = low + (high - low) * (nodes + 1) / 2
        f = scattering_factor(number, k, parametrization)
        total += float(np.sum(weights * f**2 * k)) * (high - low) / 2
    return 2 * math.pi * (relativistic_mass(energy) * lam) ** 2 * total


def fit_exponent(
    numbers: Iterable[int], energy: float, inner: float, outer: float, parametrization="lobato"
) -> float:
    """Exponent n of the power law Z^n through the cross sections of isolated atoms.

    Least squares of their logarithms over the elements `numbers`; other arguments as for
    `annular_cross_section`.
    """
    z = np.array(list(numbers))
    sigma = [annular_cross_section(int(n), energy, inner, outer, parametrization) for n in z]
    return float(np.polyfit(np.log(z), np.log(sigma), 1)[0])


def question_angles(inner: float, semiangle_cutoff: float) -> str | None:
    """What is doubtful of an incoherent image with these angles (rad); None for nothing.

    Below twice the convergence semiangle the detector sees where the scattered disks of
    neighbouring atoms still interfere with each other and, below once, with the unscattered beam
    (see Jesson & Pennycook 1993, Proc. R. Soc. Lond. A 441, 261).
    """
    if inner >= 2 * semiangle_cutoff * (1 - 1e-9):
        return None
    below = inner < semiangle_cutoff * (1 - 1e-9)
    what = "is the direct beam" if below else "interferes between neighbours"
    return (
        f"the detector's inner angle {1e3 * inner:g} mrad is less than twice the convergence "
        f"semiangle {1e3 * semiangle_cutoff:g} mrad: part of the signal {what}, which the "
        f"incoherent method does not have; use an inner angle of at least "
        f"{2e3 * semiangle_cutoff:g} mrad, or multislice."
    )
