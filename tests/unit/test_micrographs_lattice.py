"""Lattices are found whatever their direction, and distortions of the scan are told from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.micrographs.geometry import ideal_lattice, measure_distortion
from hpctem.micrographs.known import known_materials, parse_lattice
from hpctem.micrographs.lattice import find_lattice, fit_patch, reduce_basis
from hpctem.micrographs.spectra import find_spots, power_spectrum, sharpen, window_image

TURNS = (0.0, 0.3, 1.1, 2.0)


def wave_image(
    shape: tuple[int, int], step: np.ndarray, cell: np.ndarray, noise: float, seed: int
) -> np.ndarray:
    """A sum of the waves of a lattice (rows of `cell`, A) at step @ (column, row), with noise."""
    ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    places = np.stack([x, y], axis=-1) @ step.T
    reciprocal = np.linalg.inv(cell).T
    image = np.zeros(shape)
    for h in range(-3, 4):
        for k in range(-3, 4):
            if (h, k) > (0, 0):
                g = h * reciprocal[0] + k * reciprocal[1]
                size = math.exp(-1.5 * float(g @ g))
                image += size * np.cos(2 * np.pi * (places @ g) + h * 0.7 - k * 0.4)
    return image + noise * np.random.default_rng(seed).standard_normal(shape)


def scan_step(pixel: float, shear: float, contraction: float, turn: float) -> np.ndarray:
    cos, sin = math.cos(turn), math.sin(turn)
    skew = pixel * np.array([[1, shear * (1 + contraction)], [0, 1 + contraction]])
    return np.array([[cos, -sin], [sin, cos]]) @ skew


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["mos2", "graphene", "srtio3"])
def test_known_distortions_are_recovered(name: str, turn: float) -> None:
    """Pixel to 0.1 %, contraction and shear to 0.001, under noise twice the lattice's contrast."""
    known = parse_lattice(name)
    generator = np.random.default_rng([7, round(10 * turn)])
    pixel = float(generator.uniform(0.10, 0.18))
    shear, contraction = (float(x) for x in generator.uniform(-0.08, 0.08, 2))
    step = scan_step(pixel, shear, contraction, turn)
    clean = wave_image((400, 500), step, known.vectors, 0.0, 0)
    image = clean + 2 * clean.std() * generator.standard_normal(clean.shape)
    lattice = find_lattice(image, 0.3)
    assert lattice is not None
    found = measure_distortion(lattice.vectors, known.vectors)
    assert found.pixel_size == pytest.approx(pixel, rel=1e-3)
    assert found.contraction == pytest.approx(contraction, abs=1e-3)
    assert found.shear == pytest.approx(shear, abs=1e-3)


def test_vectors_are_found_to_a_thousandth() -> None:
    """Of an oblique lattice, under noise as strong as the contrast."""
    cell = np.array([[3.5, 0.0], [-0.9, 4.6]])
    step = scan_step(0.15, 0.0, 0.0, 0.8)
    clean = wave_image((512, 512), step, cell, 0.0, 0)
    noisy = clean + clean.std() * np.random.default_rng(3).standard_normal(clean.shape)
    lattice = find_lattice(noisy, 0.3)
    assert lattice is not None
    true = reduce_basis(cell @ np.linalg.inv(step).T)
    found = reduce_basis(lattice.vectors)
    lengths = [np.sort(np.linalg.norm(vectors, axis=1)) for vectors in (found, true)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    areas = [abs(np.linalg.det(vectors)) for vectors in (found, true)]
    assert areas[0] == pytest.approx(areas[1], rel=2e-3)
    patch = fit_patch(noisy[100:300, 200:500], lattice)
    assert patch == pytest.approx(lattice.reciprocal, abs=3e-4)


def test_spots_stand_where_the_waves_are() -> None:
    """A wave between the steps of frequency is found to a fiftieth of a step."""
    ny, nx = 200, 300
    y, x = np.mgrid[:ny, :nx]
    true = np.array([17.37 / nx, 11.81 / ny])
    wave = np.cos(2 * np.pi * (true[0] * x + true[1] * y))
    places, contrasts = find_spots(wave + np.random.default_rng(0).standard_normal((ny, nx)), 0.4)
    assert np.abs((places[0] - true) * [nx, ny]).max() < 0.02
    assert contrasts[0] > 100
    spectrum = np.fft.fft2(window_image(wave))
    there, _ = sharpen(spectrum, true + 0.6 / np.array([nx, -ny]))
    assert np.abs((there[0] - true) * [nx, ny]).max() < 1e-3


def test_the_power_of_white_noise_is_its_variance() -> None:
    noise = 3.0 * np.random.default_rng(1).standard_normal((20, 256, 200))
    assert np.mean([power_spectrum(one) for one in noise]) == pytest.approx(9.0, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_one_set_of_fringes_are_no_lattice(seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((256, 256))
    assert find_lattice(noise) is None
    fringes = np.cos(2 * np.pi * (0.071 * np.arange(256) + 0.03 * np.arange(256)[:, None]))
    assert find_lattice(noise + fringes) is None


def test_missing_columns_and_blobs_do_not_mislead() -> None:
    known = parse_lattice("mos2")
    step = scan_step(0.134, 0.02, -0.01, 0.5)
    image = wave_image((400, 400), step, known.vectors, 0.5, 4)
    generator = np.random.default_rng(2)
    y, x = np.mgrid[:400, :400]
    for _ in range(60):
        at_y, at_x, size = generator.uniform(0, 400, 3)
        width = 3 + size / 20
        image += 5 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * width**2))
    lattice = find_lattice(image, 0.25)
    assert lattice is not None
    found = measure_distortion(lattice.vectors, known.vectors)
    assert found.pixel_size == pytest.approx(0.134, rel=2e-3)
    assert found.shear == pytest.approx(0.02, abs=2e-3)


def test_a_lattice_is_told_hexagonal_or_square_by_its_shape() -> None:
    hexagon = np.array([[10.0, 0.0], [-5.0, 5 * math.sqrt(3)]])
    skew = np.array([[1.0, 0.0], [0.05, 1.02]])
    name, ideal = ideal_lattice(hexagon @ skew)
    assert name == "hexagonal"
    assert abs(np.linalg.det(ideal)) == pytest.approx(abs(np.linalg.det(hexagon @ skew)))
    assert ideal_lattice(10 * np.eye(2) @ skew)[0] == "square"
    assert ideal_lattice(np.array([[10.0, 0.0], [0.0, 14.0]])) is None


@pytest.mark.parametrize(
    "text, lengths, angle",
    [
        ("MoS2", (3.16, 3.16), 120),
        ("1T-TaS2", (3.365, 3.365), 120),
        ("hbn", (2.504, 2.504), 120),
        ("SrTiO3", (3.905, 3.905), 90),
        ("a=3.16A,hexagonal", (3.16, 3.16), 120),
        ("a=390pm, square", (3.9, 3.9), 90),
        ("a=3.5A,b=0.46nm,angle=95deg", (3.5, 4.6), 95),
    ],
)
def test_lattices_by_name_and_by_constants(
    text: str, lengths: tuple[float, float], angle: float
) -> None:
    vectors = parse_lattice(text).vectors
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(lengths)
    cosine = vectors[0] @ vectors[1] / lengths[0] / lengths[1]
    assert math.degrees(math.acos(cosine)) == pytest.approx(angle)


def test_every_known_material_has_a_cell() -> None:
    for name in known_materials():
        known = parse_lattice(name)
        assert known.material is not None and abs(np.linalg.det(known.vectors)) > 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("mos3", "did you mean 'mos2'"),
        ("grafene", "did you mean 'graphene'"),
        ("a=3.16,hexagonal", "has no unit"),
        ("a=3.16A,round", "'round' is not understood"),
        ("b=3A,square", "has no 'a'"),
        ("a=0.1A,square", "out of range"),
    ],
)
def test_unknown_lattices_name_the_nearest(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_lattice(text)
