"""Aberration phases against closed forms, and what each aberration does to a ray."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.optics.aberrations import (
    NAMES,
    Aberrations,
    chi,
    chi_gradient,
    from_haider,
    from_power_notation,
    scherzer_defocus,
)
from hpctem.optics.electron import wavelength
from hpctem.optics.transfer import Imaging, form_images

ENERGY = 300e3
LAMBDA = wavelength(ENERGY)


def make(name: str, value: float, azimuth: float) -> Aberrations:
    angles = {f"phi{name[1:]}": azimuth} if name[2] != "0" else {}
    return Aberrations(**{name: value}, **angles)


def wave_aberration(name: str, value: float, azimuth: float, omega: complex) -> float:
    """W = lambda chi / (2 pi) from complex angles omega = alpha_x + i alpha_y, in A.

    Re[C e^(i m phi_nm) conj(omega)^((n+1+m)/2) omega^((n+1-m)/2)] / (n + 1).
    """
    n, m = int(name[1]), int(name[2])
    power = np.conj(omega) ** ((n + 1 + m) // 2) * omega ** ((n + 1 - m) // 2)
    return (value * np.exp(1j * m * azimuth) * power).real / (n + 1)


@pytest.mark.parametrize("name", NAMES)
def test_closed_form(name: str) -> None:
    alpha, phi = np.meshgrid(np.linspace(0, 0.03, 7), np.linspace(-3, 3, 13))
    found = chi(alpha, phi, LAMBDA, make(name, 1234.5, 0.7))
    expected = wave_aberration(name, 1234.5, 0.7, alpha * np.exp(1j * phi))
    np.testing.assert_allclose(found, 2 * np.pi / LAMBDA * expected, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str) -> None:
    """Against differences of chi along the angle and around the axis."""
    aberrations, alpha, phi, step = make(name, 1e4, -0.4), 0.02, 1.1, 1e-6
    radial, azimuthal = chi_gradient(np.array(alpha), np.array(phi), LAMBDA, aberrations)

    def difference(d_alpha: float, d_phi: float) -> float:
        upper, lower = (
            chi(np.array(alpha + s * d_alpha), np.array(phi + s * d_phi), LAMBDA, aberrations)
            for s in (1, -1)
        )
        return (upper - lower) / 2

    size = max(abs(radial), abs(azimuthal))
    assert difference(step, 0) / step == pytest.approx(radial, abs=1e-5 * size)
    assert difference(0, step) / step / alpha == pytest.approx(azimuthal, abs=1e-5 * size)


@pytest.mark.parametrize("direction", [0.0, 0.45, 2.2, -1.3])
@pytest.mark.parametrize("name", NAMES)
def test_rays_move_down_the_gradient(name: str, direction: float, cpu) -> None:
    """A packet of rays of angle (alpha, phi) lands where the gradient of W sends it.

    A Gaussian wave packet at the centre of the field travels at 10 mrad; its image must move by
    grad W, here from W's closed form. This fixes the sign of every coefficient, the meaning of
    every azimuth (from +x to +y) and which array axis is which.
    """
    n, azimuth, width, extent, side = int(name[1]), 0.3, 5.0, 64.0, 256
    k = 0.5 * np.exp(1j * direction)
    value = 6.0 / (LAMBDA * 0.5) ** n
    rows, columns = np.indices((side, side)) * (extent / side)
    x, y = columns - extent / 2, rows - extent / 2
    packet = np.exp(-(x**2 + y**2) / (4 * width**2) + 2j * np.pi * (k.real * x + k.imag * y))
    aberrations, defocus = make(name, value, azimuth), 0.0
    if name == "C10":
        aberrations, defocus = Aberrations(), -value
    imaging = Imaging(ENERGY, defocus=defocus, aberrations=aberrations)
    image = form_images(packet[None].astype(np.complex64), (extent, extent), [imaging], cpu)[0]
    total = image.sum(dtype=np.float64)
    moved = np.array([(image * x).sum(), (image * y).sum()]) / total

    omega, step = LAMBDA * k, 1e-5
    gradient = [
        (
            wave_aberration(name, value, azimuth, omega + direction_step)
            - wave_aberration(name, value, azimuth, omega - direction_step)
        ).real / (2 * step)
        for direction_step in (step, 1j * step)
    ]  # fmt: skip
    assert np.hypot(*gradient) > 0.1  # some angles move little, none not at all
    np.testing.assert_allclose(moved, gradient, atol=0.35)


def test_underfocus_is_positive_and_minus_c10(cpu) -> None:
    """chi = -pi lambda defocus k^2: negative C10 is underfocus."""
    k = 0.4
    phase = chi(np.array(LAMBDA * k), np.array(0.0), LAMBDA, Aberrations(C10=-500.0))
    assert phase == pytest.approx(-np.pi * LAMBDA * 500.0 * k**2)
    with pytest.raises(ConfigError, match="not as aberration C10"):
        Imaging(ENERGY, aberrations=Aberrations(C10=-500.0))


@pytest.mark.parametrize(
    ("energy", "cs", "defocus"),
    [(200e3, 1.3e7, 700.0), (100e3, 1.3e7, 850.0), (300e3, 1.2e7, 595.0), (400e3, 1.0e7, 497.0)],
)
def test_scherzer_defocus(energy: float, cs: float, defocus: float) -> None:
    """See Kirkland (2010): 1.3 mm at 200 keV is best at about 700 A, at 100 keV 850 A."""
    assert scherzer_defocus(cs, wavelength(energy)) == pytest.approx(defocus, rel=0.01)
    assert scherzer_defocus(-cs, wavelength(energy)) == -scherzer_defocus(cs, wavelength(energy))


def test_scherzer_defocus_flattens_the_phase() -> None:
    """There the phase has its minimum at -3 pi / 4, beyond the -pi / 2 of largest contrast."""
    defocus = scherzer_defocus(1.3e7, LAMBDA)
    k = np.linspace(0, 0.6, 20001)
    phase = chi(LAMBDA * k, 0 * k, LAMBDA, Aberrations(C10=-defocus, C30=1.3e7))
    assert phase.min() == pytest.approx(-3 * np.pi / 4, rel=1e-6)


def test_haider() -> None:
    """C21 = 3 B2, C32 = 4 S3 and C41 = 5 B4; the others keep their size. Azimuths stay."""
    found = from_haider({"B2": (100.0, 0.2), "S3": (50.0, 0.1), "A2": (70.0, 1.0), "C3": (9.0, 0)})
    expected = Aberrations(C21=300.0, phi21=0.2, C32=200.0, phi32=0.1, C23=70.0, phi23=1.0, C30=9.0)
    assert found == expected
    assert from_haider({"B4": (1.0, 0.0), "D5": (2.0, 0.0)}) == Aberrations(C41=5.0, C54=12.0)
    # chi of Uhlemann & Haider: Re[B2 omega^2 conj(omega)] has no 1/3
    alpha = 0.01
    phase = chi(np.array(alpha), np.array(0.0), LAMBDA, from_haider({"B2": (100.0, 0.0)}))
    assert phase == pytest.approx(2 * np.pi / LAMBDA * 100.0 * alpha**3)
    with pytest.raises(ConfigError, match="'B7' is unknown"):
        from_haider({"B7": (1.0, 0.0)})


TABLE_S1 = {
    "C22": (16.02, -68.5), "C31": (239.0, 29.2), "C33": (179.8, -170.7), "C40": (-19130.0, 0.0),
    "C42": (426.4, -34.5), "C44": (1583.0, 89.2), "C51": (16780.0, 104.5), "C53": (5287.0, -12.7),
    "C55": (31170.0, -6.3), "C60": (1.048e7, 0.0), "C66": (48210.0, 60.2),
}  # fmt: skip


def test_power_notation() -> None:
    """Table S1 of Rangel DaCosta et al., read as sum C_mn alpha^m cos n(phi - phi_mn)."""
    table = {name: (value, np.radians(angle)) for name, (value, angle) in TABLE_S1.items()}
    found = from_power_notation(table)
    assert found.C12 == pytest.approx(2 * 16.02)
    assert found.C30 == pytest.approx(4 * -19130.0)
    assert found.C56 == pytest.approx(6 * 48210.0)
    alpha, phi = np.meshgrid(np.linspace(0, 0.02, 5), np.linspace(-3, 3, 11))
    direct = sum(
        value * alpha ** int(name[1]) * np.cos(int(name[2]) * (phi - angle))
        for name, (value, angle) in table.items()
    )
    np.testing.assert_allclose(
        chi(alpha, phi, LAMBDA, found), 2 * np.pi / LAMBDA * direct, atol=1e-10
    )
    for wrong in ("C12", "C77", "Cs", "C4", "22", "C4²"):
        with pytest.raises(ConfigError, match="in power notation: C20, C22"):
            from_power_notation({wrong: (1.0, 0.0)})
