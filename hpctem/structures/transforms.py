"""Orientations: unit quaternions (w, x, y, z) that turn the crystal's frame into the image's."""

from __future__ import annotations

import math

import numpy as np

from hpctem.structures.lattices import Crystal
from hpctem.structures.volumes import to_cartesian


def draw_uniform_quaternion(generator: np.random.Generator) -> np.ndarray:
    """Draw an orientation uniform on SO(3); returns (4,) float64 w, x, y, z with w >= 0.

    A uniform point of the unit sphere in four dimensions from two uniform points of the unit disc
    (Marsaglia, Ann. Math. Stat. 43, 645 (1972), section 4): the distribution of Shoemake
    (Graphics Gems III, 124 (1992)) with square roots alone, which round alike on every machine.
    """
    a, b, s = _draw_in_disc(generator)
    c, d, t = _draw_in_disc(generator)
    scale = math.sqrt((1.0 - s) / t)
    return _normalise(np.array([a, b, c * scale, d * scale]))


def _draw_in_disc(generator: np.random.Generator) -> tuple[float, float, float]:
    while True:
        x, y = 2.0 * generator.random(2) - 1.0
        square = x * x + y * y
        if 0.0 < square < 1.0:
            return x, y, square


def _normalise(quaternion: np.ndarray) -> np.ndarray:
    """The unit quaternion with w >= 0 (q and -q are the same rotation)."""
    w, x, y, z = quaternion
    length = math.sqrt(w * w + x * x + y * y + z * z)
    return quaternion / math.copysign(length, w)


def align_zone_axis(crystal: Crystal, zone_axis: tuple[int, int, int], angle: float) -> np.ndarray:
    """Orientation that puts the direction [uvw] along the beam, +z; (4,) float64 w, x, y, z.

    zone_axis: integers u, v, w on the crystal's cell vectors, not all zero. angle: rad, the azimuth
    (from +x to +y) of the first cell vector that is not parallel to the zone axis, in projection.
    """
    axis = _unit(to_cartesian(np.array([zone_axis], dtype=float), crystal.cell)[0])
    for vector in crystal.cell:
        in_plane = vector - _dot(vector, axis) * axis
        if _dot(in_plane, in_plane) > 1e-6 * _dot(vector, vector):
            break
    e1 = _unit(in_plane)
    e2 = np.cross(axis, e1)
    cos, sin = math.cos(angle), math.sin(angle)
    # Rows: the image's x, y, z in the crystal's frame, so that e1 lands on (cos, sin, 0).
    return matrix_to_quaternion(np.array([cos * e1 - sin * e2, sin * e1 + cos * e2, axis]))


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) float64 of a unit quaternion (4,) w, x, y, z; r' = R r."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion (4,) float64 w, x, y, z, w >= 0, of a rotation matrix (3, 3).

    Takes the largest of the four components from the trace (Shepperd, J. Guid. Control 1, 223
    (1978)), so that none is divided by a small number.
    """
    m = matrix
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    squares = np.array([trace, m[0, 0], m[1, 1], m[2, 2]])
    largest = int(np.argmax(squares))
    skew = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    q = np.empty(4)
    if largest == 0:
        q[0], q[1:] = 1.0 + trace, skew
    else:
        i = largest - 1
        q[0] = skew[i]
        q[1:] = m[i] + m[:, i]
        q[largest] = 1.0 + 2.0 * m[i, i] - trace
    return _normalise(q)


def rotate(positions: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Turn positions (n, 3) float64 A about the origin by a unit quaternion (4,) w, x, y, z."""
    return to_cartesian(positions, rotation_matrix(quaternion).T)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(_dot(vector, vector))
