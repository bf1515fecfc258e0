"""Potentials against direct sums over atoms in float64."""

from __future__ import annotations

import numpy as np
import pytest
from direct_sums import aperture, image_error, potential

from hpctem.errors import ConfigError, SampleError
from hpctem.optics.grid import Grid
from hpctem.optics.potential import Atomic, add_potentials, make_channels, projected_potential
from hpctem.optics.spreading import window_table


def inside_aperture(values, shape, extent):
    return np.fft.ifft2(np.fft.fft2(values) * (aperture(shape, extent, 1e-9) > 0)).real


def slice_potentials(cell, grid, atomic, slices, backend, finite):
    """Potentials of all slices, two at a time, as multislice uses them."""
    channels = make_channels(
        cell.positions[None], cell.numbers, grid, atomic, slices, cell.height / slices, finite,
        backend,
    )  # fmt: skip
    field, work = (np.empty((1, *grid.shape), np.complex64) for _ in range(2))
    table, found = window_table(), []
    for s in range(0, slices, 2):
        add_potentials(field, work, channels, (s, s + 1), table, backend)
        found += [field[0].real.copy(), field[0].imag.copy()]
    return np.stack(found)


@pytest.mark.parametrize("parametrization", ["lobato", "kirkland", "peng"])
@pytest.mark.parametrize("shape", [(160, 144), (81, 75), (80, 101)])
def test_infinite_projection(mixture, cpu, parametrization, shape) -> None:
    """1e-4 inside the antialiasing aperture, and hardly worse in the rest of the band."""
    found = projected_potential(
        mixture.positions, mixture.numbers, Grid(shape, mixture.extent), cpu, parametrization
    )
    assert found.dtype == np.float32
    expected = potential(mixture.positions, mixture.numbers, shape, mixture.extent, parametrization)
    assert image_error(found, expected) < 2e-4
    pair = [inside_aperture(v, shape, mixture.extent) for v in (found, expected)]
    assert image_error(*pair) < 3e-5


def test_each_frequency_inside_the_aperture(mixture, cpu) -> None:
    """One atom anywhere: every coefficient of the transform is exact to 1e-4."""
    grid = Grid((64, 96), (6.4, 9.8))
    rows = aperture(grid.shape, grid.extent, 1e-9) > 0
    for position in np.random.default_rng(2).uniform(0, 6, (8, 3)):
        found, expected = (
            np.fft.fft2(v)
            for v in (
                projected_potential(position[None], np.array([79]), grid, cpu),
                potential(position[None], np.array([79]), grid.shape, grid.extent),
            )
        )
        assert np.abs(found[rows] / expected[rows] - 1).max() < 1e-4


def test_debye_waller(mixture, cpu) -> None:
    rms = {6: 0.08, 14: 0.2, 79: 0.0}
    grid = Grid(mixture.shape, mixture.extent)
    found = projected_potential(mixture.positions, mixture.numbers, grid, cpu, rms=rms)
    expected = potential(mixture.positions, mixture.numbers, grid.shape, grid.extent, rms=rms)
    assert image_error(found, expected) < 1e-4
    with pytest.raises(ConfigError, match=r"Z = 14 .* simulation\.phonons\.rms"):
        projected_potential(mixture.positions, mixture.numbers, grid, cpu, rms={6: 0.08, 79: 0.09})


@pytest.mark.parametrize("parametrization", ["lobato", "kirkland", "peng"])
@pytest.mark.parametrize("slices", [8, 40])
def test_finite_projection(mixture, cpu, parametrization, slices) -> None:
    """Each slice against the exact part of every atom in it; 1e-4 of the atoms' own potential."""
    shape = (60, 50)
    grid = Grid(shape, mixture.extent)
    found = slice_potentials(mixture, grid, Atomic(parametrization), slices, cpu, True)
    total = potential(mixture.positions, mixture.numbers, shape, mixture.extent, parametrization)
    scale = np.linalg.norm(total - total.mean()) / np.sqrt(slices)
    edges = np.linspace(0, mixture.height, slices + 1)
    for s in (0, 1, slices // 2, slices - 1):
        slab = (-1e3 if s == 0 else edges[s], 1e3 if s == slices - 1 else edges[s + 1])
        exact = potential(
            mixture.positions, mixture.numbers, shape, mixture.extent, parametrization, slab
        )
        difference = inside_aperture(found[s] - exact, shape, mixture.extent)
        assert np.linalg.norm(difference) < 1e-4 * scale
        assert np.linalg.norm(found[s] - exact) < 3e-4 * scale
    assert image_error(found.sum(axis=0), total) < 3e-4


def test_finite_projection_differs_where_atoms_straddle(mixture, cpu) -> None:
    """What finite projection is for: thin slices share an atom; the sum over slices is the same."""
    grid = Grid((60, 50), mixture.extent)
    finite, infinite = (
        slice_potentials(mixture, grid, Atomic(), 40, cpu, flag) for flag in (True, False)
    )
    assert image_error(finite[20], infinite[20]) > 0.2
    assert image_error(finite.sum(axis=0), infinite.sum(axis=0)) < 3e-4


def test_mean_inner_potential(gold, cpu) -> None:
    """The mean is the sum of the forward scattering factors: 30 V for gold of neutral atoms."""
    grid = Grid((120, 80), gold.extent)
    found = projected_potential(gold.positions, gold.numbers, grid, cpu)
    density = 4 / 4.08**3
    thickness = 4 * 4.08
    expected = 47.8776 * 10.5758 * density * thickness
    assert found.mean(dtype=np.float64) == pytest.approx(expected, rel=1e-5)


def test_position_that_is_no_number(cpu) -> None:
    positions = np.array([[1.0, 2.0, np.nan]])
    with pytest.raises(SampleError, match="not a finite number"):
        projected_potential(positions, np.array([6]), Grid((32, 32), (5.0, 5.0)), cpu)


def test_element_without_scattering_factor(cpu) -> None:
    with pytest.raises(ConfigError, match="Z = 110"):
        projected_potential(np.ones((1, 3)), np.array([110]), Grid((32, 32), (5.0, 5.0)), cpu)


def test_grid_that_is_too_small() -> None:
    with pytest.raises(ConfigError, match="too small"):
        Grid((31, 64), (5.0, 5.0))
    with pytest.raises(ConfigError, match="positive"):
        Grid((64, 64), (5.0, 0.0))
