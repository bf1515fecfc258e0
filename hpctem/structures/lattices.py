"""Crystal lattices, by name or from a file.

Fractional positions are those of the International Tables for Crystallography, volume A
(fcc, bcc: Fm-3m, Im-3m; hcp: P6_3/mmc 2c; diamond: Fd-3m 8a, first origin; zincblende: F-43m 4a
and 4c; wurtzite: P6_3mc 2b; rocksalt: Fm-3m 4a and 4b).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError

FACE_CENTRED = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
BODY_CENTRED = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
HEXAGONAL_PAIR = ((1 / 3, 2 / 3, 0.0), (2 / 3, 1 / 3, 0.5))

LATTICES = ("fcc", "bcc", "hcp", "diamond", "zincblende", "wurtzite", "rocksalt")
HEXAGONAL = ("hcp", "wurtzite")
TWO_ELEMENTS = ("zincblende", "wurtzite", "rocksalt")

VACUUM = 20.0  # A, above a layer whose cell has no third vector


@dataclass(frozen=True)
class Crystal:
    """A periodic crystal.

    cell: (3, 3) float64, A, one lattice vector a row. fractional: (n, 3) float64.
    numbers: (n,) uint8, atomic numbers. name: how the user called it, for messages.
    """

    cell: np.ndarray
    fractional: np.ndarray
    numbers: np.ndarray
    name: str


def build_crystal(
    lattice: str,
    numbers: Sequence[int],
    a: float,
    c: float | None = None,
    u: float = 0.375,
) -> Crystal:
    """Build a lattice by its name: one of LATTICES.

    numbers: one atomic number, or two for zincblende, wurtzite and rocksalt. a, c: lattice
    constants in A (c for hcp and wurtzite only). u: height of wurtzite's second element as a
    fraction of c, 3/8 where the tetrahedra are regular. Hexagonal cells have a1 along x, a2 at
    120 degrees and c along z. Raises ConfigError when the name is unknown, a constant is missing,
    superfluous or not positive, or the number of elements is not the lattice's.
    """
    if lattice not in LATTICES:
        raise ConfigError(f"unknown lattice {lattice!r}; choose one of {', '.join(LATTICES)}")
    wanted = 2 if lattice in TWO_ELEMENTS else 1
    if len(numbers) != wanted:
        raise ConfigError(
            f"lattice {lattice} takes {wanted} element{'s' * (wanted > 1)}, {len(numbers)} given"
        )
    if (lattice in HEXAGONAL) != (c is not None):
        need = "needs the constant c" if lattice in HEXAGONAL else "is cubic and has no constant c"
        raise ConfigError(f"lattice {lattice} {need}")
    if not a > 0 or (c is not None and not c > 0):
        raise ConfigError(f"lattice {lattice}: the constants must be positive, got a={a}, c={c}")
    if lattice in HEXAGONAL:
        cell = np.array([[a, 0, 0], [-a / 2, a * math.sqrt(3) / 2, 0], [0, 0, c]], dtype=float)
    else:
        cell = np.diag([a, a, a]).astype(float)
    sublattices = _sublattices(lattice, u)
    sites = np.concatenate([np.asarray(sites) for _, sites in sublattices]) % 1.0
    kinds = np.concatenate([np.full(len(sites), numbers[k]) for k, sites in sublattices])
    return Crystal(cell, sites, kinds.astype(np.uint8), lattice)


def _sublattices(lattice: str, u: float) -> list[tuple[int, np.ndarray]]:
    """(index of the element, fractional sites) of each sublattice."""
    face, body, pair = np.array(FACE_CENTRED), np.array(BODY_CENTRED), np.array(HEXAGONAL_PAIR)
    if lattice == "fcc":
        return [(0, face)]
    if lattice == "bcc":
        return [(0, body)]
    if lattice == "hcp":
        return [(0, pair + np.array([0, 0, 0.25]))]
    if lattice == "diamond":
        return [(0, face), (0, face + 0.25)]
    if lattice == "zincblende":
        return [(0, face), (1, face + 0.25)]
    if lattice == "wurtzite":
        return [(0, pair), (1, pair + np.array([0, 0, u]))]
    return [(0, face), (1, face + 0.5)]


def read_crystal(path: str | Path, layers: bool = False) -> Crystal:
    """Read a crystal from a CIF (pymatgen), or a POSCAR or extended XYZ (ASE) file.

    layers: whether a file may say that its atoms repeat along two vectors only; the third is then
    VACUUM (`complete_cell`).
    Raises ConfigError naming the file and the reason when it cannot be read, holds no atoms, has
    no three-dimensional cell, or has sites that are partly or doubly occupied.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"crystal file {path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell, fractional, numbers = (
                _read_cif(path) if path.suffix.lower() == ".cif" else _read_with_ase(path, layers)
            )
    except ConfigError:
        raise
    except Exception as error:  # the parsers raise whatever the file provokes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"crystal file {path} cannot be read: {reason[0]}") from error
    if len(numbers) == 0:
        raise ConfigError(f"crystal file {path} holds no atoms")
    if abs(np.linalg.det(cell)) < 1e-3:
        raise ConfigError(
            f"crystal file {path} is not periodic in three dimensions; give it a lattice"
        )
    if np.min(numbers) < 1:
        raise ConfigError(f"crystal file {path} holds atoms of unknown element")
    # Parsers solve for these; rounding takes away what differs from one processor to the next.
    crystal = Crystal(cell, np.round(fractional, 12) % 1.0, numbers.astype(np.uint8), path.name)
    if nearest_neighbour_distance(crystal) < 0.5:
        raise ConfigError(
            f"crystal file {path} has atoms closer than 0.5 A; is it disordered or doubly occupied?"
        )
    return crystal


def _read_cif(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from pymatgen.io.cif import CifParser

    structure = CifParser(str(path)).parse_structures(primitive=False)[0]
    if not structure.is_ordered:
        raise ConfigError(
            f"crystal file {path} has partly occupied sites; give an ordered structure "
            "(every site one element at occupancy 1)"
        )
    numbers = np.array([site.specie.Z for site in structure])
    return np.array(structure.lattice.matrix), np.array(structure.frac_coords), numbers


def _read_with_ase(path: Path, layers: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from ase.io import read

    is_poscar = path.suffix.lower() in (".vasp", ".poscar")
    # ASE would read under MPI on all ranks together; here each rank reads when it needs to.
    atoms: Any = read(path, index=-1, format="vasp" if is_poscar else None, parallel=False)
    if layers and len(atoms) > 0:
        atoms.set_cell(complete_cell(atoms.cell, atoms.positions, atoms.pbc))
    elif not all(atoms.pbc):
        raise ConfigError(
            f"crystal file {path} is not periodic in three dimensions; give it a lattice"
        )
    if atoms.cell.rank < 3:
        raise ConfigError(
            f"crystal file {path} is not periodic in {'two' if layers else 'three'} dimensions; "
            "give it a lattice"
        )
    return np.array(atoms.cell), atoms.get_scaled_positions(), atoms.get_atomic_numbers()


def complete_cell(cell: np.ndarray, positions: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """Put vacuum along the one direction in which atoms do not repeat.

    cell: (3, 3) float64 A. positions: (k, 3) float64 A. periodic: (3,) bool, along which vectors
    the atoms repeat. The vector along which they do not becomes the normal of the two others, as
    long as the atoms are high and VACUUM. Where they repeat along one vector or none, the others
    become zero.
    """
    cell = np.array(cell, dtype=float)
    free = np.flatnonzero(~np.asarray(periodic, dtype=bool))
    if len(free) != 1:
        cell[free] = 0.0
        return cell
    axis = int(free[0])
    normal = np.cross(cell[axis - 2], cell[axis - 1])
    length = math.sqrt(float(normal @ normal))
    if length < 1e-3:
        cell[axis] = 0.0
        return cell
    normal *= math.copysign(1.0, float(cell[axis] @ normal)) / length
    cell[axis] = normal * (float(np.ptp(positions @ normal)) + VACUUM if len(positions) else VACUUM)
    return cell


def nearest_neighbour_distance(crystal: Crystal) -> float:
    """Shortest distance between two atoms of the crystal, A."""
    from scipy.spatial import cKDTree

    cells = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)), dtype=float)
    images = (crystal.fractional + cells[:, None]).reshape(-1, 3) @ crystal.cell
    distances, _ = cKDTree(images).query(crystal.fractional @ crystal.cell, k=2)
    return float(distances[:, 1].min())


def is_fcc(crystal: Crystal) -> bool:
    """Whether the cell is the conventional cubic cell of an elemental face-centred metal."""
    side = crystal.cell[0, 0]
    if not np.allclose(crystal.cell, side * np.eye(3), atol=1e-4 * abs(side)):
        return False
    if len(crystal.numbers) != 4 or len(set(crystal.numbers.tolist())) != 1:
        return False
    sites = np.round((crystal.fractional - crystal.fractional[0]) * 2, 3) % 2
    return sorted(map(tuple, sites)) == sorted(tuple(2 * x for x in s) for s in FACE_CENTRED)
