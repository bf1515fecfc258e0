"""Frozen phonons in the Einstein model: every atom displaced by its own Gaussian.

(Loane, Xu & Silcox 1991, Acta Cryst. A47, 267.) The displacements are independent between atoms
and between x, y and z; their size is the one-dimensional rms u, with B = 8 pi^2 u^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from hpctem.errors import ConfigError

_B_SEARS = {
    13: 0.81, 14: 0.52, 26: 0.34, 28: 0.34, 29: 0.56, 32: 0.61, 42: 0.22, 46: 0.45, 47: 0.73,
    74: 0.161, 78: 0.37, 79: 0.62,
}  # fmt: skip
"""B in A^2 at room temperature, calculated from phonon spectra: V. F. Sears & S. A. Shelley 1991,
Acta Cryst. A47, 441-446 (Al, Si, Fe bcc, Ni, Cu, Ge, Mo, Pd, Ag, W, Pt, Au)."""

_CHOSEN = {6: 0.08, 34: 0.10, 48: 0.113}
"""Amorphous carbon, and Se and Cd in CdSe, in A: round values in use for such simulations, without
a measurement to cite; give your own where it matters."""

RMS_300K: Mapping[int, float] = MappingProxyType(
    {z: round(math.sqrt(b / (8 * math.pi**2)), 3) for z, b in _B_SEARS.items()} | _CHOSEN
)
"""One-dimensional rms displacement in A near 300 K per atomic number."""


def check_displacements(numbers: np.ndarray, rms: Mapping[int, float], key: str) -> None:
    """Raise ConfigError, naming the config's `key`, for an element without a value in `rms`."""
    from ase.data import chemical_symbols

    for number in np.unique(numbers).tolist():
        if number not in rms:
            symbol = chemical_symbols[number]
            known = ", ".join(chemical_symbols[z] for z in sorted(rms))
            raise ConfigError(
                f"{symbol} has no thermal displacement (known: {known or 'none'}); give its "
                f"one-dimensional rms displacement as {key}: {{{symbol}: ... A}}"
            )


def displacements(
    numbers: np.ndarray, rms: Mapping[int, float], generator: np.random.Generator
) -> np.ndarray:
    """Draw one displacement per atom: Gaussian, independent in x, y and z.

    `numbers`: integer (N,), atomic numbers; `rms`: one-dimensional rms displacement in A per
    atomic number. Returns float64 (N, 3) in A, drawn for all N atoms in order, so that a part of
    the atoms keeps its displacements. Raises ConfigError for an element without a value.
    """
    numbers = np.asarray(numbers)
    check_displacements(numbers, rms, "simulation.phonons.rms")
    scale = np.zeros(numbers.shape)
    for number, u in rms.items():
        scale[numbers == number] = u
    return generator.standard_normal((numbers.size, 3)) * scale[:, None]
