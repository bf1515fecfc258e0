"""Where a flake ends: its edge, holes in it, islands upon it.

All are decided in the plane of the flat specimen, before ripples, tilt and displacements. Points
are (n, 2) float64 arrays of x, y in A, answers (n,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGE_WAVES = 16
EDGE_WAVELENGTHS = (15.0, 150.0)  # A, of an edge's roughness
HARMONICS = (2, 3, 4, 5, 6, 7)  # of a rough circle; the first would only move it
INNERMOST = 0.2  # a rough circle comes no nearer to its middle, in units of its radius


@dataclass(frozen=True)
class Edge:
    """A rough line across the field, vacuum beyond it.

    point: (2,) A, on the line. normal: (2,) outward unit vector. frequencies: (EDGE_WAVES,) rad/A
    and phases: rad of the waves that it deviates by; height: amplitude of each, A.
    """

    point: np.ndarray
    normal: np.ndarray
    frequencies: np.ndarray
    phases: np.ndarray
    height: float


def draw_edge(
    generator: np.random.Generator,
    middle: np.ndarray,
    distance: float,
    direction: float,
    roughness: float,
) -> Edge:
    """Draw the course of an edge.

    middle: (2,) A, of the field. distance: A, of the line from it along the outward normal, whose
    azimuth is direction, rad. roughness: rms deviation in A from the line, by waves of log-uniform
    wavelengths from 15 to 150 A.
    """
    lengths, phases = generator.random((2, EDGE_WAVES))
    low, high = (math.log(x) for x in EDGE_WAVELENGTHS)
    normal = np.array([math.cos(direction), math.sin(direction)])
    return Edge(
        point=middle + distance * normal,
        normal=normal,
        frequencies=2.0 * math.pi * np.exp(-(low + (high - low) * lengths)),
        phases=2.0 * math.pi * phases,
        height=roughness * math.sqrt(2.0 / EDGE_WAVES),
    )


def beyond_edge(edge: Edge, points: np.ndarray) -> np.ndarray:
    """Which points lie in the vacuum beyond an edge."""
    x, y = (points - edge.point).T
    across = x * edge.normal[0] + y * edge.normal[1]
    beyond = across > 0
    near = np.flatnonzero(np.abs(across) <= edge.height * EDGE_WAVES)
    if edge.height > 0 and len(near):
        along = y[near] * edge.normal[0] - x[near] * edge.normal[1]
        waves = np.cos(along[:, None] * edge.frequencies + edge.phases)
        beyond[near] = across[near] > edge.height * waves.sum(axis=1)
    return beyond


@dataclass(frozen=True)
class Outline:
    """A rough circle, r(phi) = radius (1 + Re sum_m c_m exp(i m phi)), m in HARMONICS.

    centre: (2,) A. radius: A. coefficients: (len(HARMONICS),) complex.
    """

    centre: np.ndarray
    radius: float
    coefficients: np.ndarray


def draw_outline(
    generator: np.random.Generator, centre: np.ndarray, radius: float, roughness: float
) -> Outline:
    """Draw a rough circle; roughness is the rms deviation of its radius, as a fraction of it.

    The mean square of a harmonic falls as 1/m^2, so that the outline is smooth.
    """
    shares = np.array([1.0 / m for m in HARMONICS])
    shares *= roughness / math.sqrt(float((shares**2).sum()))
    normals = generator.standard_normal((2, len(HARMONICS)))
    return Outline(np.asarray(centre), radius, shares * (normals[0] + 1j * normals[1]))


def inside_outline(outline: Outline, points: np.ndarray) -> np.ndarray:
    """Which points lie within a rough circle."""
    farthest = outline.radius * (1.0 + float(np.abs(outline.coefficients).sum()))
    x, y = (points - outline.centre).T
    square = x * x + y * y
    inside = square < (INNERMOST * outline.radius) ** 2
    near = np.flatnonzero(~inside & (square <= farthest * farthest))
    distance = np.sqrt(square[near])
    direction = (x[near] + 1j * y[near]) / distance
    factor = np.ones(len(near))
    power = direction ** (HARMONICS[0] - 1)
    for coefficient in outline.coefficients:
        power = power * direction
        factor += (coefficient * power).real
    inside[near] = distance < outline.radius * factor
    return inside


def inside_polygon(
    centre: np.ndarray, radius: float, sides: int, azimuth: float, points: np.ndarray
) -> np.ndarray:
    """Which points lie within a regular polygon.

    centre: (2,) A. radius: A, of the circle through its corners. azimuth: rad, from +x to the
    normal of one of its sides.
    """
    x, y = (points - centre).T
    apothem = radius * math.cos(math.pi / sides)
    inside = np.ones(len(points), dtype=bool)
    for side in range(sides):
        angle = azimuth + 2.0 * math.pi * side / sides
        inside &= x * math.cos(angle) + y * math.sin(angle) <= apothem
    return inside


@dataclass(frozen=True)
class Island:
    """A piece of a further layer: a regular polygon, or a rough circle where sides is 0.

    outline: its centre, and the circle about it. azimuth: rad, of the normal of one of its sides.
    """

    outline: Outline
    sides: int
    azimuth: float

    def covers(self, points: np.ndarray) -> np.ndarray:
        """Which points it covers."""
        if self.sides == 0:
            return inside_outline(self.outline, points)
        centre, radius = self.outline.centre, self.outline.radius
        return inside_polygon(centre, radius, self.sides, self.azimuth, points)


def covered_by(islands: Sequence[Island], points: np.ndarray) -> np.ndarray:
    """Which points any of the islands covers."""
    covered = np.zeros(len(points), dtype=bool)
    for island in islands:
        covered |= island.covers(points)
    return covered


@dataclass(frozen=True)
class Cuts:
    """What is cut from a flake: beyond its edge, and in its holes."""

    edge: Edge | None
    holes: tuple[Outline, ...]

    def beyond(self, points: np.ndarray) -> np.ndarray:
        """Which points lie beyond the edge."""
        if self.edge is None:
            return np.zeros(len(points), dtype=bool)
        return beyond_edge(self.edge, points)

    def drilled(self, points: np.ndarray) -> np.ndarray:
        """Which points lie in a hole."""
        drilled = np.zeros(len(points), dtype=bool)
        for hole in self.holes:
            drilled |= inside_outline(hole, points)
        return drilled
