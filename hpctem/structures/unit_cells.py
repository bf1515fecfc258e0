"""Unit cells of what fills the field of view: two-dimensional materials and bulk crystals.

A two-dimensional material stands with its normal along +z, its first vector along +x and the
second towards +y; its third vector is empty but for the layer. Whether a periodic cell holds a
layer or a bulk crystal is told by its gaps: a layer is what has more than GAP of vacuum along one
of the cell's axes and only there (van der Waals gaps reach 3.6 A between the planes of atoms).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from hpctem.structures.volumes import to_cartesian

GAP = 6.0  # A, of vacuum along an axis: more of it and what lies between is a layer
CLOSEST = 0.5  # A, between any two atoms
HEAVIEST = 103  # the scattering factors end here


@dataclass(frozen=True)
class Material:
    """A unit cell and what its atoms are to the campaign.

    cell: (3, 3) float64 A, one vector a row. positions: (k, 3) float64 A, Cartesian. numbers: (k,)
    uint8. classes: (k,) uint8, index of each atom's class of sites in class_names. name: as it
    stands in tables ('1H-WSe2', 'SrTiO3'). periodic: 2 for a layer, which then lies in the x-y
    plane with its lowest atom at z = 0, or 3 for a bulk crystal. identifier: prototype, name of the
    file, or the database's name of the row.
    """

    cell: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    name: str
    periodic: int
    identifier: str

    @property
    def height(self) -> float:
        """Distance in A from the lowest to the highest atom along z."""
        return float(np.ptp(self.positions[:, 2]))


def stand_up(cell: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | str:
    """Tell a layer from a bulk crystal, and make the layer stand with its normal along +z.

    cell: (3, 3) float64 A. positions: (k, 3) float64 A. Returns cell, positions and the number of
    directions in which the material is periodic, 2 or 3 (a bulk crystal keeps its cell); or, where
    it is neither, the reason as a text that follows the material's name: 'is a chain ...'.
    """
    if not abs(volume := float(np.linalg.det(cell))) > 1e-3:
        return "is not periodic in two dimensions"
    reciprocal = np.linalg.inv(cell)
    fractional = positions @ reciprocal
    # Planes of the lattice are 1 / |reciprocal vector| apart.
    spacings = 1.0 / np.sqrt((reciprocal**2).sum(axis=0))
    gaps = [_largest_gap(fractional[:, axis]) for axis in range(3)]
    empty = [axis for axis in range(3) if gaps[axis][0] * spacings[axis] > GAP]
    if not empty:
        return cell, to_cartesian(fold(fractional), cell), 3
    if len(empty) > 1:
        what = "a chain" if len(empty) == 2 else "a molecule"
        return f"is {what} with vacuum about it"
    axis = empty[0]
    # The layer begins above the gap, so that it never lies in two parts.
    above = fractional[:, axis] - gaps[axis][1]
    fractional[:, axis] = above - np.floor(above + 1e-9)
    a, b = cell[axis - 2], cell[axis - 1]
    if volume < 0:
        a, b = b, a
    normal = reciprocal[:, axis] * spacings[axis]
    return (*_lay_flat(a, b, normal, spacings[axis], to_cartesian(fractional, cell)), 2)


def _lay_flat(
    a: np.ndarray, b: np.ndarray, normal: np.ndarray, period: float, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a layer so that a lies along +x, b towards +y, the normal along +z.

    a, b, normal: (3,), right-handed. period: A, along the normal. positions: (k, 3) float64 A.
    Returns the cell and the positions within it, the lowest at z = 0.
    """
    width = math.sqrt(float(a @ a))
    (x0, x1, x2), (z0, z1, z2) = (a / width).tolist(), normal.tolist()
    y = (z1 * x2 - z2 * x1, z2 * x0 - z0 * x2, z0 * x1 - z1 * x0)
    axes = np.array([(x0, x1, x2), y, (z0, z1, z2)])
    bx, by, _ = (axes @ b).tolist()
    turned = to_cartesian(positions, axes.T)
    v = fold(turned[:, 1] / by)
    u = fold((turned[:, 0] - turned[:, 1] / by * bx) / width)
    flat = np.stack([u * width + v * bx, v * by, turned[:, 2] - turned[:, 2].min()], axis=1)
    plane = np.array([[width, 0.0, 0.0], [bx, by, 0.0], [0.0, 0.0, period]])
    # Rounding takes away what the inverse leaves different from one processor to the next.
    return np.round(plane, 9) + 0.0, np.round(flat, 9) + 0.0


def fold(fractional: np.ndarray) -> np.ndarray:
    """Fractional coordinates in [0, 1), those within rounding of 1 at 0."""
    return np.round(fractional, 10) % 1.0


def _largest_gap(coordinates: np.ndarray) -> tuple[float, float]:
    """Width of the largest gap of fractional coordinates round the circle, and where it ends."""
    around = np.sort(fold(coordinates))
    gaps = around - np.roll(around, 1)
    gaps[0] += 1.0
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), float(around[widest])


def shortest_distance(cell: np.ndarray, positions: np.ndarray, periodic: int) -> float:
    """Shortest distance in A between two atoms; of a layer, within the layer.

    cell: (3, 3) float64 A. positions: (k, 3) float64 A. Counts the cell and those that touch it:
    the sites of a cell much more oblique than it need be may lie closer across others.
    """
    steps = itertools.product(*[(-1, 0, 1)] * periodic, *[(0,)] * (3 - periodic))
    apart = positions[:, None] - positions[None]
    shortest = math.inf
    for step in steps:
        moved = apart + to_cartesian(np.array([step], dtype=float), cell)
        squares = np.einsum("ijk,ijk->ij", moved, moved)
        if not any(step):
            np.fill_diagonal(squares, np.inf)
        shortest = min(shortest, float(squares.min()))
    return math.sqrt(shortest)


def describe_fault(cell: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> str:
    """What makes a cell unfit to be imaged, as a text that follows its name, or ''."""
    if len(numbers) == 0:
        return "holds no atoms"
    if positions.shape != (len(numbers), 3) or not np.all(np.isfinite(positions)):
        return f"has no readable positions of its {len(numbers)} atoms"
    if cell.shape != (3, 3) or not np.all(np.isfinite(cell)):
        return "has no readable cell"
    if int(np.min(numbers)) < 1:
        return "holds atoms of unknown element"
    if int(np.max(numbers)) > HEAVIEST:
        return f"holds an atom of number {int(np.max(numbers))}, beyond the {HEAVIEST} that scatter"
    return ""


def write_formula(numbers: np.ndarray) -> str:
    """Chemical formula of atomic numbers, reduced: metals first, then by the alphabet: 'MoS2'."""
    from ase.data import chemical_symbols
    from ase.formula import Formula

    values, counts = np.unique(numbers, return_counts=True)
    divisor = math.gcd(*counts.tolist())
    reduced = {chemical_symbols[v]: int(n) // divisor for v, n in zip(values, counts, strict=True)}
    return Formula.from_dict(reduced).format("metal")
