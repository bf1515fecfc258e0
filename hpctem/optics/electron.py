"""The fast electron: relativistic wavelength, mass and interaction constant.

Energies are kinetic energies in eV, lengths in angstrom. Constants are CODATA 2018 (SI 2019).
"""

from __future__ import annotations

import math

from hpctem.errors import ConfigError

PLANCK = 6.62607015e-34  # J s, exact
CHARGE = 1.602176634e-19  # C, exact
LIGHT_SPEED = 299792458.0  # m/s, exact
ELECTRON_MASS = 9.1093837015e-31  # kg
REST_ENERGY = ELECTRON_MASS * LIGHT_SPEED**2 / CHARGE  # eV, 510998.95

POTENTIAL_PER_SCATTERING_FACTOR = PLANCK**2 / (2 * math.pi * ELECTRON_MASS * CHARGE) * 1e20
"""h^2 / (2 pi m0 e) = 47.878 V A^2: Fourier transform of the potential (V A^3) over the electron
scattering factor f_e (A) (see Kirkland 2010, Advanced Computing in Electron Microscopy)."""


def _check(energy: float) -> float:
    if not (math.isfinite(energy) and energy > 0):
        raise ConfigError(f"electron energy {energy} eV must be positive; give e.g. 300 keV.")
    return float(energy)


def relativistic_mass(energy: float) -> float:
    """Mass of the electron in units of its rest mass, gamma = 1 + E / (m0 c^2)."""
    return 1 + _check(energy) / REST_ENERGY


def wavelength(energy: float) -> float:
    """Wavelength in A of an electron of `energy` eV, h c / sqrt(E (2 m0 c^2 + E)).

    Raises ConfigError if the energy is not positive. See Kirkland (2010).
    """
    energy = _check(energy)
    hc = PLANCK * LIGHT_SPEED / CHARGE * 1e10  # eV A
    return hc / math.sqrt(energy * (2 * REST_ENERGY + energy))


def interaction_constant(energy: float) -> float:
    """Phase per projected potential, sigma = 2 pi m e lambda / h^2, in rad / (V A).

    m is the relativistic mass. Raises ConfigError if the energy is not positive.
    See Kirkland (2010).
    """
    mass = relativistic_mass(energy) * ELECTRON_MASS
    return 2 * math.pi * mass * CHARGE * wavelength(energy) * 1e-10 / PLANCK**2 * 1e-10
