"""Bulk crystals seen along a zone axis: the same lattice in a cell whose third vector is the beam.

With [uvw] of coprime integers as the third vector of a basis, the other two can be chosen so that
the three span the crystal's lattice and nothing coarser (Bezout's identity, twice): the cell keeps
its atoms, and its first two vectors, projected, span the lattice that the beam sees.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hpctem.errors import ConfigError
from hpctem.structures.lattices import Crystal
from hpctem.structures.transforms import align_zone_axis, rotation_matrix
from hpctem.structures.unit_cells import Material, fold
from hpctem.structures.volumes import to_cartesian

ZoneAxis = tuple[int, int, int]


def orient(material: Material, zone_axis: ZoneAxis) -> Material:
    """The bulk crystal in a cell whose third vector is the zone axis, along +z.

    zone_axis: integers u, v, w on the material's vectors, not all zero; common factors are taken
    out. The crystal is turned so that its first vector that is not along the axis points along +x
    in projection (as `transforms.align_zone_axis` puts it). The cell's first two vectors are short
    in projection, the first towards +x, right-handed about +z, and may lean along z; [0, 0, 1]
    keeps the vectors of the cell. The atoms, as many as before, are those of the material turned,
    each by a vector of the lattice at 0 <= fraction < 1 of the new cell. Raises ConfigError for the
    axis [0, 0, 0].
    """
    axis = reduce_axis(zone_axis)
    crystal = Crystal(material.cell, np.zeros((0, 3)), material.numbers, material.name)
    turn = rotation_matrix(align_zone_axis(crystal, axis, 0.0))
    if axis == (0, 0, 1):
        rows = np.eye(3)
    else:
        rows = _shorten(complete_basis(axis), to_cartesian(material.cell, turn.T))
    cell = to_cartesian(to_cartesian(rows, material.cell), turn.T)
    if float(np.linalg.det(cell)) < 0:
        cell[1] = -cell[1]
    cell = np.round(cell, 12) + 0.0
    cell[2, :2] = 0.0
    positions = to_cartesian(material.positions, turn.T)
    fractional = fold(positions @ np.linalg.inv(cell))
    return replace(material, cell=cell, positions=to_cartesian(fractional, cell))


def reduce_axis(zone_axis: ZoneAxis) -> ZoneAxis:
    """The zone axis without common factors; raises ConfigError for [0, 0, 0]."""
    divisor = math.gcd(*zone_axis)
    if divisor == 0:
        raise ConfigError(
            "structure.zone_axis [0, 0, 0] is no direction; give three integers, as [0, 0, 1]"
        )
    u, v, w = zone_axis
    return u // divisor, v // divisor, w // divisor


def complete_basis(axis: ZoneAxis) -> np.ndarray:
    """A basis of the integer vectors whose third member is the axis, of coprime integers.

    Returns (3, 3) float64 of whole numbers and determinant 1, one vector a row.
    """
    u, v, w = axis
    if u == v == 0:
        return np.array([[1, 0, 0], [0, w, 0], [0, 0, w]], dtype=float)
    g, s, t = _extended_gcd(u, v)
    one, p, q = _extended_gcd(g, w)
    assert one == 1
    # (u, v, 0) / g and (-t, s, 0) span the plane; (g, w) and (-q, p) what is left.
    first = (-t, s, 0)
    second = (-q * (u // g), -q * (v // g), p)
    rows = np.array([second, first, axis], dtype=float)
    return rows if np.linalg.det(rows) > 0 else rows[[1, 0, 2]]


def _extended_gcd(a: int, b: int) -> tuple[int, int, int]:
    """(g, s, t) with g = gcd(a, b) = s a + t b > 0."""
    old, new, s_old, s_new, t_old, t_new = a, b, 1, 0, 0, 1
    while new:
        quotient = old // new
        old, new = new, old - quotient * new
        s_old, s_new = s_new, s_old - quotient * s_new
        t_old, t_new = t_new, t_old - quotient * t_new
    return (old, s_old, t_old) if old > 0 else (-old, -s_old, -t_old)


def _shorten(rows: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The basis with its first two vectors shortest in projection, and then along z.

    rows: (3, 3) whole numbers, the third the zone axis. cell: (3, 3) float64 A, the axis along z.
    """
    first, second = reduce_pair(rows[0], rows[1], cell[:, :2])
    length = float((rows[2] @ cell)[2])
    if (first @ cell)[0] < 0:
        first, second = -first, -second
    flat = [row - round(float((row @ cell)[2]) / length) * rows[2] for row in (first, second)]
    return np.array([*flat, rows[2]])


def reduce_pair(
    first: np.ndarray, second: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce two vectors to the shortest of the plane lattice that they span (Gauss).

    first, second: (n,) whole numbers on the rows of cell, (n, 2) float64 A. Returns the shortest
    and the next, in whole numbers; the second reaches over the first by at most half of it.
    """
    while True:
        p, q = first @ cell, second @ cell
        if float(q @ q) < float(p @ p) * (1.0 - 1e-9):
            first, second, p, q = second, first, q, p
        # Halves stay as they are, or rounding would send them to and fro.
        share = float(p @ q) / float(p @ p)
        steps = math.copysign(math.ceil(abs(share) - 0.5 - 1e-9), share)
        if steps == 0:
            return first, second
        second = second - steps * first
