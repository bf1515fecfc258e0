"""Amorphous carbon: number, minimum bond, uniformity, no trace of a grid, speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from hpctem.errors import ConfigError, SampleError
from hpctem.structures.amorphous import REACHABLE_PACKING, amorphous

EXTENT = (128.0, 128.0, 50.0)
DENSITY, BOND = 0.11, 1.4


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return amorphous(EXTENT, DENSITY, BOND, np.random.default_rng(11))


def periodic_tree(positions: np.ndarray, extent: tuple[float, float, float]) -> cKDTree:
    return cKDTree(positions, boxsize=[extent[0], extent[1], 4 * extent[2] + 100])


def structure_factor(positions: np.ndarray, extent: tuple[float, float, float]) -> np.ndarray:
    """S(q) = |sum exp(iqr)|^2 / n along the axes and diagonals, up to 8.8 /A (2 pi / 0.71 A)."""
    values = []
    for direction in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0)):
        phase = 2 * math.pi * (positions / extent) @ np.array(direction)
        step = np.exp(1j * phase)
        wave = np.ones_like(step)
        for _ in range(180 if direction != (0, 0, 1) else 70):
            wave = wave * step
            values.append(abs(wave.sum()) ** 2 / len(positions))
    return np.array(values)


def test_number_of_atoms_is_exact(film: np.ndarray) -> None:
    assert film.shape == (round(DENSITY * 128 * 128 * 50), 3)
    assert film.dtype == np.float64
    assert np.all(film >= 0) and np.all(film < EXTENT)


def test_no_bond_is_shorter_than_the_minimum_even_across_the_boundary(film: np.ndarray) -> None:
    pairs = periodic_tree(film, EXTENT).query_pairs(1.5, output_type="ndarray")
    difference = film[pairs[:, 0]] - film[pairs[:, 1]]
    crossing = np.abs(difference[:, :2]).max(axis=1) > 64
    difference[:, :2] -= 128 * np.round(difference[:, :2] / 128)
    distances = np.linalg.norm(difference, axis=1)
    assert crossing.sum() > 50, "the boundary is crossed by bonds"
    assert distances.min() >= BOND
    assert (distances < 1.42).sum() > 1000, "contact is reached: the bond is the limit, not a grid"


def test_pair_correlation_is_that_of_a_dense_random_packing(film: np.ndarray) -> None:
    inner = film[(film[:, 2] > 10) & (film[:, 2] < 40)]
    tree = periodic_tree(film, EXTENT)
    radii = np.array([1.4, 1.5, 2.8, 3.0, 4.9, 5.1, 7.0, 7.2])
    pairs = periodic_tree(inner, EXTENT).count_neighbors(tree, radii).astype(float)
    shells = 4 / 3 * math.pi * np.diff(radii**3)
    g = np.diff(pairs) / (len(inner) * DENSITY * shells)
    assert pairs[0] == len(inner), "only itself within the minimum bond: g(r) = 0"
    # Spheres at a packing of 0.158: above one at contact, one from a few bonds on.
    assert 1.1 < g[0] < 1.6
    np.testing.assert_allclose(g[[2, 4, 6]], 1.0, atol=0.03)


def test_structure_factor_has_no_grid_peak(film: np.ndarray) -> None:
    values = structure_factor(film, EXTENT)
    # Random phases: S is exponentially distributed about 1 or so; 790 values stay below about 9.
    assert values.max() < 16
    assert 0.6 < values.mean() < 1.3
    # The same measure finds the grid in atoms jittered by half a spacing about grid points.
    n, nz = 61, 24
    grid = np.stack(np.meshgrid(*map(np.arange, (n, n, nz)), indexing="ij"), -1).reshape(-1, 3)
    spacing = np.array([128 / n, 128 / n, 50 / nz])
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, grid.shape)
    assert structure_factor((grid + 0.5 + jitter) * spacing, EXTENT).max() > 100


def test_density_is_uniform_along_every_axis(film: np.ndarray) -> None:
    for axis in range(3):
        counts = np.histogram(film[:, axis], bins=20, range=(0, EXTENT[axis]))[0]
        mean = len(film) / 20
        # Repulsion makes it more even than a Poisson process, whose deviation is sqrt(mean).
        assert np.abs(counts - mean).max() < 4 * math.sqrt(mean)
    skin = (film[:, 2] < 0.7).sum() / (0.7 * 128 * 128)
    assert skin == pytest.approx(DENSITY, rel=0.1), "no atoms gather at the surface"


@given(
    st.floats(0.5, 30),
    st.floats(0.5, 30),
    st.floats(0.5, 30),
    st.floats(0.1, 0.9),
    st.integers(0, 99),
)
def test_any_extent_keeps_number_and_bond(
    lx: float, ly: float, lz: float, share: float, seed: int
) -> None:
    density = share * REACHABLE_PACKING * 6 / (math.pi * 2.0**3)
    if min(lx, ly, lz) < 8:
        density = 0.018  # boxes of a few bonds jam sooner than the bulk does
    extent = (lx, ly, lz)
    positions = amorphous(extent, density, 2.0, np.random.default_rng(seed))
    assert len(positions) == round(density * lx * ly * lz)
    difference = positions[:, None] - positions[None]
    difference[..., :2] -= np.array(extent[:2]) * np.round(difference[..., :2] / extent[:2])
    distances = np.linalg.norm(difference, axis=-1)[~np.eye(len(positions), dtype=bool)]
    assert distances.min(initial=9.9) >= 2.0


def test_the_generator_alone_decides() -> None:
    small = (20.0, 25.0, 10.0)
    one, same, other = (
        amorphous(small, DENSITY, BOND, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


def test_density_beyond_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 0\.209 atoms/A\^3"):
        amorphous((20.0, 20.0, 20.0), 0.25, 1.4, np.random.default_rng(0))
    assert len(amorphous((20.0, 20.0, 20.0), 0.2, 1.4, np.random.default_rng(0))) == 1600


def test_a_jammed_packing_is_a_bad_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpctem.structures.amorphous.REACHABLE_PACKING", 1.0)
    with pytest.raises(SampleError, match=r"of 280 atoms: only 2.. found a place"):
        amorphous((10.0, 10.0, 10.0), 0.28, 1.4, np.random.default_rng(0))


@pytest.mark.alone
def test_a_film_takes_less_than_three_tenths_of_a_second_of_one_core(film: np.ndarray) -> None:
    def measure() -> float:
        start = time.process_time()
        amorphous(EXTENT, DENSITY, BOND, np.random.default_rng(1))
        return time.process_time() - start

    assert min(measure() for _ in range(3)) < 0.3
