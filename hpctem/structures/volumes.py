"""Cut volumes out of crystals."""

from __future__ import annotations

import numpy as np

from hpctem.structures.lattices import Crystal


def carve_sphere(
    crystal: Crystal, radius: float, centre: np.ndarray | tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the crystal in a sphere, in the crystal's own frame.

    radius in A; centre: (3,) float64, A, measured from the crystal's origin. Returns positions
    (n, 3) float64 in A relative to the centre and numbers (n,) uint8, in the order of the lattice.
    """
    centre = np.asarray(centre, dtype=float)
    # Lattice plane families are 1 / |reciprocal vector| apart: so far the sphere reaches in cells.
    reciprocal = np.linalg.inv(crystal.cell)
    reach = radius * np.linalg.norm(reciprocal, axis=0)
    middle = centre @ reciprocal
    ranges = [
        np.arange(np.floor(low) - 1, np.ceil(high) + 1)
        for low, high in zip(middle - reach, middle + reach, strict=True)
    ]
    corners = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    # A cell none of whose atoms can lie in the sphere is dropped before its atoms are made.
    diagonal = np.abs(crystal.cell).sum(axis=0)
    from_centre = to_cartesian(corners, crystal.cell) - centre
    near = (from_centre**2).sum(axis=1) <= (radius + np.sqrt((diagonal**2).sum())) ** 2
    origins = from_centre[near]
    basis = to_cartesian(crystal.fractional, crystal.cell)
    positions = (origins[:, None] + basis).reshape(-1, 3)
    numbers = np.tile(crystal.numbers, len(origins))
    inside = (positions**2).sum(axis=1) <= radius**2
    return positions[inside], numbers[inside]


def within_slab(positions: np.ndarray, normal: np.ndarray, low: float, high: float) -> np.ndarray:
    """Which points lie between two parallel planes: low <= normal . r < high, (n,) bool.

    positions: (n, 3) float64 A. normal: (3,) unit vector. low, high: A, may be infinite (then the
    volume is a half-space).
    """
    height = positions[:, 0] * normal[0] + positions[:, 1] * normal[1] + positions[:, 2] * normal[2]
    return (height >= low) & (height < high)


def to_cartesian(fractional: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Cartesian positions (n, 3) float64 in A of fractional ones; the cell's rows are its vectors.

    Written out rather than as a matrix product: every operation rounds once, so that the atoms
    are the same to the last bit on any processor and with any BLAS.
    """
    f = fractional
    return f[:, 0, None] * cell[0] + f[:, 1, None] * cell[1] + f[:, 2, None] * cell[2]


def wrap(positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions (n, 3) float64 A moved into the period, [0, l), along every axis of finite l."""
    finite = np.isfinite(lengths)
    wrapped = positions - np.floor(positions / lengths) * np.where(finite, lengths, 0.0)
    return np.where(finite & (wrapped >= lengths), 0.0, wrapped)
