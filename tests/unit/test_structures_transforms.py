"""Orientations: uniform on SO(3), and the conventions of quaternions and zone axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import chisquare, kstest

from hpctem.structures.lattices import build_crystal
from hpctem.structures.transforms import (
    align_zone_axis,
    draw_uniform_quaternion,
    matrix_to_quaternion,
    rotate,
    rotation_matrix,
)

N = 20000


@pytest.fixture(scope="module")
def quaternions() -> np.ndarray:
    generator = np.random.default_rng(7)
    return np.array([draw_uniform_quaternion(generator) for _ in range(N)])


def test_quaternions_are_units_of_one_hemisphere(quaternions: np.ndarray) -> None:
    np.testing.assert_allclose((quaternions**2).sum(axis=1), 1.0, atol=1e-12)
    assert quaternions[:, 0].min() >= 0


def test_orientations_follow_the_haar_measure(quaternions: np.ndarray) -> None:
    # Rotation angle: density (1 - cos t) / pi on [0, pi]; axis uniform on the sphere.
    angle = 2 * np.arccos(np.clip(quaternions[:, 0], -1, 1))
    assert kstest(angle, lambda t: (t - np.sin(t)) / math.pi).pvalue > 1e-3
    axis = quaternions[:, 1:] / np.linalg.norm(quaternions[:, 1:], axis=1, keepdims=True)
    for component in axis.T:
        assert kstest(component, lambda u: (u + 1) / 2).pvalue > 1e-3
    # Where the crystal's three axes point: uniform in height and in azimuth.
    for column in range(3):
        pointing = np.array([rotation_matrix(q)[:, column] for q in quaternions])
        assert kstest(pointing[:, 2], lambda u: (u + 1) / 2).pvalue > 1e-3
        azimuth = np.arctan2(pointing[:, 1], pointing[:, 0])
        counts = np.histogram(azimuth, bins=24, range=(-math.pi, math.pi))[0]
        assert chisquare(counts).pvalue > 1e-3


def test_moments_of_the_rotation_matrix(quaternions: np.ndarray) -> None:
    matrices = np.array([rotation_matrix(q) for q in quaternions])
    np.testing.assert_allclose(matrices.mean(axis=0), 0.0, atol=5 * math.sqrt(1 / 3 / N))
    # <R_ij R_kl> = delta_ik delta_jl / 3
    second = np.einsum("nij,nkl->ijkl", matrices, matrices) / N
    wanted = np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3
    np.testing.assert_allclose(second, wanted, atol=5 * math.sqrt(0.1 / N))


unit = st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)


@given(st.tuples(unit, unit, unit, unit))
def test_matrix_and_quaternion_agree_with_scipy(q: tuple[float, ...]) -> None:
    quaternion = np.array(q) / math.copysign(np.linalg.norm(q), q[0])
    matrix = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix()
    np.testing.assert_allclose(rotation_matrix(quaternion), matrix, atol=1e-12)
    np.testing.assert_allclose(matrix_to_quaternion(matrix), quaternion, atol=1e-9)
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(rotate(points, quaternion), points @ matrix.T, atol=1e-12)


@pytest.mark.parametrize("w", [0.0, 1e-9])
def test_half_turns_keep_their_axis(w: float) -> None:
    for axis in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8]):
        matrix = 2 * np.outer(axis, axis) - np.eye(3)
        back = rotation_matrix(matrix_to_quaternion(matrix))
        np.testing.assert_allclose(back, matrix, atol=1e-9)


@pytest.mark.parametrize("lattice", ["fcc", "wurtzite"])
@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1, -2), (-1, 2, 3)])
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0])
def test_zone_axis_points_along_the_beam(
    lattice: str, zone: tuple[int, int, int], angle: float
) -> None:
    crystal = (
        build_crystal("fcc", (79,), 4.0)
        if lattice == "fcc"
        else build_crystal("wurtzite", (48, 34), 4.39, 7.17)
    )
    quaternion = align_zone_axis(crystal, zone, angle)
    turned = rotate(crystal.cell, quaternion)
    direction = np.array(zone) @ turned
    assert direction[2] == pytest.approx(np.linalg.norm(direction))
    in_plane = np.linalg.norm(turned[:, :2], axis=1) > 1e-6
    first = turned[in_plane][0]
    assert math.remainder(math.atan2(first[1], first[0]) - angle, 2 * math.pi) == pytest.approx(
        0.0, abs=1e-9
    )


def test_azimuth_runs_from_x_to_y() -> None:
    crystal = build_crystal("fcc", (79,), 4.0)
    turned = rotate(crystal.cell, align_zone_axis(crystal, (0, 0, 1), math.pi / 2))
    np.testing.assert_allclose(turned[0], [0, 4.0, 0], atol=1e-12)
