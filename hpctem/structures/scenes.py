"""Scenes: particles on a substrate in one periodic cell.

The beam runs along +z; the substrate fills z from its lower surface up to `surface`, and a particle
of radius r embedded by the fraction f has its centre at surface + r (1 - f). The cell ends MARGIN
beyond the outermost atoms on both sides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import SampleError
from hpctem.structures.volumes import wrap

MARGIN = 2.0  # A


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, NumPy dtype, units and meaning.

    With categories the table holds indices into them (dtype is an integer), rows hold the name.
    """

    name: str
    dtype: str
    units: str
    description: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """What is imaged, with everything drawn and derived for it.

    positions: (n, 3) float64 A, columns x, y, z with 0 <= x < lx and 0 <= y < ly. numbers: (n,)
    uint8. tags: (n,) uint8, 0 for the substrate, k for particle k; of a sheet 0 for foreign atoms,
    k for its k-th class of sites. cell: (lx, ly, height) A.
    values, particles, planar_defects: rows of the tables described in `structures.columns`; of a
    sheet values and defects, described in `structures.sheets`. periodic: whether x and y are, as
    they are not in a sheet, which is cut at its border.
    """

    positions: np.ndarray
    numbers: np.ndarray
    tags: np.ndarray
    cell: tuple[float, float, float]
    values: Mapping[str, Any] = field(default_factory=dict)
    particles: Sequence[Mapping[str, Any]] = ()
    planar_defects: Sequence[Mapping[str, Any]] = ()
    defects: Sequence[Mapping[str, Any]] = ()
    periodic: bool = True


@dataclass(frozen=True)
class Sphere:
    """A particle where it lies: centre (3,) float64 A and radius A, and its atoms.

    positions: (n, 3) float64 A, relative to the centre, numbers: (n,) uint8.
    """

    centre: np.ndarray
    radius: float
    positions: np.ndarray
    numbers: np.ndarray


def find_place(
    generator: np.random.Generator,
    cell: tuple[float, float],
    radius: float,
    placed: Sequence[tuple[float, float, float]],
    edge_distance: float,
    gap: float,
    attempts: int,
) -> tuple[float, float, int] | None:
    """Draw a place for a particle, by rejection of those too close to particles already there.

    cell: (lx, ly) A. radius: A. placed: x, y and radius in A of the others. The projected outline
    keeps edge_distance from the cell's edges and gap from every other outline and its periodic
    images. Returns x, y and the number of attempts made, or None when all attempts failed. Raises
    SampleError when the particle is larger than the cell allows.
    """
    room = [length - 2.0 * (radius + edge_distance) for length in cell]
    if min(room) < -1e-9 * min(cell):
        raise SampleError(
            f"a particle of radius {radius:g} A with {edge_distance:g} A to the edges does not fit "
            f"the cell of {cell[0]:g} x {cell[1]:g} A; enlarge the cell or bound the radius"
        )
    for attempt in range(1, attempts + 1):
        u, v = generator.random(2)
        x = radius + edge_distance + u * max(0.0, room[0])
        y = radius + edge_distance + v * max(0.0, room[1])
        if all(
            _lateral_distance(x - other_x, y - other_y, cell) >= radius + other_radius + gap
            for other_x, other_y, other_radius in placed
        ):
            return x, y, attempt
    return None


def _lateral_distance(dx: float, dy: float, cell: tuple[float, float]) -> float:
    dx -= cell[0] * round(dx / cell[0])
    dy -= cell[1] * round(dy / cell[1])
    return math.sqrt(dx * dx + dy * dy)


def make_room(
    substrate: np.ndarray, spheres: Sequence[Sphere], cell: tuple[float, float], contact: float
) -> np.ndarray:
    """Which substrate atoms stay: those outside every sphere and not in contact with its atoms.

    substrate: (n, 3) float64 A. cell: (lx, ly) A, periodic. contact: smallest distance in A from
    a particle's atom. Returns (n,) bool.
    """
    from scipy.spatial import cKDTree

    kept = np.ones(len(substrate), dtype=bool)
    for sphere in spheres:
        dx, dy, dz = (substrate - sphere.centre).T
        dx = dx - cell[0] * np.round(dx / cell[0])
        dy = dy - cell[1] * np.round(dy / cell[1])
        square = dx * dx + dy * dy + dz * dz
        kept &= square > sphere.radius**2
        near = np.flatnonzero(kept & (square <= (sphere.radius + contact) ** 2))
        if len(near) == 0 or len(sphere.positions) == 0:
            continue
        # Vectors from the centre, so that one period of the box holds particle and neighbours.
        height = 2.0 * sphere.radius + 4.0 * contact
        box = np.array([cell[0], cell[1], height])
        middle = np.array([0.0, 0.0, height / 2])
        tree = cKDTree(wrap(sphere.positions + middle, box), boxsize=box)
        offsets = np.stack([dx[near], dy[near], dz[near]], axis=1) + middle
        distances, _ = tree.query(wrap(offsets, box), distance_upper_bound=contact)
        kept[near[distances < contact]] = False
    return kept


def assemble(
    cell: tuple[float, float],
    substrate: np.ndarray,
    substrate_numbers: np.ndarray,
    spheres: Sequence[Sphere],
    contact: float,
) -> tuple[Structure, float]:
    """Put particles into a substrate.

    cell: (lx, ly) A. substrate: (n, 3) float64 A and numbers (n,) uint8, periodic in x and y.
    spheres: particles 1, 2, ... in the same frame. contact: smallest distance in A between atoms
    of substrate and particle; the substrate's give way. Returns the structure, its atoms ordered
    substrate first, and the shift in A along z from the frame given to the structure's. Raises
    SampleError when there is no atom at all.
    """
    kept = make_room(substrate, spheres, cell, contact)
    atoms = [substrate[kept], *(sphere.positions + sphere.centre for sphere in spheres)]
    numbers = [substrate_numbers[kept], *(sphere.numbers for sphere in spheres)]
    tags = [np.full(len(part), k) for k, part in enumerate(atoms)]
    positions = np.concatenate(atoms)
    if len(positions) == 0:
        raise SampleError("the structure holds no atoms: no substrate and no particle was drawn")
    lowest, highest = float(positions[:, 2].min()), float(positions[:, 2].max())
    shift = MARGIN - lowest
    height = highest - lowest + 2.0 * MARGIN
    positions = positions + np.array([0.0, 0.0, shift])
    structure = Structure(
        wrap(positions, np.array([cell[0], cell[1], math.inf])),
        np.concatenate(numbers).astype(np.uint8),
        np.concatenate(tags).astype(np.uint8),
        (cell[0], cell[1], height),
    )
    return structure, shift


def digest(structure: Structure) -> bytes:
    """BLAKE2b-128 of positions, numbers and tags (little-endian, row by row): 16 bytes."""
    hasher = hashlib.blake2b(digest_size=16)
    for array, dtype in (
        (structure.positions, "<f8"),
        (structure.numbers, "u1"),
        (structure.tags, "u1"),
    ):
        hasher.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return hasher.digest()


def write_atoms(structure: Structure, path: str | Path) -> None:
    """Write the atoms to an extended XYZ file (ASE), with the tags and the cell.

    Positions are written with eight decimals.
    """
    import ase
    from ase.io import write

    atoms = ase.Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        tags=structure.tags,
        cell=structure.cell,
        pbc=(structure.periodic, structure.periodic, False),
    )
    columns = ["symbols", "positions", "tags"]
    write(Path(path), atoms, format="extxyz", columns=columns, parallel=False)
