"""Incoherent images against direct sums over atoms, and what must hold whatever the atoms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import j1

from hpctem.backend import select_backend
from hpctem.detection.looking import look
from hpctem.detection.scan import ScanPath, scan_positions
from hpctem.errors import ConfigError, SampleError
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.grid import Grid
from hpctem.optics.incoherent import Picture, choose_grid, form_picture, gather_points
from hpctem.optics.point_spread import gaussian_transfer, tabulated_transfer
from hpctem.optics.probe import Probe, probe_transfer, probe_wave

EXTENT = (52.0, 61.0)  # (ly, lx)
ABERRATED = Probe(
    80e3, 0.025, defocus=20, focal_spread=20, source_size=0.7,
    aberrations=Aberrations(C12=20, phi12=0.3, C21=700, phi21=0.5, C23=500, phi23=1.0, C30=1e4),
)  # fmt: skip


@pytest.fixture(scope="module")
def cpu():
    return select_backend("cpu")


@pytest.fixture(scope="module")
def atoms() -> tuple[np.ndarray, np.ndarray]:
    """Atoms of four elements anywhere in the frame, some on its border."""
    generator = np.random.default_rng(4)
    positions = generator.uniform(0, 1, (150, 2)) * EXTENT[::-1]
    positions[:4] = [[0, 0], [61.0 - 1e-9, 30], [20, 52.0 - 1e-9], [15.25, 13.0]]
    return positions, generator.choice([6, 16, 42, 74], 150)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(5).uniform(0, 1, (80, 2)) * EXTENT[::-1]


def read_at(picture: Picture, points: np.ndarray, backend) -> np.ndarray:
    """The picture at single points (x, y): scans of one line each, in as many rows."""
    return gather_points(picture, points[None], np.zeros((1, 2)), backend)[:, 0]


def squares(points: np.ndarray, positions: np.ndarray, images: int = 1) -> np.ndarray:
    """Squared distances of points and atoms in the periodic frame: (n, m, images)."""
    shifts = np.arange(-images, images + 1)
    cells = np.stack(np.meshgrid(shifts, shifts), -1).reshape(-1, 2) * EXTENT[::-1]
    return np.sum((points[:, None, None] - positions[None, :, None] - cells) ** 2, axis=-1)


@pytest.mark.parametrize("width", [0.5, 0.2, 1.3])
def test_convolution_is_the_sum_of_gaussians(cpu, atoms, points, width) -> None:
    """Z^1.7 under a Gaussian, at points between pixels: no stripes, no rounding."""
    positions, numbers = atoms
    weights = numbers**1.7
    gaussians = np.exp(-squares(points, positions) / (2 * width**2)) / (2 * np.pi * width**2)
    exact = gaussians.sum(axis=2) @ weights
    picture = form_picture(positions, weights, EXTENT, gaussian_transfer(width), cpu)
    peak = weights.max() / (2 * np.pi * width**2)
    assert np.abs(read_at(picture, points, cpu) - exact).max() < 2e-5 * peak
    at_atoms = read_at(picture, positions[10:12], cpu)
    own = (np.exp(-squares(positions[10:12], positions) / (2 * width**2)).sum(axis=2)) @ weights
    np.testing.assert_allclose(at_atoms, own / (2 * np.pi * width**2), rtol=3e-5)


def test_sharp_probe_is_the_sum_of_airy_patterns(cpu, atoms, points) -> None:
    """Rings of the periodic frame's neighbours included, as far as they are bright."""
    positions, numbers = atoms
    weights = np.array([annular_cross_section(int(z), 80e3, 0.063, 0.2) for z in numbers])
    probe = Probe(80e3, 0.025)
    v = 2 * np.pi * probe.cutoff * np.sqrt(squares(points, positions, 4)) + 1e-9
    peak = np.pi * probe.cutoff**2
    exact = (peak * (2 * j1(v) / v) ** 2).sum(axis=2) @ weights
    picture = form_picture(positions, weights, EXTENT, probe_transfer(probe), cpu)
    assert np.abs(read_at(picture, points, cpu) - exact).max() < 1e-4 * peak * weights.max()


def test_probe_with_all_aberrations_is_seen_from_the_atom(cpu) -> None:
    """With the probe at r an atom at a sees |psi(a - r)|^2; coma tells that from |psi(r - a)|^2."""
    lens = Aberrations(C12=20, phi12=0.3, C21=900, phi21=0.5, C23=700, phi23=1.0, C30=1e4)
    probe = Probe(80e3, 0.025, defocus=20, aberrations=lens)
    grid = Grid((800, 800), (160.0, 160.0))
    intensity = np.abs(probe_wave(probe, grid)) ** 2  # (y, x)
    atom = np.array([30.0, 25.0])
    offsets = np.array([[0, 0], [5, 2], [-4, 3], [3, -6], [-7, -2], [0, 9], [11, 1]])
    points = atom + 0.2 * offsets
    seen = intensity[-offsets[:, 1], -offsets[:, 0]]
    picture = form_picture(atom[None], np.ones(1), EXTENT, probe_transfer(probe), cpu)
    found = read_at(picture, points, cpu)
    assert np.abs(found - seen).max() < 6e-3 * intensity.max()  # what the wave's box cuts
    turned = intensity[offsets[:, 1], offsets[:, 0]]
    assert np.abs(found - turned).max() > 0.05 * intensity.max()


def test_shifted_atoms_give_the_shifted_image(cpu, atoms, points) -> None:
    positions, numbers = atoms
    transfer = probe_transfer(ABERRATED)
    still = form_picture(positions, numbers, EXTENT, transfer, cpu)
    values = read_at(still, points, cpu)
    for shift in ([0.137, -0.071], [13.3331, 7.77], [-40.0, 100.01]):
        moved = form_picture(positions + shift, numbers, EXTENT, transfer, cpu)
        difference = read_at(moved, points + shift, cpu) - values
        assert np.abs(difference).max() < 2e-5 * values.max()


@pytest.mark.parametrize("transfer", [gaussian_transfer(0.4), probe_transfer(ABERRATED)])
def test_mean_is_the_scattering_per_area(cpu, atoms, transfer) -> None:
    positions, numbers = atoms
    picture = form_picture(positions, numbers, EXTENT, transfer, cpu)
    n = 160
    lines = np.stack([np.full(n, 0.05), np.arange(n) * EXTENT[0] / n], axis=1)[None]
    columns = np.stack([np.arange(n) * EXTENT[1] / n, np.zeros(n)], axis=1)
    whole = gather_points(picture, lines, columns, cpu)
    assert whole.mean(dtype=np.float64) == pytest.approx(
        numbers.sum() / (EXTENT[0] * EXTENT[1]), rel=2e-6
    )


def test_blur_of_each_element_widens_its_gaussian(cpu, atoms, points) -> None:
    positions, numbers = atoms
    blurs = np.where(numbers == 16, 0.3, np.where(numbers == 42, 0.1, 0.0))
    picture = form_picture(positions, numbers, EXTENT, gaussian_transfer(0.4), cpu, blurs)
    variances = 0.4**2 + blurs**2
    gaussians = np.exp(-squares(points, positions) / (2 * variances[:, None]))
    exact = (gaussians.sum(axis=2) / (2 * np.pi * variances)) @ numbers
    peak = 74 / (2 * np.pi * 0.16)
    assert np.abs(read_at(picture, points, cpu) - exact).max() < 2e-5 * peak


def test_given_point_spread_function(cpu, atoms, points) -> None:
    """A tabulated Gaussian is the Gaussian; one beside the centre moves the image where it lies."""
    positions, numbers = atoms
    y, x = (np.arange(n) * 0.1 - n // 2 * 0.1 for n in (61, 64))
    table = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.45**2))
    exact = form_picture(positions, numbers, EXTENT, gaussian_transfer(0.45), cpu)
    peak = read_at(exact, points, cpu).max()
    given = form_picture(positions, numbers, EXTENT, tabulated_transfer(7 * table, 0.1), cpu)
    difference = read_at(given, points, cpu) - read_at(exact, points, cpu)
    assert np.abs(difference).max() < 1e-4 * peak
    beside = np.exp(-((y[:, None] - 0.5) ** 2 + (x - 0.8) ** 2) / (2 * 0.45**2))
    moved = form_picture(positions, numbers, EXTENT, tabulated_transfer(beside, 0.1), cpu)
    difference = read_at(moved, points + np.array([0.8, 0.5]), cpu) - read_at(exact, points, cpu)
    assert np.abs(difference).max() < 1e-4 * peak


def draw_path(shape: tuple[int, int], frames: int, step: np.ndarray, **flyback) -> ScanPath:
    shifts = np.random.default_rng(8).normal(0, 0.4, (frames, shape[0], 2))
    return ScanPath(shape, (20.03, 12.71), step, shifts, **flyback)


STRAIGHT, SHEARED = np.diag([0.21, 0.23]), np.array([[0.21, 0.02], [0.0, 0.2]])
TURNED = np.array([[0.2, -0.05], [0.04, 0.21]])


@pytest.mark.parametrize(
    "path",
    [
        ScanPath((37, 51), (20.03, 12.71), STRAIGHT, np.zeros((1, 37, 2))),
        ScanPath((37, 51), (20.03, 12.71), STRAIGHT, np.full((3, 37, 2), 0.17)),
        draw_path((37, 51), 1, SHEARED),
        draw_path((37, 51), 4, STRAIGHT, flyback_amplitude=3.0, flyback_pixels=4.0),
        draw_path((37, 51), 3, TURNED, flyback_amplitude=-1.0, flyback_pixels=9.0),
    ],
    ids=["regular", "frames in place", "sheared", "jitter and flyback", "turned"],
)
def test_scan_sees_the_mean_of_its_frames(cpu, atoms, path) -> None:
    positions, numbers = atoms
    width = 0.5
    picture = form_picture(positions, numbers, EXTENT, gaussian_transfer(width), cpu)
    found = look(picture, path, cpu)
    exact = np.zeros(path.shape)
    for frame in range(path.frames):
        points = scan_positions(path, frame).reshape(-1, 2)
        gaussians = np.exp(-squares(points, positions, 0)[..., 0] / (2 * width**2))
        exact += (gaussians @ numbers).reshape(path.shape) / path.frames
    exact /= 2 * np.pi * width**2
    assert found.dtype == np.float32 and found.shape == path.shape
    assert np.abs(found - exact).max() < 2e-5 * 74 / (2 * np.pi * width**2)


def test_scan_beyond_the_specimen_is_refused(cpu, atoms) -> None:
    picture = form_picture(*atoms, EXTENT, gaussian_transfer(0.5), cpu)
    path = ScanPath((37, 300), (20.0, 12.0), STRAIGHT, np.zeros((1, 37, 2)))
    with pytest.raises(SampleError, match=r"along x it goes from 20 to 82\.79 A"):
        look(picture, path, cpu)


def test_an_empty_specimen_is_dark(cpu) -> None:
    picture = form_picture(np.zeros((0, 2)), np.zeros(0), EXTENT, probe_transfer(ABERRATED), cpu)
    assert not picture.values.any()
    blurred = form_picture(
        np.zeros((0, 2)), np.zeros(0), EXTENT, gaussian_transfer(1), cpu, np.zeros(0)
    )
    assert not blurred.values.any()


def test_grids_that_are_too_large_are_refused() -> None:
    assert choose_grid((100.0, 200.0), 1.0).shape == (240, 480)
    with pytest.raises(SampleError, match=r"details of 0\.05 A needs a grid of"):
        choose_grid((1000.0, 1000.0), 20.0)


@pytest.mark.parametrize(
    "psf, sampling, message",
    [
        (np.ones(5), 0.1, r"shape \(5,\)"),
        (np.zeros((5, 5)), 0.1, "the sum 0"),
        (np.full((5, 5), np.nan), 0.1, "finite"),
        (np.ones((5, 5)), 0.0, "sampling 0"),
        (np.pad([[1.0]], 3), 0.1, "sampled too coarsely"),
    ],
)
def test_point_spread_functions_that_mean_nothing_are_refused(psf, sampling, message) -> None:
    with pytest.raises(ConfigError, match=message):
        tabulated_transfer(psf, sampling)
    with pytest.raises(ConfigError, match="width 0 A"):
        gaussian_transfer(0)
