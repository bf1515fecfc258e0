"""Scattering factors against published values, limits, and their own Fourier transforms."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.optics.scattering_factors import (
    PARAMETRIZATIONS,
    check_elements,
    debye_waller_factor,
    potential_below,
    read_terms,
    scattering_factor,
)

BOHR = 0.529177
LAST = {"lobato": 103, "kirkland": 103, "peng": 98}

# f_e(k = 0) in A of relativistic Hartree-Fock atoms: Doyle & Turner 1968, Acta Cryst. A24, 390;
# International Tables for Crystallography C, table 4.3.1.1.
FORWARD = {6: 2.509, 14: 5.828, 29: 5.600, 79: 10.573}


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("number", FORWARD)
def test_published_forward_scattering(parametrization: str, number: int) -> None:
    assert scattering_factor(number, 0.0, parametrization) == pytest.approx(
        FORWARD[number], rel=5e-3
    )


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_every_element(parametrization: str) -> None:
    k = np.linspace(0, 6, 121)
    for number in range(1, LAST[parametrization] + 1):
        f = scattering_factor(number, k, parametrization)
        assert np.isfinite(f).all() and (f > 0).all(), number
        assert (np.diff(f) < 0).all(), number


@pytest.mark.parametrize("number", [6, 14, 34, 48, 79])
def test_parametrizations_agree(number: int) -> None:
    """Three independent fits of the same atoms; within 4 % of each other."""
    k = np.linspace(0, 4, 81)
    lobato, kirkland, peng = (scattering_factor(number, k, name) for name in PARAMETRIZATIONS)
    assert np.abs(kirkland / lobato - 1).max() < 0.03
    assert np.abs(peng / lobato - 1).max() < 0.04
    assert not np.array_equal(lobato, kirkland)


@pytest.mark.parametrize("number", [6, 79])
def test_rutherford_limit(number: int) -> None:
    """f -> Z / (2 pi^2 a0 k^2): far out only the nucleus scatters (Mott-Bethe formula)."""
    k = 60.0
    limit = number / (2 * np.pi**2 * BOHR * k**2)
    assert scattering_factor(number, k) == pytest.approx(limit, rel=0.02)


def test_hydrogen_in_closed_form() -> None:
    """The 1s atom: f = 2 a0 (8 + t) / (4 + t)^2 with t = (2 pi a0 k)^2, f(0) = a0."""
    k = np.linspace(0, 4, 41)
    t = (2 * np.pi * BOHR * k) ** 2
    exact = 2 * BOHR * (8 + t) / (4 + t) ** 2
    assert exact[0] == pytest.approx(BOHR)
    np.testing.assert_allclose(scattering_factor(1, k), exact, rtol=2e-3)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("number", [1, 6, 79])
def test_potential_below_is_a_fourier_integral(parametrization: str, number: int) -> None:
    """Its derivative over z against int dkz f(sqrt(k^2 + kz^2)) cos(2 pi kz z), by quadrature."""
    terms = read_terms(number, parametrization)
    kz = np.linspace(-400, 400, 800001)
    z, step = np.array([-0.7, -0.05, 0.1, 0.4, 1.5]), 1e-4
    for k in (0.0, 0.5, 2.0):
        g2 = k**2 + kz**2
        f = np.zeros_like(kz)
        for a, b, c in zip(terms.lorentz, terms.lorentz2, terms.width2, strict=True):
            f += a / (g2 + c) + b / (g2 + c) ** 2
        for a, c in zip(terms.gauss, terms.decay, strict=True):
            f += a * np.exp(-c * g2)
        exact = np.array([np.trapezoid(f * np.cos(2 * np.pi * kz * x), kz) for x in z])
        upper, lower = (
            potential_below(number, np.array([k]), z + sign * step, parametrization)[0]
            for sign in (1, -1)
        )
        np.testing.assert_allclose(
            (upper - lower) / (2 * step), exact, atol=3e-5 * np.abs(exact).max()
        )


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_potential_below_ends(parametrization: str) -> None:
    k = np.linspace(0, 5, 11)
    f = scattering_factor(79, k, parametrization)
    below = potential_below(79, k, np.array([-80.0, 0.0, 80.0]), parametrization)
    np.testing.assert_allclose(below, np.stack([0 * f, f / 2, f], axis=1), atol=1e-12)


def test_debye_waller_factor() -> None:
    """The mean of exp(2 pi i k u) over Gaussian u; exp(-B s^2) with B = 8 pi^2 u^2, s = k/2."""
    u = 0.085 * np.random.default_rng(3).standard_normal(200_000)
    for k in (0.5, 1.5, 3.0):
        mean = np.cos(2 * np.pi * k * u).mean()
        assert debye_waller_factor(k, 0.085) == pytest.approx(mean, abs=4e-3)
        b = 8 * np.pi**2 * 0.085**2
        assert debye_waller_factor(k, 0.085) == pytest.approx(np.exp(-b * (k / 2) ** 2))
    assert scattering_factor(79, 2.0, rms=0.085) == pytest.approx(
        scattering_factor(79, 2.0) * debye_waller_factor(2.0, 0.085)
    )


@pytest.mark.parametrize(("parametrization", "number"), [("lobato", 104), ("peng", 99)])
def test_element_without_a_factor(parametrization: str, number: int) -> None:
    with pytest.raises(ConfigError, match=rf"Z = {number}\) .* Z = 1 to {LAST[parametrization]}"):
        scattering_factor(number, 0.0, parametrization)


def test_peng_is_refused_beyond_its_fit() -> None:
    scattering_factor(79, 12.0, "peng")
    with pytest.raises(ConfigError, match="fitted to k = 12"):
        scattering_factor(79, 12.1, "peng")
    with pytest.raises(ConfigError, match=r"sampling of at least 0\.028"):
        check_elements(np.array([6, 79]), "peng", 13.0)


def test_unknown_parametrization() -> None:
    with pytest.raises(ConfigError, match="choose lobato, kirkland, peng"):
        scattering_factor(6, 0.0, "doyle")
