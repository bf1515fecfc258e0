"""Distortions of a sheet: strain, rotation, ripples and tilt.

A crystal first lies flat: its sites have a place (x, y) in the plane and a height z above the
middle of the specimen. Strain and rotation act in the plane. Ripples then lift every site by a
smooth random height field and let the line through the layer follow the local normal; the tilt
turns all about the middle of the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.structures.volumes import to_cartesian

WAVES = 24  # plane waves that a height field is made of
SHORTEST, LONGEST = 0.5, 1.5  # of their wavelengths, in units of the mean
NODES = 6  # of the spline for the shortest of them


@dataclass(frozen=True)
class HeightField:
    """A sum of plane waves, h(r) = height sum_m cos(k_m r + phase_m).

    vectors: (WAVES, 2) float64 rad/A. phases: (WAVES,) rad. height: amplitude of each wave, A.
    spacing: A, between the nodes of the cubic spline by which it is evaluated.
    """

    vectors: np.ndarray
    phases: np.ndarray
    height: float
    spacing: float

    @property
    def highest(self) -> float:
        """A height in A that the field exceeds nowhere."""
        return self.height * WAVES

    @property
    def steepest(self) -> float:
        """A slope that the field exceeds nowhere."""
        return self.height * float(np.sqrt((self.vectors**2).sum(axis=1)).sum())


def draw_height_field(
    generator: np.random.Generator, amplitude: float, wavelength: float
) -> HeightField:
    """Draw a smooth random height field, isotropic and the same everywhere in its statistics.

    amplitude: its rms height over a large area, A. wavelength: mean wavelength, A; those of the
    waves are uniform from 0.5 to 1.5 of it, their directions and phases uniform.
    """
    lengths, azimuths, phases = generator.random((3, WAVES))
    wavelengths = wavelength * (SHORTEST + (LONGEST - SHORTEST) * lengths)
    azimuths = 2.0 * math.pi * azimuths
    directions = np.stack([np.cos(azimuths), np.sin(azimuths)], axis=1)
    return HeightField(
        vectors=2.0 * math.pi / wavelengths[:, None] * directions,
        phases=2.0 * math.pi * phases,
        height=amplitude * math.sqrt(2.0 / WAVES),
        spacing=SHORTEST * wavelength / NODES,
    )


def evaluate_height(field: HeightField, points: np.ndarray) -> np.ndarray:
    """Height and slopes (3, n) float64 of a field at points (n, 2) A: h in A, dh/dx, dh/dy.

    The waves are summed at the nodes of a grid and a cubic B-spline runs between them, each wave
    made larger by what the spline takes from it, (sinc kx s sinc ky s)^-4: exact to 1e-3 of the
    amplitude, at a cost that does not grow with points times waves.
    """
    from scipy.ndimage import map_coordinates

    low = np.floor(points.min(axis=0) / field.spacing) - 2
    shape = np.floor(points.max(axis=0) / field.spacing) - low + 4
    kx, ky = field.vectors.T
    taken = np.sinc(field.vectors * field.spacing / (2.0 * math.pi)).prod(axis=1) ** 4
    x, y = ((low[a] + np.arange(int(shape[a]))) * field.spacing for a in (0, 1))
    along_x = np.exp(1j * kx[:, None] * x)
    along_y = np.exp(1j * (ky[:, None] * y + field.phases[:, None]))
    along_y *= (field.height / taken)[:, None]
    at = (points / field.spacing - low).T[::-1]
    found = np.empty((3, len(points)))
    for row, factor in enumerate((np.ones(WAVES), 1j * kx, 1j * ky)):
        nodes = np.einsum("mj,mi->ji", along_y * factor[:, None], along_x).real
        map_coordinates(nodes, at, output=found[row], order=3, mode="nearest", prefilter=False)
    return found


def ripple(positions: np.ndarray, field: HeightField) -> np.ndarray:
    """Bend a flat specimen to a height field; positions (n, 3) float64 A, z from its middle.

    A site goes to (x, y, h) + z n with the field's unit normal n at (x, y): the specimen keeps its
    thickness, and bonds change their lengths in the second order of the slope only (above the
    middle, also by the curvature that stretches them).
    """
    x, y, z = positions.T
    h, slope_x, slope_y = evaluate_height(field, positions[:, :2])
    along = z / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    return np.stack([x - along * slope_x, y - along * slope_y, h + along], axis=1)


def tilt_matrix(x: float, y: float) -> np.ndarray:
    """Rotation (3, 3) float64 that leans the normal +z towards +x by x rad and towards +y by y.

    The turn is by sqrt(x^2 + y^2) about the axis in the plane that is perpendicular to (x, y)
    (Rodrigues' formula); r' = R r.
    """
    angle = math.sqrt(x * x + y * y)
    if angle == 0.0:
        return np.eye(3)
    u, v = x / angle, y / angle
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array(
        [
            [1.0 - (1.0 - cos) * u * u, -(1.0 - cos) * u * v, sin * u],
            [-(1.0 - cos) * u * v, 1.0 - (1.0 - cos) * v * v, sin * v],
            [-sin * u, -sin * v, cos],
        ]
    )


def turn_matrix(angle: float) -> np.ndarray:
    """Rotation (3, 3) float64 in the plane by an angle in rad from +x to +y; r' = R r."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def strain_matrix(xx: float, yy: float, xy: float) -> np.ndarray:
    """Homogeneous strain (3, 3) float64 in the plane of the crystal's own frame; r' = E r."""
    return np.array([[1.0 + xx, xy, 0.0], [xy, 1.0 + yy, 0.0], [0.0, 0.0, 1.0]])


def transform(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrix (3, 3) times each of the vectors (n, 3); every product rounds by itself."""
    return to_cartesian(vectors, matrix.T)


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The matrix (3, 3) of one map after another."""
    return to_cartesian(second, first)
