"""The probe against closed forms, direct integrals over the lens, its own wave and abTEM."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import j1

from hpctem.errors import ConfigError, SampleError
from hpctem.optics.aberrations import Aberrations, chi
from hpctem.optics.electron import REST_ENERGY, wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.probe import (
    FWHM,
    Probe,
    defocus_of_chromatic,
    enclosed_share,
    probe_profile,
    probe_reach,
    probe_transfer,
    probe_wave,
    probe_width,
)

SHARP = Probe(80e3, 0.025)
MANY = Aberrations(
    C12=15, phi12=0.3, C21=500, phi21=1.1, C23=400, phi23=-0.4, C30=8e3, C32=4e3, phi32=0.2,
    C34=5e3, phi34=0.9, C41=1e5, phi41=2.0, C45=2e5, phi45=0.1, C50=3e6, C56=5e6, phi56=0.5,
)  # fmt: skip
BLURRED = Probe(80e3, 0.025, defocus=30, aberrations=MANY, focal_spread=25, source_size=0.8)


def fill_point(probe: Probe, kx: float, ky: float, backend) -> complex:
    if kx < 0:
        return fill_point(probe, -kx, -ky, backend).conjugate()
    return complex(probe_transfer(probe).fill(np.array([ky]), np.array([kx]), backend)[0, 0])


def integrate_lens(probe: Probe, kx: float, ky: float) -> complex:
    """Transform of the probe's intensity: product of the pupil and itself, shifted by (kx, ky).

    Every defocus of the focal spread in turn, chi as `aberrations` has it, over the overlap of both
    disks cut into strips across the shift.
    """
    lam, cutoff = wavelength(probe.energy), probe.cutoff
    shift, azimuth = math.hypot(kx, ky), math.atan2(ky, kx)
    nodes, weights = np.polynomial.legendre.leggauss(160)
    tallest = math.sqrt(cutoff**2 - shift**2 / 4)
    y = tallest * nodes[:, None]
    widest = np.sqrt(cutoff**2 - y**2) - shift / 2
    x = widest * nodes[None, :]
    area = tallest * weights[:, None] * widest * weights[None, :] / (np.pi * cutoff**2)

    def phase(x, y, defocus):
        lens = Aberrations(**{**probe.aberrations.__dict__, "C10": -defocus})
        return chi(lam * np.hypot(x, y), np.arctan2(y, x) + azimuth, lam, lens)

    offsets, shares = np.polynomial.hermite_e.hermegauss(24 if probe.focal_spread else 1)
    total = 0j
    for offset, share in zip(offsets, shares / shares.sum(), strict=True):
        defocus = probe.defocus + offset * probe.focal_spread
        ahead, behind = (phase(x + sign * shift / 2, y, defocus) for sign in (1, -1))
        total += share * np.sum(area * np.exp(-1j * (ahead - behind)))
    return total * math.exp(-2 * (math.pi * probe.source_size / FWHM * shift) ** 2)


def test_profile_without_aberrations_is_airys() -> None:
    radii = np.concatenate([[1e-9], np.linspace(0.05, 20, 60)])
    v = 2 * np.pi * SHARP.cutoff * radii
    airy = np.pi * SHARP.cutoff**2 * (2 * j1(v) / v) ** 2
    assert np.abs(probe_profile(SHARP, radii) - airy).max() < 1e-6 * airy[0]
    assert probe_width(SHARP) == pytest.approx(0.51450 / SHARP.cutoff, rel=1e-4)


def test_transfer_without_aberrations_is_the_overlap_of_two_disks(cpu) -> None:
    ky, kx = np.linspace(-1.3, 1.3, 41), np.linspace(0, 1.3, 23)
    found = probe_transfer(SHARP).fill(ky, kx, cpu)
    half = np.minimum(np.hypot(ky[:, None], kx) / (2 * SHARP.cutoff), 1)
    exact = 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 1e-6
    assert found[20, 0] == 1


@pytest.mark.parametrize("kx, ky", [(0.2, 0.1), (0.55, -0.3), (-0.1, 0.9), (0.0, 0.02), (1.15, 0)])
def test_transfer_of_an_aberrated_probe_is_the_integral_over_the_lens(cpu, kx, ky) -> None:
    # with the probe at r an atom at 0 sees the intensity at -r: the conjugate
    exact = integrate_lens(BLURRED, kx, ky).conjugate()
    assert abs(fill_point(BLURRED, kx, ky, cpu) - exact) < 1e-5


def test_transfer_of_a_strongly_aberrated_probe(cpu) -> None:
    probe = Probe(60e3, 0.035, defocus=-180, aberrations=Aberrations(C21=8e3, phi21=0.7, C30=1e5))
    points = [(0.3, 0.2), (0.8, -0.5), (0.05, -0.04)]
    exact = [integrate_lens(probe, kx, ky).conjugate() for kx, ky in points]
    found = [fill_point(probe, kx, ky, cpu) for kx, ky in points]
    assert np.abs(np.subtract(found, exact)).max() < 1e-5


def test_underfocus_and_overfocus_look_alike_without_other_aberrations(cpu) -> None:
    ky, kx = np.linspace(-1, 1, 21), np.linspace(0, 1, 11)
    under, over, mixed = (
        probe_transfer(Probe(80e3, 0.025, defocus=d, aberrations=a)).fill(ky, kx, cpu)
        for d, a in ((80, Aberrations()), (-80, Aberrations()), (-80, Aberrations(C30=1e5)))
    )
    np.testing.assert_allclose(under, over, atol=1e-6)
    assert np.abs(mixed - over).max() > 0.05


def test_spherical_aberration_is_balanced_by_underfocus() -> None:
    """Scherzer: with Cs > 0 the sharpest probe is underfocused."""
    sharpness = [
        probe_profile(Probe(80e3, 0.015, d, Aberrations(C30=1e7)), np.zeros(1))[0]
        for d in (-800, 800)
    ]
    assert sharpness[1] > 3 * sharpness[0]


def test_source_and_focal_spread_widen_as_their_gaussians(cpu) -> None:
    k = np.array([0.1, 0.4, 0.9])
    sharp = probe_transfer(SHARP).fill(np.zeros(1), k, cpu)[0]
    source = probe_transfer(Probe(80e3, 0.025, source_size=1.2)).fill(np.zeros(1), k, cpu)[0]
    gaussian = np.exp(-2 * (np.pi * 1.2 / FWHM * k) ** 2)
    np.testing.assert_allclose(source, sharp * gaussian, atol=1e-6)
    assert probe_width(Probe(80e3, 0.025, source_size=10)) == pytest.approx(10, rel=0.02)
    planes = np.linspace(-5, 5, 201)
    weights = np.exp(-(planes**2) / 2)
    mean = np.average(
        [probe_profile(Probe(80e3, 0.025, 30 * p), np.array([0, 0.5, 2])) for p in planes],
        axis=0, weights=weights,
    )  # fmt: skip
    spread = probe_profile(Probe(80e3, 0.025, focal_spread=30), np.array([0, 0.5, 2]))
    np.testing.assert_allclose(spread, mean, rtol=1e-4)


def test_wave_is_abtems() -> None:
    import abtem

    grid = Grid((256, 240), (25.6, 24.0))
    aberrations = {"C12": 15, "phi12": 0.3, "C21": 500, "phi21": 1.1, "C30": 8e3}
    probe = Probe(80e3, 0.025, 30, Aberrations(**aberrations))
    wave = probe_wave(probe, grid)
    other = abtem.Probe(
        energy=80e3, semiangle_cutoff=25, defocus=30, extent=(24.0, 25.6), gpts=(240, 256),
        aberrations=aberrations,
    ).build((0, 0), lazy=False).array.T  # fmt: skip
    pixel = grid.sampling[0] * grid.sampling[1]
    other = other / np.sqrt(np.sum(np.abs(other) ** 2) * pixel)
    assert np.sum(np.abs(wave) ** 2) * pixel == pytest.approx(1, rel=1e-12)
    assert np.abs(wave - other).max() < 1e-5 * np.abs(wave).max()


def test_transfer_is_that_of_the_intensity_of_abtems_probe(cpu) -> None:
    """In a box that holds the rings; a ramp at the aperture's edge makes 3e-4 of what is left."""
    import abtem

    side, n = 160.0, 512
    aberrations = {"C12": 15, "phi12": 0.3, "C21": 500, "phi21": 1.1, "C23": 400, "C30": 8e3}
    wave = abtem.Probe(
        energy=80e3, semiangle_cutoff=25, defocus=30, extent=side, gpts=n, aberrations=aberrations
    ).build((0, 0), lazy=False).array.T  # fmt: skip
    intensity = np.abs(wave) ** 2
    spectrum = np.fft.fft2(intensity / intensity.sum()).conj()
    k = np.fft.fftfreq(n, side / n)
    found = probe_transfer(Probe(80e3, 0.025, 30, Aberrations(**aberrations)))
    values = found.fill(k, np.abs(k[: n // 2 + 1]), cpu)
    inside = np.hypot(k[:, None], k[: n // 2 + 1]) < 1.15
    difference = np.abs(values - spectrum[:, : n // 2 + 1])[inside]
    assert difference.max() < 4e-3  # next to frequency 0, where the box cuts the rings
    assert np.sqrt(np.mean(difference**2)) < 1e-3
    peak = np.fft.irfft2(values, (n, n)) * (n / side) ** 2
    exact = np.roll(intensity[::-1, ::-1], (1, 1), (0, 1))
    exact *= (n / side) ** 2 / exact.sum()
    assert np.abs(peak - exact).max() < 5e-3 * exact.max()


def test_chromatic_aberration_is_that_of_the_wavelength() -> None:
    """A lens' strength goes as 1 / E*, with E* = E (1 + E / 2 E0) that sets the wavelength."""
    energy, step = 80e3, 1.0

    def star(e):
        return e * (1 + e / (2 * REST_ENERGY))

    relative = (star(energy + step) - star(energy - step)) / (2 * step) / star(energy)
    found = defocus_of_chromatic(1.2e7, 0.3, energy)
    assert found == pytest.approx(1.2e7 * 0.3 * relative, rel=1e-8)
    assert found == pytest.approx(48.27, abs=0.1)


@pytest.mark.parametrize("probe", [SHARP, BLURRED, Probe(200e3, 0.01, defocus=300)])
def test_reach_holds_the_share_that_is_asked_for(probe) -> None:
    for share in (0.8, 0.99):
        reach = probe_reach(probe, share)
        assert share - 1e-4 <= enclosed_share(probe, reach)
    assert enclosed_share(SHARP, probe_reach(SHARP, 0.9)) == pytest.approx(0.9, abs=1e-4)


def test_enclosed_share_is_that_of_the_wave() -> None:
    probe = Probe(80e3, 0.025, 60, Aberrations(C12=20, C21=800, C30=2e4))
    grid = Grid((720, 720), (120.0, 120.0))
    intensity = np.abs(probe_wave(probe, grid)) ** 2
    x = np.fft.fftfreq(720, 1 / 120)
    for radius in (2.0, 4.0, 8.0):
        inside = np.hypot(x[:, None], x) < radius
        share = intensity[inside].sum() / intensity.sum()
        assert enclosed_share(probe, radius) == pytest.approx(share, abs=6e-3)


def test_probes_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="semiangle 600 mrad"):
        Probe(80e3, 0.6)
    with pytest.raises(ConfigError, match="give the defocus"):
        Probe(80e3, 0.025, aberrations=Aberrations(C10=5))
    with pytest.raises(ConfigError, match="source size -1 A"):
        Probe(80e3, 0.025, source_size=-1)
    with pytest.raises(ConfigError, match=r"sampling of at most 0\.835 A"):
        probe_wave(SHARP, Grid((32, 32), (32.0, 32.0)))
    with pytest.raises(ConfigError, match="share 1"):
        probe_reach(SHARP, 1.0)
    with pytest.raises(SampleError, match=r"spread over 5\d\d A"):
        probe_transfer(Probe(80e3, 0.025, aberrations=Aberrations(C12=2e4)))
