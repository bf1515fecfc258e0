"""Wavelengths and interaction constants against published tables."""

from __future__ import annotations

import pytest

from hpctem.errors import ConfigError
from hpctem.optics.electron import (
    POTENTIAL_PER_SCATTERING_FACTOR,
    interaction_constant,
    relativistic_mass,
    wavelength,
)

# Energy in eV; wavelength in A and m / m0 (Williams & Carter 2009, table 1.2; Reimer & Kohl 2008);
# interaction constant in rad / (V A) (Kirkland 2010, table 5.1, there per kV A).
PUBLISHED = [
    (60e3, 0.04866, 1.1174, 1.1357e-3),
    (80e3, 0.04176, 1.1566, 1.0087e-3),
    (100e3, 0.03701, 1.1957, 0.9244e-3),
    (200e3, 0.02508, 1.3914, 0.7288e-3),
    (300e3, 0.01969, 1.5871, 0.6526e-3),
]


@pytest.mark.parametrize(("energy", "length", "mass", "sigma"), PUBLISHED)
def test_published_values(energy: float, length: float, mass: float, sigma: float) -> None:
    assert wavelength(energy) == pytest.approx(length, abs=0.6e-5)
    assert relativistic_mass(energy) == pytest.approx(mass, abs=0.6e-4)
    assert interaction_constant(energy) == pytest.approx(sigma, abs=0.6e-7)


def test_more_digits_at_300_keV() -> None:
    assert wavelength(300e3) == pytest.approx(0.0196875, abs=1e-7)
    assert interaction_constant(300e3) == pytest.approx(6.52616e-4, rel=1e-5)


def test_interaction_constant_falls_towards_its_limit() -> None:
    """sigma -> 2 pi e / (h c) = 5.068e-4 rad / (V A) near the speed of light."""
    assert interaction_constant(1e9) == pytest.approx(5.0677e-4, rel=1e-4)


def test_potential_of_scattering_factor() -> None:
    assert pytest.approx(47.878, abs=1e-3) == POTENTIAL_PER_SCATTERING_FACTOR


@pytest.mark.parametrize("energy", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_energy(energy: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        wavelength(energy)
