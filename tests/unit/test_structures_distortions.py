"""Ripples, tilt, strain and rotation: their statistics and geometry."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

sys.path.append(str(Path(__file__).parent))

from sheet_recipes import GRAPHENE, WSE2, recipe, sample

from hpctem.sampling import Streams
from hpctem.structures.distortions import (
    draw_height_field,
    evaluate_height,
    ripple,
    tilt_matrix,
)


def grid(side: float, count: int) -> np.ndarray:
    ticks = np.arange(count) * side / count
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def test_heights_and_slopes_are_those_of_the_waves() -> None:
    """Against the direct sum of the waves, to 1e-3 of the amplitude, over positive and negative."""
    field = draw_height_field(np.random.default_rng(1), 2.0, 40.0)
    points = np.random.default_rng(2).uniform(-300, 300, (500, 2))
    phase = points @ field.vectors.T + field.phases
    h, slope_x, slope_y = evaluate_height(field, points)
    assert np.abs(h - field.height * np.cos(phase).sum(axis=1)).max() < 2e-3 * 2.0
    slopes = -field.height * np.sin(phase) @ field.vectors
    steepness = 2 * np.pi * 2.0 / 40.0
    assert np.abs(np.stack([slope_x, slope_y], 1) - slopes).max() < 5e-3 * steepness
    assert np.abs(h).max() < field.highest
    assert np.hypot(slope_x, slope_y).max() < field.steepest


def test_the_height_at_a_point_does_not_depend_on_the_others() -> None:
    field = draw_height_field(np.random.default_rng(1), 2.0, 40.0)
    points = np.random.default_rng(2).uniform(-100, 200, (50, 2))
    together = evaluate_height(field, points)
    alone = np.concatenate([evaluate_height(field, point[None]) for point in points], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_ripples_have_the_asked_amplitude_spectrum_and_no_direction() -> None:
    """Rms height, Gaussian heights, wavelengths within 0.5 to 1.5 of a mean of 30 A, isotropy."""
    side, count = 900.0, 128
    points = grid(side, count)
    spectrum, values = np.zeros((count, count)), []
    for index in range(24):
        field = draw_height_field(Streams(3)("structure/ripples", index), 1.5, 30.0)
        h = evaluate_height(field, points)[0]
        assert h.std() == pytest.approx(1.5, rel=0.06)
        values.append(h)
        window = np.outer(*[np.hanning(count)] * 2)
        spectrum += np.abs(np.fft.fft2(h.reshape(count, count) * window)) ** 2
    heights = np.concatenate(values)
    assert np.sqrt((heights**2).mean()) == pytest.approx(1.5, rel=0.01)
    assert (heights**4).mean() / (heights**2).mean() ** 2 == pytest.approx(3 - 1.5 / 24, abs=0.1)
    k = np.fft.fftfreq(count, side / count)
    radius = np.hypot(k[:, None], k)
    inside = (radius > 1 / 45 - 0.004) & (radius < 1 / 15 + 0.004)
    assert spectrum[inside].sum() > 0.995 * spectrum.sum()
    wavelength = np.divide(1.0, radius, where=radius > 0, out=np.zeros_like(radius))
    mean = (spectrum[inside] * wavelength[inside]).sum() / spectrum[inside].sum()
    # 24 x 24 waves, of a spread of 8.7 A.
    assert mean == pytest.approx(30.0, abs=4 * 8.7 / 24)
    azimuth = np.arctan2(k[:, None], k)[inside]
    for m in (2, 4):
        order = (spectrum[inside] * np.exp(1j * m * azimuth)).sum() / spectrum[inside].sum()
        assert abs(order) < 4 / np.sqrt(24 * 24)


def test_bonds_keep_their_length_to_the_second_order_of_the_slope() -> None:
    """Half the slope gives a quarter of the change, for bonds within a plane and between planes."""
    flat = sample(recipe(WSE2, rotation="0.2 rad"), (80.0, 80.0)).positions
    flat = flat - [0.0, 0.0, flat[:, 2].mean()]
    pairs = cKDTree(flat).query_pairs(2.7, output_type="ndarray")
    apart = flat[pairs[:, 0]] - flat[pairs[:, 1]]
    lengths = np.linalg.norm(apart, axis=1)
    assert lengths.std() < 1e-9  # all are bonds from W to Se
    changes = []
    for amplitude in (2.0, 1.0):
        field = draw_height_field(np.random.default_rng(4), amplitude, 150.0)
        bent = ripple(flat, field)
        found = np.linalg.norm(bent[pairs[:, 0]] - bent[pairs[:, 1]], axis=1)
        changes.append((found / lengths).mean() - 1)
        assert np.abs(found / lengths - 1).max() < 8 * (2 * np.pi * amplitude / 150.0) ** 2
    # Bonds of the two sides of the sheet stretch and shrink by its curvature: their mean does not.
    assert changes[1] == pytest.approx(changes[0] / 4, rel=0.05)


def test_atoms_lie_along_the_local_normal() -> None:
    """The two Se of a column keep their distance and point along the normal of the field."""
    field = draw_height_field(np.random.default_rng(4), 3.0, 60.0)
    points = grid(100.0, 12)
    upper, lower = (ripple(np.insert(points, 2, z, axis=1), field) for z in (1.67, -1.67))
    _, slope_x, slope_y = evaluate_height(field, points)
    normal = np.stack([-slope_x, -slope_y, np.ones(len(points))], 1)
    normal /= np.linalg.norm(normal, axis=1)[:, None]
    np.testing.assert_allclose(upper - lower, 3.34 * normal, atol=1e-12)
    assert np.abs(slope_x).max() > 0.2


def test_a_rippled_field_has_no_missing_sites() -> None:
    """The sites of a small rippled, tilted field are those of a large one over the same place."""
    settings = {
        "ripples": {"amplitude": "6 A", "wavelength": "70 A"},
        "tilt": {"x": "25 deg", "y": "-18 deg"},
        "rotation": "0.7 rad",
    }
    made = sample(recipe(WSE2, **settings), (31.0, 27.0), 3)
    streams = Streams(5)
    field = draw_height_field(streams("structure/ripples", 3), 6.0, 70.0)
    perfect = sample(recipe(WSE2, rotation="0.7 rad"), (31.0, 27.0), 3).positions
    # From the perfect sites in the field the lattice beyond it.
    first, second = (
        3.282 * np.array([[np.cos(angle), np.sin(angle), 0.0]])
        for angle in (0.7, 0.7 + 2 * np.pi / 3)
    )
    shifts = [i * first + j * second for i in range(-15, 16) for j in range(-15, 16)]
    sites = np.concatenate([perfect + shift for shift in shifts])
    sites = sites[np.unique(sites.round(5), axis=0, return_index=True)[1]]
    sites[:, 2] -= np.mean([perfect[:, 2].min(), perfect[:, 2].max()])
    middle = np.array([15.5, 13.5, 0.0])
    lean = Rotation.from_rotvec([np.deg2rad(18), np.deg2rad(25), 0]).as_matrix()
    placed = middle + (ripple(sites, field) - middle) @ lean.T
    inside = np.all((placed[:, :2] >= 0) & (placed[:, :2] < [31.0, 27.0]), axis=1)
    placed = placed[inside]
    placed[:, 2] += 2.0 - placed[:, 2].min()
    assert len(made.positions) == len(placed)
    assert cKDTree(placed).query(made.positions)[0].max() < 1e-4


@pytest.mark.parametrize("x, y", ((0.3, 0.0), (0.0, -0.2), (0.25, 0.4), (0.0, 0.0)))
def test_the_normal_leans_towards_the_tilt(x: float, y: float) -> None:
    matrix = tilt_matrix(x, y)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    normal = matrix @ [0, 0, 1]
    angle = np.hypot(x, y)
    assert normal[2] == pytest.approx(np.cos(angle))
    if angle > 0:
        np.testing.assert_allclose(normal[:2], np.sin(angle) * np.array([x, y]) / angle)


def test_strain_lengthens_the_lattice_in_its_own_frame() -> None:
    """2 % along a zigzag direction and 1 % of shear, whatever the rotation; z stays."""
    strain = {"xx": 0.02, "yy": -0.01, "xy": 0.01}
    for rotation in (0.0, 1.1):
        made = sample(recipe(GRAPHENE, strain=strain, rotation=f"{rotation} rad"), (60.0, 60.0))
        tree = cKDTree(made.positions)
        step = 2.461 * np.array([1.02, 0.01])
        turn = np.array(
            [[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]]
        )
        moved = made.positions + np.append(turn @ step, 0.0)
        inner = np.all((moved[:, :2] > 0.1) & (moved[:, :2] < 59.9), axis=1)
        assert inner.sum() > 1000
        assert tree.query(moved[inner])[0].max() < 1e-9
        assert np.ptp(made.positions[:, 2]) == 0.0
