"""Cross sections of single atoms for scattering from a focused probe into an annular detector.

    sigma = lambda^2 integral |f(q)|^2 w(q) d^2q

over scattering vectors q, with the amplitude f of an atom in the eikonal approximation (Moliere
1947, Z. Naturforsch. 2a, 133; see Reimer & Kohl 2008, Transmission Electron Microscopy, ch. 5),
which is what multislice has for one atom in one slice,

    f(q) = 2 pi / (i lambda) integral (exp(i sigma_e v(r)) - 1) J0(2 pi q r) r dr

of the projected potential v. It tends to gamma f_e, the first Born approximation, for light atoms;
of tungsten at 80 kV Born's cross section is 1.7 times as large. w is the share of the probe's
directions from which q leads into the detector: 1 inside the annulus for a parallel beam. Since
|f|^2 falls steeply, the cone of a probe of 25 mrad adds 8 to 16 % between 63 and 200 mrad.

|f|^2 at every q is all that an atom scatters there: thermal motion only moves it from the Bragg
spots to between them (see Loane, Xu & Silcox 1991, Acta Cryst. A47, 267), so elastic and thermal
diffuse scattering are both in sigma, and a Debye-Waller factor must not enter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np

from hpctem.errors import ConfigError
from hpctem.optics.electron import (
    POTENTIAL_PER_SCATTERING_FACTOR,
    interaction_constant,
    relativistic_mass,
    wavelength,
)
from hpctem.optics.scattering_factors import PENG_LIMIT, read_terms, scattering_factor

NODES = 48
"""Gauss-Legendre nodes in each piece of the integral over q."""

SPACING = 0.04
"""Step in 1/A of the table of an amplitude."""


@lru_cache(maxsize=4096)
def annular_cross_section(
    number: int,
    energy: float,
    inner: float,
    outer: float,
    parametrization: str = "lobato",
    semiangle_cutoff: float = 0.0,
) -> float:
    """Cross section in A^2 of one atom for scattering between two angles.

    `number`: atomic number; `energy` in eV; `inner`, `outer`: angles of the detector from the axis
    in rad; `semiangle_cutoff`: convergence semiangle of the probe in rad, 0 for a parallel beam.
    The share of a probe that is collected is this times the probe's intensity per area at the
    atom. Raises ConfigError for angles out of order, an element that is not tabulated and angles
    beyond the table.
    """
    if not (0 <= inner < outer and semiangle_cutoff >= 0):
        raise ConfigError(
            f"the detector's inner angle {1e3 * inner:g} mrad must not be negative and must lie "
            f"below the outer, {1e3 * outer:g} mrad; nor may the convergence semiangle "
            f"{1e3 * semiangle_cutoff:g} mrad be negative."
        )
    lam, cone = wavelength(energy), semiangle_cutoff
    ends = {abs(inner - cone), inner + cone, max(outer - cone, 0.0), outer + cone}
    if inner < cone:
        ends.add(0.0)
    # f varies on a scale of q itself, so pieces that double in q are equally smooth
    pieces = sorted(ends | {outer / 2**n for n in range(12) if min(ends) < outer / 2**n})
    angle, weight = legendre_nodes(np.array(pieces), NODES)
    share = _overlap(angle, cone, outer) - (_overlap(angle, cone, inner) if inner else 0.0)
    amplitude = tabulate_amplitude(number, energy, parametrization, pieces[-1] / lam)
    power = np.abs(amplitude(angle / lam)) ** 2
    return float(2 * math.pi * np.sum(weight * angle * share * power))


def scattering_amplitude(
    number: int, energy: float, q: np.ndarray, parametrization: str = "lobato"
) -> np.ndarray:
    """Amplitude in A that an atom at rest scatters by `q` (1/A, float64 (n,)): complex128 (n,).

    Eikonal approximation; it tends to gamma f_e where the potential is weak. Raises ConfigError as
    `annular_cross_section`.
    """
    from scipy.special import j0

    # what is beyond the first order is gone where the potential is: within some A, and it is
    # smooth but for a logarithm at the nucleus
    edges = np.concatenate([[0.0], np.geomspace(1e-6, 0.05, 24), np.arange(0.15, 8.01, 0.1)])
    r, weight = legendre_nodes(edges, 10)
    phase = interaction_constant(energy) * _project_potential(number, r, parametrization)
    higher = (np.exp(1j * phase) - 1 - 1j * phase) * r * weight
    born = relativistic_mass(energy) * scattering_factor(number, q, parametrization)
    return born + 2 * np.pi / (1j * wavelength(energy)) * (j0(2 * np.pi * np.outer(q, r)) @ higher)


def _project_potential(number: int, r: np.ndarray, parametrization: str) -> np.ndarray:
    """Potential of an atom along the beam at the distance `r` > 0 (A) from it: float64, V A."""
    from scipy.special import k0, k1

    t = read_terms(number, parametrization)
    total = np.zeros_like(r)
    for lorentz, lorentz2, width2 in zip(t.lorentz, t.lorentz2, t.width2, strict=True):
        width = math.sqrt(width2)
        u = 2 * np.pi * width * r
        total += 2 * np.pi * lorentz * k0(u) + 2 * np.pi**2 * lorentz2 * r / width * k1(u)
    for gauss, decay in zip(t.gauss, t.decay, strict=True):
        total += gauss * np.pi / decay * np.exp(-(np.pi**2) * r**2 / decay)
    return POTENTIAL_PER_SCATTERING_FACTOR * total


def tabulate_amplitude(
    number: int, energy: float, parametrization: str, farthest: float
) -> Callable[[np.ndarray], np.ndarray]:
    """`scattering_amplitude` in A as a function of q up to `farthest` (1/A) or a little beyond.

    Raises ConfigError as that.
    """
    end = 2.0 * math.ceil(farthest / 2)  # few different tables
    if parametrization == "peng" and farthest <= PENG_LIMIT < end:
        end = PENG_LIMIT
    return _tabulate_once(number, energy, parametrization, end)


@lru_cache(maxsize=256)
def _tabulate_once(
    number: int, energy: float, parametrization: str, end: float
) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import CubicSpline

    q = np.linspace(0, end, math.ceil(end / SPACING) + 4)
    f = scattering_amplitude(number, energy, q, parametrization)
    spline = CubicSpline(q, np.log(np.abs(f)) + 1j * np.unwrap(np.angle(f)))
    return lambda q: np.exp(spline(q))


def legendre_nodes(edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights, `count` between any two neighbours of `edges`."""
    x, w = np.polynomial.legendre.leggauss(count)
    half = np.diff(edges) / 2
    middle = edges[:-1] + half
    return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def _overlap(distance: np.ndarray, radius: float, other: float) -> np.ndarray:
    """Share of a disk of `radius` that lies in another, of radius `other` and `distance` off."""
    if radius == 0:
        return (distance < other).astype(np.float64)
    d2, a2, b2 = distance**2, radius**2, other**2
    angle = np.arccos(np.clip((d2 + a2 - b2) / (2 * distance * radius), -1, 1))
    facing = np.arccos(np.clip((d2 + b2 - a2) / (2 * distance * other), -1, 1))
    kite = np.clip((radius + other) ** 2 - d2, 0, None) * np.clip(
        d2 - (radius - other) ** 2, 0, None
    )
    area = a2 * angle + b2 * facing - 0.5 * np.sqrt(kite)
    return area / (np.pi * a2)


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
