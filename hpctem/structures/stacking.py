"""How layers of a two-dimensional material lie upon one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctem.structures.symmetry import classify_lattice, plane_lattice
from hpctem.structures.unit_cells import Material


@dataclass(frozen=True)
class Placement:
    """Where a layer lies: an atom of the material at r comes to r'.

    In the plane r' = R(angle) (s r + shift) with s = -1 for a layer that is turned by 180 degrees
    about z, else 1; along z it is raised by z. z: A. shift: (x, y) A. angle: rad, from +x to +y.
    """

    z: float
    shift: tuple[float, float]
    angle: float
    turned: bool


def stack_layers(
    material: Material, count: int, distance: float, stacking: str, twist: float = 0.0
) -> list[Placement]:
    """Place layers one upon the other, the lowest first and as the material stands.

    count: number of layers. distance: A, between their middles. stacking: AA, each over the other;
    AB, every second one shifted by a third of the cell (of a hexagonal one along its long diagonal,
    so that one sublattice comes over the other: Bernal graphene); AA', every second one
    turned by 180 degrees about the widest opening of the layer (2H MX2, hexagonal boron nitride).
    twist: rad, by which each is turned from the one below.
    """
    shift = (0.0, 0.0)
    if stacking == "AB":
        shift = _third(material)
    elif stacking == "AA'":
        x, y = find_opening(material)
        shift = (2.0 * x, 2.0 * y)
    return [
        Placement(
            k * distance,
            shift if k % 2 else (0.0, 0.0),
            k * twist,
            stacking == "AA'" and k % 2 == 1,
        )
        for k in range(count)
    ]


def find_opening(material: Material) -> tuple[float, float]:
    """The point (x, y) in A about which AA' stacking turns a layer.

    In a hexagonal lattice the widest opening of the layer: of the three axes of threefold symmetry
    that pass through the first atom or a third of the cell beside it, the one farthest from all
    atoms in projection, the first of equal ones. In other lattices the first atom.
    """
    atoms = material.positions[:, :2]
    x, y = _third(material)
    candidates = atoms[:1]
    if classify_lattice(*plane_lattice(material)) == "hexagonal":
        candidates = atoms[0] + np.array([(0.0, 0.0), (x, y), (-x, -y)])
    cell = material.cell[:2, :2]
    steps = np.stack(np.meshgrid((-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2)), -1).reshape(-1, 2)
    images = (atoms[:, None] + steps @ cell).reshape(-1, 2)
    apart = np.linalg.norm(candidates[:, None] - images, axis=2).min(axis=1)
    farthest = candidates[int(np.argmax(np.round(apart, 3)))]
    return float(farthest[0]), float(farthest[1])


def _third(material: Material) -> tuple[float, float]:
    """The vector in A by which AB stacking shifts a layer.

    A third of the long diagonal of a hexagonal cell, whichever of the six points most towards +y;
    of another cell a third of its diagonal a + b.
    """
    p, q = plane_lattice(material)
    if classify_lattice(p, q) == "hexagonal":
        p = -p if float(p @ q) > 0 else p
        six = np.array([p + 2 * q, q - p, -2 * p - q, -p - 2 * q, p - q, 2 * p + q]) / 3
        x, y = max(six.tolist(), key=lambda one: (round(one[1], 6), round(one[0], 6)))
    else:
        x, y = ((material.cell[0, :2] + material.cell[1, :2]) / 3).tolist()
    return x, y
