"""Electron scattering factors of neutral atoms, and how an atom's potential divides along the beam.

Three parametrizations, each read from a table in `data/` whose header names its source:

    lobato    sum_i a_i (2 + b_i k^2) / (1 + b_i k^2)^2           (Lobato & Van Dyck 2014)
    kirkland  sum_i a_i / (k^2 + b_i) + sum_i c_i exp(-d_i k^2)   (Kirkland 2010)
    peng      sum_i a_i exp(-b_i k^2 / 4), fitted for k < 12 1/A  (Peng et al. 1996)

with k = 1/d = 2 sin(theta) / lambda in 1/A and f in A. The Fourier transform of the potential is
`POTENTIAL_PER_SCATTERING_FACTOR` (V A^2) times f.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike

from hpctem.errors import ConfigError

PENG_LIMIT = 12.0
"""Largest k in 1/A (s = k/2 = 6 1/A) to which Peng's Gaussians were fitted."""


@dataclass(frozen=True)
class Terms:
    """One element's scattering factor as elementary functions of g^2 = k^2 + kz^2, f in A.

    f = sum_i L_i / (g^2 + B_i)  +  sum_i M_i / (g^2 + B_i)^2  +  sum_j C_j exp(-D_j g^2);
    `lorentz`, `lorentz2`, `width2`: L (1/A), M (1/A^3), B (1/A^2); `gauss`, `decay`: C, D (A, A^2).
    """

    lorentz: np.ndarray
    lorentz2: np.ndarray
    width2: np.ndarray
    gauss: np.ndarray
    decay: np.ndarray


_NONE = np.zeros(0)


def _lobato_terms(v: np.ndarray) -> Terms:
    # (2 + b g^2) / (1 + b g^2)^2 = (1/b) / (g^2 + 1/b) + (1/b^2) / (g^2 + 1/b)^2
    a, b = v[:5], v[5:]
    return Terms(a / b, a / b**2, 1 / b, _NONE, _NONE)


def _kirkland_terms(v: np.ndarray) -> Terms:
    return Terms(v[0:3], np.zeros(3), v[3:6], v[6:9], v[9:12])


def _peng_terms(v: np.ndarray) -> Terms:
    return Terms(_NONE, _NONE, _NONE, v[:5], v[5:] / 4)


_READERS: dict[str, Callable[[np.ndarray], Terms]] = {
    "lobato": _lobato_terms,
    "kirkland": _kirkland_terms,
    "peng": _peng_terms,
}
PARAMETRIZATIONS = tuple(_READERS)


@lru_cache(maxsize=8)
def _read_table(parametrization: str) -> tuple[dict[int, Terms], dict[int, str]]:
    if parametrization not in _READERS:
        names = ", ".join(PARAMETRIZATIONS)
        raise ConfigError(f"scattering factors '{parametrization}' are unknown; choose {names}.")
    text = (files("hpctem.optics") / "data" / f"{parametrization}.csv").read_text()
    rows = [line.split(",") for line in text.splitlines() if not line.startswith(("#", "Z"))]
    read = _READERS[parametrization]
    terms = {int(row[0]): read(np.array(row[2:], dtype=np.float64)) for row in rows}
    return terms, {int(row[0]): row[1] for row in rows}


def read_terms(number: int, parametrization: str = "lobato") -> Terms:
    """Return the tabulated terms of the element with atomic `number`.

    Raises ConfigError, naming the element and the table's range, if it is not tabulated.
    """
    terms, _ = _read_table(parametrization)
    if int(number) not in terms:
        from ase.data import chemical_symbols

        raise ConfigError(
            f"{chemical_symbols[int(number)]} (Z = {int(number)}) has no {parametrization} "
            f"scattering factor; the table holds Z = {min(terms)} to {max(terms)}."
        )
    return terms[int(number)]


def check_elements(numbers: np.ndarray, parametrization: str, largest_k: float) -> None:
    """Raise ConfigError unless every element of `numbers` is tabulated and fitted to `largest_k`.

    `numbers`: integer (N,); `largest_k` in 1/A: the edge of the antialiasing aperture.
    """
    for number in np.unique(numbers):
        read_terms(number, parametrization)
    if parametrization == "peng" and largest_k > PENG_LIMIT:
        raise ConfigError(
            f"Peng's scattering factors were fitted to k = {PENG_LIMIT:g} 1/A (s = 6 1/A), but "
            f"{largest_k:.3g} 1/A is needed; use lobato or kirkland, or a sampling of at least "
            f"{1 / (3 * PENG_LIMIT):.3f} A."
        )


def debye_waller_factor(k: ArrayLike, rms: float) -> np.ndarray:
    """Mean of exp(2 pi i k u) over Gaussian displacements, exp(-2 pi^2 rms^2 k^2).

    `k` in 1/A, any shape; `rms`: rms displacement in one dimension in A. It equals exp(-B s^2)
    with B = 8 pi^2 rms^2 and s = k/2 (Peng et al. 1996, Acta Cryst. A52, 456).
    """
    return np.exp(-2 * np.pi**2 * rms**2 * np.asarray(k, dtype=np.float64) ** 2)


def scattering_factor(
    number: int, k: ArrayLike, parametrization: str = "lobato", rms: float = 0.0
) -> np.ndarray:
    """Electron scattering factor f_e of a neutral atom (first Born approximation, rest mass).

    `k`: spatial frequency 1/d in 1/A, any shape; `rms`: 1-D thermal displacement in A of a
    Debye-Waller factor (0: an atom at rest). Returns f in A, float64, shaped like `k`.
    Raises ConfigError for an element that is not tabulated and for Peng beyond 12 1/A.
    """
    k = np.asarray(k, dtype=np.float64)
    check_elements(np.array([number]), parametrization, float(np.max(k, initial=0.0)))
    t = read_terms(number, parametrization)
    g2 = k**2
    f = np.zeros_like(g2)
    for lorentz, lorentz2, width2 in zip(t.lorentz, t.lorentz2, t.width2, strict=True):
        f += lorentz / (g2 + width2) + lorentz2 / (g2 + width2) ** 2
    for gauss, decay in zip(t.gauss, t.decay, strict=True):
        f += gauss * np.exp(-decay * g2)
    return f * debye_waller_factor(k, rms) if rms else f


def potential_below(
    number: int, k: np.ndarray, z: np.ndarray, parametrization: str = "lobato"
) -> np.ndarray:
    """Part of an atom's potential that lies below the depth z, as a scattering factor in A.

    int_{-inf}^{z} dz' int dkz f(sqrt(k^2 + kz^2)) exp(2 pi i kz z'): with kappa^2 = k^2 + B the
    terms of f transform into exp(-2 pi kappa |z|) and Gaussians, whose integrals are closed
    (see Gradshteyn & Ryzhik). `k` (K,) in 1/A; `z` (M,) in A relative to the nucleus.
    Returns float64 (K, M), growing from 0 to the scattering factor f(k).
    """
    from scipy.special import erf

    t = read_terms(number, parametrization)
    k2 = np.asarray(k, dtype=np.float64)[:, None] ** 2
    z = np.asarray(z, dtype=np.float64)[None, :]
    distance, sign = np.abs(z), np.sign(z)
    below = np.zeros(np.broadcast_shapes(k2.shape, z.shape))
    for lorentz, lorentz2, width2 in zip(t.lorentz, t.lorentz2, t.width2, strict=True):
        kappa2 = k2 + width2
        u = 2 * np.pi * np.sqrt(kappa2) * distance
        tail = np.exp(-u)
        single = 0.5 + 0.5 * sign * (1 - tail)
        double = 0.5 + 0.5 * sign * (1 - tail * (1 + 0.5 * u))
        below += lorentz / kappa2 * single + lorentz2 / kappa2**2 * double
    for gauss, decay in zip(t.gauss, t.decay, strict=True):
        below += gauss * np.exp(-decay * k2) * 0.5 * (1 + erf(np.pi * z / np.sqrt(decay)))
    return below
