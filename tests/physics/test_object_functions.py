"""Images of single atoms against multislice and against sums over the aperture's plane waves."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.annuli import Annulus
from hpctem.optics.cross_sections import annular_cross_section, scattering_amplitude
from hpctem.optics.electron import wavelength
from hpctem.optics.incoherent import form_picture, gather_points
from hpctem.optics.object_functions import (
    STEPS,
    neighbouring_angles,
    object_transfer,
    tabulate_object,
)
from hpctem.optics.point_spread import gaussian_transfer
from hpctem.optics.probe import Probe, probe_transfer
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import StemMultislice, scan_detectors

CPU = select_backend("cpu")
FOCUSED = {energy: Probe(energy, 0.025) for energy in (60e3, 80e3)}
ABERRATED = Probe(80e3, 0.025, 60.0, Aberrations(C12=20.0, phi12=0.0, C30=1e4))


def image_atom(
    number: int, probe: Probe, angles: tuple[float, float], wide: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One atom along a line through it, by multislice and as incoherent.

    Heavy atoms ask for fine pixels, small angles for a window wide enough for the probe's rings.
    """
    middle, points = 15.0, 13
    step = 20 if number > 6 else 10
    line = ScanGrid((middle - 2.4, middle), (1, points), (1, step), (0.4 / step, 0.4 / step))
    atom, numbers = np.array([[[middle, middle, 2.0]]]), np.array([number])
    side = 600 if number > 6 else 500  # 12 A, 20 A
    multislice = StemMultislice((side, side), slice_thickness=1.0)
    annuli = (Annulus(*angles),)
    exact = scan_detectors(atom, numbers, 4.0, line, probe, annuli, multislice, CPU).values[0, 0]
    sigma = annular_cross_section(
        number, probe.energy, *angles, semiangle_cutoff=probe.semiangle_cutoff
    )
    transfer = object_transfer(number, probe.energy, probe.semiangle_cutoff, *angles)
    objects = (np.zeros(1, dtype=int), [transfer]) if wide else None
    picture = form_picture(
        atom[0, :, :2], [sigma], (30.0, 30.0), probe_transfer(probe), CPU, objects=objects
    )
    columns = np.stack([0.4 * np.arange(points), np.zeros(points)], axis=1)
    found = gather_points(picture, np.array([[[middle - 2.4, middle]]]), columns, CPU)[0]
    return exact.astype(np.float64), found.astype(np.float64)


@pytest.mark.parametrize("energy", [60e3, 80e3])
@pytest.mark.parametrize("number", [6, 34, 74])
def test_single_atoms_are_those_of_multislice(number, energy) -> None:
    """Within 1.5 % of the peak everywhere; at that pixel the multislice itself is 1 % off."""
    exact, found = image_atom(number, FOCUSED[energy], (0.063, 0.2), True)
    assert np.abs(found - exact).max() < 0.015 * exact.max()


@pytest.mark.parametrize("angles", [(0.03, 0.06), (0.05, 0.2)])
def test_near_to_the_probe_an_atom_is_wider_than_the_probe(angles) -> None:
    exact, found = image_atom(6, FOCUSED[80e3], angles, True)
    assert np.abs(found - exact).max() < 0.015 * exact.max()
    exact, found = image_atom(6, FOCUSED[80e3], angles, False)
    assert np.abs(found - exact).max() > 0.1 * exact.max()


@pytest.mark.parametrize("number, close", [(6, 0.01), (34, 0.03), (74, 0.03)])
def test_aberrated_probes_see_nearly_the_same_atom(number, close) -> None:
    """The transform is that of a focused probe; with the aberrations of a poor image 3 % off."""
    exact, found = image_atom(number, ABERRATED, (0.063, 0.2), True)
    assert np.abs(found - exact).max() < close * exact.max()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_transform_is_the_mean_over_pairs_of_directions(share) -> None:
    """Sums on a plane grid over both directions in the aperture and all in the detector."""
    energy, cone, inner, outer, number = 80e3, 0.024, 0.04, 0.08, 42
    lam = wavelength(energy)
    radii = np.linspace(0, 3, 1501)
    amplitudes = scattering_amplitude(number, energy, radii)
    real, imaginary = amplitudes.real, amplitudes.imag

    def amplitude(q: np.ndarray) -> np.ndarray:
        return np.interp(q, radii, real) + 1j * np.interp(q, radii, imaginary)

    axis = np.linspace(-outer, outer, 101)
    ky, kx = (k.ravel() for k in np.meshgrid(axis, axis, indexing="ij"))
    seen = (np.hypot(ky, kx) >= inner) & (np.hypot(ky, kx) < outer)
    ky, kx = ky[seen] / lam, kx[seen] / lam

    def mean(shift: float) -> float:
        """Over directions q and q - (shift, 0) that both lie in the aperture."""
        steps = np.linspace(-cone, cone, 31) / lam
        total, count = 0.0, 0
        for qy in steps:
            for qx in steps:
                if max(np.hypot(qy, qx), np.hypot(qy, qx - shift)) < cone / lam:
                    one = amplitude(np.hypot(ky - qy, kx - qx))
                    other = amplitude(np.hypot(ky - qy, kx - qx + shift))
                    total += np.sum(one * other.conj()).real
                    count += 1
        return total / count

    expected = mean(share * 2 * cone / lam) / mean(0.0)
    found = tabulate_object(number, energy, cone, inner, outer)[round(share * STEPS)]
    assert found == pytest.approx(expected, abs=5e-3)


def test_drawn_semiangles_lie_between_their_neighbours() -> None:
    assert neighbouring_angles(0.025) == [(0.025, 1.0)]
    assert neighbouring_angles(0.001) == [(0.0025, 1.0)]
    (low, part), (high, rest) = neighbouring_angles(0.0235)
    assert (low, high) == (0.0225, 0.025)
    assert part * low + rest * high == pytest.approx(0.0235) and part + rest == pytest.approx(1)
    k = np.linspace(0, 1, 30)
    found = object_transfer(74, 80e3, 0.0237, 0.05, 0.2).fill(np.zeros(1), k, CPU)[0]
    band = 2 * 0.0237 / wavelength(80e3)
    exact = tabulate_object(74, 80e3, 0.0237, 0.05, 0.2)
    np.testing.assert_allclose(found, np.interp(k / band, np.linspace(0, 1, STEPS + 1), exact),
                               atol=1e-3)  # fmt: skip
    assert found[0] == 1


def test_each_kind_of_atom_has_its_own_object_function() -> None:
    """Two kinds with Gaussians of their own, one of them blurred besides, under a Gaussian."""
    places = np.array([[6.0, 7.0], [10.0, 7.0], [14.0, 7.0]])
    blurs, widths = np.array([0.0, 0.3, 0.3]), np.array([0.4, 0.6])
    kinds, weights = np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0])
    picture = form_picture(
        places, weights, (14.0, 20.0), gaussian_transfer(0.5), CPU, blurs,
        (kinds, [gaussian_transfer(w) for w in widths]),
    )  # fmt: skip
    x = np.linspace(4, 16, 50)
    points = np.stack([x, np.full(50, 7.2)], axis=1)
    found = gather_points(picture, np.zeros((1, 1, 2)), points, CPU)[0]
    spread = 0.25 + blurs**2 + widths[kinds] ** 2
    r2 = (x[:, None] - places[:, 0]) ** 2 + 0.04
    expected = (weights / (2 * np.pi * spread) * np.exp(-r2 / (2 * spread))).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-5)
