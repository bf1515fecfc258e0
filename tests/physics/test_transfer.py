"""Image formation: focus, spread of focus, apertures, envelopes, plasmons, averages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from direct_sums import image_error

from hpctem.backend import Backend
from hpctem.errors import ConfigError
from hpctem.optics import transfer
from hpctem.optics.aberrations import Aberrations, chi
from hpctem.optics.electron import wavelength
from hpctem.optics.focus import FocusByKernels
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves
from hpctem.optics.transfer import Imaging, asked_planes, focal_planes, form_images

ENERGY = 300e3
LAMBDA = wavelength(ENERGY)
RESIDUAL = Aberrations(C12=30.0, phi12=-1.2, C21=700.0, phi21=0.5, C23=500.0, phi23=-3.0, C30=-8e4)


@pytest.fixture(scope="module")
def particle(cpu):
    """Exit waves of three phonon configurations of gold on carbon, 26 A thick; extent in A."""
    generator = np.random.default_rng(9)
    carbon = generator.uniform(0, 1, (300, 3)) * [24.0, 20.0, 12.0] + [0, 0, 2]
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3)
    gold = (grid[grid.sum(axis=1) % 2 == 0] * 2.04) + [8.0, 6.0, 15.0]
    positions = np.concatenate([carbon, gold])
    numbers = np.repeat([6, 79], [len(carbon), len(gold)])
    shifts = generator.normal(0, 0.08, (3, *positions.shape))
    extent = (20.0, 24.0)
    waves = exit_waves(
        positions + shifts, numbers, 26.0, Grid((160, 192), extent), Multislice(ENERGY), cpu,
        output_shape=(100, 120),
    )  # fmt: skip
    return waves, extent


def form_directly(waves, extent, imaging, planes):
    """The definition in complex128: offsets and weights of the focus, one at a time."""
    ny, nx = waves.shape[1:]
    ky = np.fft.fftfreq(ny, extent[0] / ny)[:, None]
    kx = np.fft.fftfreq(nx, extent[1] / nx)[None, :]
    alpha, phi = LAMBDA * np.hypot(ky, kx), np.arctan2(ky, kx)
    passed = alpha <= (imaging.objective_aperture or np.inf)
    image = np.zeros((ny, nx))
    for offset, weight in zip(*planes, strict=True):
        focus = replace(imaging.aberrations, C10=-(imaging.exit_defocus + offset))
        ctf = passed * np.exp(-1j * chi(alpha, phi, LAMBDA, focus))
        for wave in waves.astype(np.complex128):
            image += weight * np.abs(np.fft.ifft2(np.fft.fft2(wave) * ctf)) ** 2
    return image / len(waves)


@pytest.mark.parametrize("defocus", [-300.0, 0.0, 450.0])
@pytest.mark.parametrize("aperture", [None, 0.016])
def test_direct_definition(particle, cpu, defocus, aperture) -> None:
    waves, extent = particle
    imaging = Imaging(
        ENERGY, defocus=defocus, aberrations=RESIDUAL, focal_spread=15.0, spread_nodes=25,
        objective_aperture=aperture,
    )  # fmt: skip
    found = form_images(waves, extent, [imaging], cpu)
    assert found.shape == (1, 100, 120) and found.dtype == np.float32
    weights = np.exp(-(np.linspace(-3, 3, 25) ** 2) / 2)
    planes = np.linspace(-45, 45, 25), weights / weights.sum()
    assert image_error(found[0], form_directly(waves, extent, imaging, planes)) < 5e-5


@pytest.mark.parametrize("sigma", [5.0, 15.0, 40.0])
def test_automatic_focal_spread(particle, cpu, sigma) -> None:
    """As few planes as the formula gives are as good as a fine quadrature: 1e-3 is promised."""
    waves, extent = particle
    imaging = Imaging(ENERGY, defocus=120.0, aberrations=RESIDUAL, focal_spread=sigma)
    found = form_images(waves, extent, [imaging], cpu)[0]
    position = np.linspace(-5, 5, 121)
    weights = np.exp(-(position**2) / 2)
    exact = form_directly(waves, extent, imaging, (sigma * position, weights / weights.sum()))
    assert image_error(found, exact) < 3e-4
    sharp = form_images(waves, extent, [replace(imaging, focal_spread=0.0)], cpu)[0]
    assert image_error(sharp, exact) > 0.02


def respond(planes, weights, beat):
    return (weights * np.exp(2j * np.pi * beat[:, None] * planes)).sum(axis=1)


@pytest.mark.parametrize("nodes", ["auto", 25, 7, 2])
@pytest.mark.parametrize("sigma", [3.0, 15.0, 60.0])
@pytest.mark.parametrize("band", [0.3, 1.67, 2.5])
def test_few_planes_respond_like_all(nodes, sigma, band) -> None:
    """Every beat of the wave is weighed as by the planes that are asked for, at any defocus."""
    asked, shares = asked_planes(sigma, nodes)
    beat = np.linspace(0, LAMBDA * band**2 / 2, 200)
    for defocus in (0.0, 3.7, -213.0):
        planes, weights = focal_planes(sigma, nodes, ENERGY, band, defocus)
        assert weights.sum() == pytest.approx(1) and planes[0] < defocus < planes[-1]
        assert nodes == "auto" or planes.size <= nodes
        error = respond(planes, weights, beat) - respond(defocus + asked, shares, beat)
        assert np.abs(error).max() < 5e-4


def test_focal_planes() -> None:
    """S2's planes: 25 to +-3 sigma, so 15 A reach +-45 A; those that stand for them are fewer."""
    offsets, weights = asked_planes(15.0, 25)
    assert offsets[0] == -45.0 and offsets[-1] == 45.0 and offsets[12] == 0.0 and len(offsets) == 25
    assert weights.sum() == pytest.approx(1)
    assert weights[12] / weights[16] == pytest.approx(np.exp(0.5))
    assert len(focal_planes(15.0, 25, ENERGY, 2.5)[0]) == 19
    assert len(focal_planes(15.0, "auto", ENERGY, 2.5)[0]) == 13
    assert len(focal_planes(15.0, "auto", ENERGY, 1.67)[0]) == 9
    for nodes in ("auto", 25):
        assert focal_planes(0.0, nodes, ENERGY, 2.5, 12.5)[0].tolist() == [12.5]


def test_foci_share_planes() -> None:
    """Planes lie on one grid, so eleven foci 10 A apart need hardly more than three of them."""
    planes = [
        set(focal_planes(15.0, "auto", ENERGY, 2.5, defocus)[0].tolist())
        for defocus in np.arange(11) * 10.0
    ]
    assert len(set.union(*planes)) < 25 < 110 < sum(map(len, planes))


def test_sharpest_at_the_scatterer(cpu) -> None:
    """A point scatterer at the cell's centre is sharpest at zero defocus measured from there."""
    height = 300.0
    grid = Grid((128, 128), (16.0, 16.0))
    position = np.array([[[8.0, 8.0, height / 2]]])
    wave = exit_waves(position, np.array([79]), height, grid, Multislice(ENERGY), cpu)
    defoci = np.arange(-100.0, 101.0, 10.0)

    # phase contrast vanishes in focus: compare the amplitude that scattering left, not the image
    centred = [Imaging(ENERGY, defocus=d, reference="cell_centre", height=height) for d in defoci]
    contrast = form_images(wave, grid.extent, centred, cpu).std(axis=(1, 2))
    assert defoci[np.argmin(contrast)] == 0.0
    np.testing.assert_allclose(contrast, contrast[::-1], rtol=0.5)
    exits = [Imaging(ENERGY, defocus=d + height / 2) for d in defoci]
    np.testing.assert_array_equal(
        form_images(wave, grid.extent, exits, cpu), form_images(wave, grid.extent, centred, cpu)
    )


def test_weak_phase_object_is_dark_in_underfocus(cpu) -> None:
    """Scherzer's contrast: atoms are dark in underfocus and bright in overfocus (Cs = 0)."""
    grid = Grid((128, 128), (20.0, 20.0))
    position = np.array([[[10.0, 10.0, 2.0]]])
    wave = exit_waves(position, np.array([14]), 4.0, grid, Multislice(ENERGY), cpu)
    imagings = [Imaging(ENERGY, defocus=d, objective_aperture=0.012) for d in (400.0, -400.0)]
    under, over = form_images(wave, grid.extent, imagings, cpu)
    assert under[64, 64] < 0.97 and over[64, 64] > 1.03


def test_aperture_on_a_cropped_grid_changes_nothing(particle, cpu, monkeypatch) -> None:
    """A small aperture is computed on a coarse grid; without that the image is the same."""
    waves, extent = particle
    imaging = Imaging(
        ENERGY, defocus=200.0, aberrations=RESIDUAL, focal_spread=15.0, objective_aperture=0.012
    )
    shape = transfer.intensity_shape(Grid((100, 120), extent), 0.012 / LAMBDA)
    assert shape == (50, 60)
    cropped = form_images(waves, extent, [imaging], cpu)[0]
    monkeypatch.setattr(transfer, "intensity_shape", lambda grid, band: grid.shape)
    full = form_images(waves, extent, [imaging], cpu)[0]
    assert image_error(cropped, full) < 1e-5
    assert cropped.tobytes() != full.tobytes()


def test_aperture_beyond_the_grid(particle, cpu) -> None:
    waves, extent = particle
    with pytest.raises(ConfigError, match="60 mrad needs a sampling of at most"):
        form_images(waves, extent, [Imaging(ENERGY, objective_aperture=0.06)], cpu)


def test_vacuum_stays_one(cpu) -> None:
    waves = np.ones((2, 64, 48), np.complex64)
    imagings = [
        Imaging(ENERGY, defocus=300.0, aberrations=RESIDUAL, focal_spread=20.0),
        Imaging(ENERGY, objective_aperture=0.01, convergence=1e-4, plasmon=(0.5, 1.0)),
    ]
    images = form_images(waves, (20.0, 15.0), imagings, cpu)
    np.testing.assert_allclose(images, 1, atol=1e-5)


@pytest.mark.parametrize(("weight", "background"), [(0.5, 1.0), (0.85, 1.0), (1.0, 0.5), (0.3, 0)])
def test_plasmon_background(particle, cpu, weight, background) -> None:
    """The mean stays; for one configuration the contrast falls to 1 - w + w m / (m + b)."""
    waves, extent = particle
    plain = Imaging(ENERGY, defocus=100.0, focal_spread=15.0)
    lossy = replace(plain, plasmon=(weight, background))
    for part in (waves[:1], waves):
        before, after = form_images(part, extent, [plain, lossy], cpu)
        assert after.mean() == pytest.approx(before.mean(), rel=1e-5)
        share = 1 - weight + weight * before.mean() / (before.mean() + background)
        assert after.std() / before.std() == pytest.approx(share, rel=1e-3)
    if (weight, background) == (0.5, 1.0):
        assert after.std() / before.std() == pytest.approx(0.75, abs=2e-3)


def test_plasmon_background_is_applied_per_configuration(cpu) -> None:
    """Two configurations of different mean: each is renormalised to its own."""
    generator = np.random.default_rng(3)
    waves = generator.normal(0, 0.2, (2, 32, 32)) + np.array([1.0, 0.4])[:, None, None]
    waves = waves.astype(np.complex64)
    found = form_images(waves, (9.0, 9.0), [Imaging(ENERGY, plasmon=(0.6, 0.7))], cpu)[0]
    expected = 0
    for intensity in np.abs(waves.astype(np.complex128)) ** 2:
        shifted = intensity + 0.7
        expected += 0.5 * (0.4 * intensity + 0.6 * shifted * intensity.mean() / shifted.mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_convergence_is_an_average_over_illumination(cpu) -> None:
    """The envelope against the images of many beams exp(-theta^2 / alpha^2), weak object."""
    grid = Grid((96, 96), (19.2, 19.2))
    position = np.array([[[9.0, 10.0, 2.0]]])
    wave = exit_waves(position, np.array([6]), 4.0, grid, Multislice(ENERGY), cpu)
    semiangle, defocus = 4e-4, 900.0
    blurred = Imaging(ENERGY, defocus=defocus, convergence=semiangle, objective_aperture=0.015)
    found = form_images(wave, grid.extent, [blurred], cpu)[0]
    sharp = form_images(wave, grid.extent, [replace(blurred, convergence=0.0)], cpu)[0]
    # a beam tilted by theta shifts a defocused image by defocus x theta: a Gaussian blur
    ky, kx = (np.fft.fftfreq(96, 0.2) for _ in range(2))
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    blur = np.exp(-((np.pi * defocus * semiangle) ** 2) * k2)
    expected = np.fft.ifft2(np.fft.fft2(sharp) * blur).real
    assert image_error(found, expected) < 0.02
    assert image_error(sharp, expected) > 0.1


def test_phonons_average_intensities(particle, cpu) -> None:
    waves, extent = particle
    imaging = Imaging(ENERGY, defocus=80.0)
    together = form_images(waves, extent, [imaging], cpu)[0]
    alone = np.mean([form_images(w[None], extent, [imaging], cpu)[0] for w in waves], axis=0)
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_same_bytes_twice_and_in_any_company(particle, cpu) -> None:
    """An image does not depend on the images formed beside it."""
    waves, extent = particle
    imagings = [
        Imaging(
            ENERGY,
            defocus=d,
            aberrations=a,
            focal_spread=15.0,
            plasmon=(0.5, 1.0),
            objective_aperture=aperture,
        )
        for d in (0.0, 7.0, 200.0)
        for a in (Aberrations(), RESIDUAL)
        for aperture in (None, 0.012)
    ]
    expected = form_images(waves, extent, imagings, cpu)
    assert form_images(waves, extent, imagings, cpu).tobytes() == expected.tobytes()
    for image, imaging in zip(expected, imagings, strict=True):
        assert form_images(waves, extent, [imaging], cpu)[0].tobytes() == image.tobytes()


@pytest.mark.parametrize("aperture", [None, 0.016])
def test_panels_focus_as_kernels_do(particle, cpu, monkeypatch, aperture) -> None:
    """The CPU's passes and the kernels that a GPU runs: the same image, at any batch."""
    waves, extent = particle
    imaging = Imaging(
        ENERGY, defocus=120.0, aberrations=RESIDUAL, focal_spread=15.0, convergence=2e-4,
        objective_aperture=aperture, plasmon=(0.5, 1.0),
    )  # fmt: skip
    expected = form_images(waves, extent, [imaging], cpu)[0]
    monkeypatch.setattr(transfer, "focus_for", lambda backend: FocusByKernels)
    found = []
    for batch in (1, 2, 3):
        monkeypatch.setattr(Backend, "planes_at_once", lambda self, *sizes, batch=batch: batch)
        found.append(form_images(waves, extent, [imaging], cpu)[0])
        assert image_error(found[-1], expected) < 2e-6
        assert found[-1].tobytes() == found[0].tobytes() != expected.tobytes()


@pytest.mark.parametrize("shape", [(64, 75), (75, 64), (82, 101)])
def test_sizes_that_are_no_multiples_of_eight(cpu, shape) -> None:
    grid = Grid(shape, (shape[0] * 0.21, shape[1] * 0.2))
    position = np.array([[[5.0, 6.0, 2.0], [9.0, 3.3, 4.0]]])
    waves = exit_waves(position, np.array([79, 79]), 6.0, grid, Multislice(ENERGY), cpu)
    imaging = Imaging(ENERGY, defocus=90.0, aberrations=RESIDUAL)
    found = form_images(waves, grid.extent, [imaging], cpu)[0]
    planes = np.zeros(1), np.ones(1)
    assert image_error(found, form_directly(waves, grid.extent, imaging, planes)) < 5e-5


def test_exit_waves_are_left_alone(particle, cpu) -> None:
    waves, extent = particle
    before = waves.copy()
    form_images(waves, extent, [Imaging(ENERGY, defocus=50.0)], cpu)
    np.testing.assert_array_equal(waves, before)
    assert form_images(waves, extent, [], cpu).shape == (0, 100, 120)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "entrance"}, "exit_plane or cell_centre"),
        ({"reference": "cell_centre"}, "needs the cell's height"),
        ({"focal_spread": -1.0}, "must not be negative"),
        ({"objective_aperture": 0.0}, "must be positive"),
        ({"spread_nodes": 0}, "whole number"),
        ({"spread_nodes": "many"}, "whole number"),
        ({"plasmon": (1.5, 1.0)}, "plasmon weight 1.5"),
        ({"plasmon": (0.5, -1.0)}, "must not be negative"),
    ],
)
def test_impossible_settings(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Imaging(ENERGY, **settings)
