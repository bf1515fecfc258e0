"""Masks fit the particles: their shape, their places and what hides what."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hpctem.backend import select_backend
from hpctem.errors import ConfigError, SampleError
from hpctem.labels import (
    blur_gaussian,
    map_instances,
    mask_by_intensity,
    mask_by_phase_shift,
    mask_by_wave_phase,
    measure_wave_phase,
    smooth_mask,
    smooth_phase,
)
from hpctem.optics.electron import interaction_constant, wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.potential import projected_potential

CPU = select_backend("cpu")
ENERGY = 300e3
SIGMA = interaction_constant(ENERGY)
GOLD = 4.08265
EXTENT = (128.0, 128.0)
SHAPE = (640, 640)
# [100] is the lattice's own z; [110] turns it by 45 degrees about x.
ORIENTATIONS = {
    "random": Rotation.from_quat([0.1, 0.7, -0.3, 0.5]),
    "100": Rotation.identity(),
    "110": Rotation.from_rotvec([math.pi / 4, 0, 0]),
}


def cut_sphere(radius: float, rotation: Rotation, centre: tuple[float, float]) -> np.ndarray:
    """Columns x, y, z of the gold atoms inside a sphere."""
    n = np.arange(-int(2 * radius / GOLD) - 2, int(2 * radius / GOLD) + 3)
    halves = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = halves[halves.sum(axis=1) % 2 == 0] * (GOLD / 2) + [0.3, -0.5, 0.9]
    atoms = atoms[np.linalg.norm(atoms, axis=1) < radius]
    return rotation.apply(atoms) + np.array([*centre, 0.0])


def project_potential(atoms: np.ndarray, number: int = 79) -> np.ndarray:
    """The particle's projected potential: V A, float32, on the cell's grid."""
    return projected_potential(atoms, np.full(len(atoms), number), Grid(SHAPE, EXTENT), CPU)


def draw_disc(radius: float, centre: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] * (EXTENT[0] / SHAPE[0])
    dx = (x - centre[0] + EXTENT[1] / 2) % EXTENT[1] - EXTENT[1] / 2
    dy = (y - centre[1] + EXTENT[0] / 2) % EXTENT[0] - EXTENT[0] / 2
    return np.hypot(dx, dy) <= radius


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_mask_fits_the_projected_sphere(orientation):
    """Overlap (IoU) with the disc at least 0.97 for an 8 nm sphere, in one piece, no holes."""
    centre = (52.0, 71.0)
    atoms = cut_sphere(40.0, ORIENTATIONS[orientation], centre)
    phase = smooth_phase(project_potential(atoms), SIGMA, EXTENT, CPU)
    mask = mask_by_phase_shift(phase)
    disc = draw_disc(40.0, centre)
    assert overlap(mask, disc) >= 0.97
    assert ndimage.label(mask)[1] == 1
    assert ndimage.label(~mask)[1] == 1
    # x and y exchanged would still be a disc elsewhere.
    assert overlap(mask.T, disc) < 0.7


def test_mask_of_a_particle_across_the_edge_is_periodic():
    atoms = cut_sphere(20.0, ORIENTATIONS["random"], (126.0, 3.0))
    mask = mask_by_phase_shift(smooth_phase(project_potential(atoms), SIGMA, EXTENT, CPU))
    assert overlap(mask, draw_disc(20.0, (126.0, 3.0))) > 0.95


def test_smoothed_phase_keeps_its_integral_and_its_units():
    """sigma times the sum of the potential; sigma_blur^2 adds to the variance of a point, in A."""
    potential = np.zeros((64, 128), dtype=np.float32)
    potential[32, 64] = 1000.0
    phase = smooth_phase(potential, SIGMA, (32.0, 32.0), CPU, smoothing=2.0).astype(float)
    assert phase.sum() == pytest.approx(1000 * SIGMA, rel=1e-5)
    y, x = np.mgrid[:64, :128]
    variance_y = (phase * ((y - 32) * 0.5) ** 2).sum() / phase.sum()
    variance_x = (phase * ((x - 64) * 0.25) ** 2).sum() / phase.sum()
    assert (variance_y, variance_x) == pytest.approx((4.0, 4.0), rel=1e-3)


def test_blur_equals_scipy():
    image = np.random.default_rng(0).random((48, 60), dtype=np.float32)
    expected = ndimage.gaussian_filter(image.astype(float), (3.0, 2.0), mode="wrap", truncate=8)
    np.testing.assert_allclose(blur_gaussian(image, (3.0, 2.0), CPU), expected, atol=2e-6)


def test_smoothed_outline_loses_specks_and_keeps_straight_edges():
    mask = np.zeros((96, 96), dtype=bool)
    mask[24:72] = True
    mask[4, 4] = True
    smoothed = smooth_mask(mask, 5.0, CPU)
    mask[4, 4] = False
    np.testing.assert_array_equal(smoothed, mask)
    assert smooth_mask(mask, 0.0, CPU) is mask


def propagate(wave: np.ndarray, distance: float) -> np.ndarray:
    """The Fresnel propagator in float64, over `distance` (A) along the beam."""
    k = np.fft.fftfreq(SHAPE[0], EXTENT[0] / SHAPE[0])
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    return np.fft.ifft2(
        np.fft.fft2(wave) * np.exp(-1j * np.pi * wavelength(ENERGY) * distance * k2)
    )


def test_wave_phase_is_that_of_the_object_at_the_centre():
    """A phase object half a cell before the exit plane: its phase comes back, mean of two."""
    phases = [
        SIGMA * project_potential(cut_sphere(8.0, rotation, (60.0, 60.0)), number=14)
        for rotation in (ORIENTATIONS["random"], ORIENTATIONS["110"])
    ]
    assert max(phase.max() for phase in phases) < 3
    waves = np.array([propagate(np.exp(1j * p), 60.0) for p in phases]).astype(np.complex64)
    measured = measure_wave_phase(waves, wavelength(ENERGY), EXTENT, 60.0, CPU)
    np.testing.assert_allclose(measured, sum(phases) / 2, atol=2e-3)
    elsewhere = measure_wave_phase(waves, wavelength(ENERGY), EXTENT, 0.0, CPU)
    assert np.abs(elsewhere - measured).max() > 0.1
    mask = mask_by_wave_phase(measured, CPU, threshold=0.1)
    mean = sum(phases) / 2
    assert mask[mean > 0.11].all()
    assert not mask[mean < 0.09].any()
    rounded = mask_by_wave_phase(measured, CPU, threshold=0.02, smoothing=5.0)
    assert overlap(rounded, draw_disc(8.0, (60.0, 60.0))) > 0.85


def test_intensity_mask_covers_bright_and_dark_fringes():
    phase = SIGMA * project_potential(cut_sphere(20.0, ORIENTATIONS["random"], (60.0, 70.0)))
    intensity = (np.abs(propagate(np.exp(1j * phase), 40.0)) ** 2).astype(np.float32)
    disc = draw_disc(20.0, (60.0, 70.0))
    assert overlap(mask_by_intensity(intensity, CPU), disc) > 0.85
    # Only dark or only bright pixels of the lattice would fill less than this.
    assert mask_by_intensity(intensity, CPU)[disc].mean() > 0.95
    assert (intensity[disc] < 0.9).mean() < 0.7
    assert (intensity[disc] > 1.1).mean() < 0.7


def test_where_particles_overlap_the_stronger_one_is_named():
    a = np.array([[0.5, 0.5, 0.3, 0.0]], dtype=np.float32)
    b = np.array([[0.0, 0.2, 0.4, 0.3]], dtype=np.float32)
    c = np.array([[0.0, 0.5, 0.0, 0.0]], dtype=np.float32)
    phases = [a, b, c]
    masks = [phase > 0.1 for phase in phases]
    instances = map_instances(masks, phases)
    assert instances.dtype == np.uint8
    assert instances.tolist() == [[1, 1, 2, 2]]
    assert map_instances(masks[::-1], phases[::-1]).tolist() == [[3, 1, 2, 2]]
    assert map_instances(masks[:1], phases[:1]).tolist() == [[1, 1, 1, 0]]
    masks[0] = np.zeros_like(masks[0])
    assert map_instances(masks, phases).tolist() == [[0, 3, 2, 2]]


def test_bad_settings_and_bad_phases_are_refused():
    phase = np.zeros((4, 4), dtype=np.float32)
    with pytest.raises(ConfigError, match="threshold"):
        mask_by_phase_shift(phase, 0.0)
    with pytest.raises(ConfigError, match="smoothing"):
        smooth_phase(phase, SIGMA, (1.0, 1.0), CPU, smoothing=-1.0)
    with pytest.raises(ConfigError, match="255"):
        map_instances([], [])
    phase[1, 1] = np.nan
    with pytest.raises(SampleError, match="NaN"):
        mask_by_phase_shift(phase, 0.1)
