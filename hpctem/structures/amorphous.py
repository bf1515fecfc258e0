"""Amorphous substrates by random sequential addition of atoms with a minimum bond.

Random sequential addition (Widom, J. Chem. Phys. 44, 3888 (1966)): atoms are offered uniform
positions one after another, and keep them unless an earlier atom is closer than the bond. Spheres
as large as the bond jam at a packing fraction of 0.384 (Zhang and Torquato, Phys. Rev. E 88,
053312 (2013)), and the number of offers diverges before that.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_loop
from hpctem.errors import ConfigError, SampleError

# Packing fraction up to which the number of offers stays practical (about 25 to an atom).
REACHABLE_PACKING = 0.30


def require_reachable(density: float, minimum_bond: float) -> None:
    """Raise ConfigError when no random packing has this density (atoms/A^3) and bond (A)."""
    packing = density * math.pi / 6.0 * minimum_bond**3
    if packing > REACHABLE_PACKING:
        limit = REACHABLE_PACKING * 6.0 / (math.pi * minimum_bond**3)
        raise ConfigError(
            f"substrate density {density:g} atoms/A^3 is beyond reach with a minimum bond of "
            f"{minimum_bond:g} A; take at most {limit:.3g} atoms/A^3 or a shorter bond"
        )


def amorphous(
    extent: tuple[float, float, float],
    density: float,
    minimum_bond: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Random positions of a given density, no two closer than the minimum bond.

    extent: lengths lx, ly, lz in A; periodic in x and y. density: atoms/A^3. minimum_bond: A.
    Returns exactly round(density lx ly lz) positions (n, 3) float64, A, in [0, lx) x [0, ly) x
    [0, lz), a function of the generator's state alone. Raises ConfigError when the density is
    beyond reach, SampleError when an atom finds no place.

    Bonds are kept across the top and the bottom as well: the slab is a cut through the bulk, of
    one density throughout, where free surfaces would gather atoms (nothing outside repels them).
    """
    require_reachable(density, minimum_bond)
    lengths = np.asarray(extent, dtype=float)
    wanted = round(density * float(np.prod(lengths)))
    if wanted <= 0:
        return np.zeros((0, 3))
    cells = np.maximum(1, np.floor(lengths / minimum_bond).astype(np.int64))
    positions = np.empty((wanted, 3))
    first_in_cell = np.full(cells, -1, dtype=np.int32)
    next_in_cell = np.empty(wanted, dtype=np.int32)
    placed = 0
    offered = 0
    while placed < wanted:
        batch = generator.random((2 * (wanted - placed) + 1000, 3)) * lengths
        offered += len(batch)
        placed = _add_atoms(
            batch, lengths, minimum_bond, positions, placed, first_in_cell, next_in_cell
        )
        if offered > 2000 * wanted + 1_000_000:
            raise SampleError(
                f"amorphous slab of {wanted} atoms: only {placed} found a place; "
                "lower the density or the minimum bond"
            )
    return positions


@compile_loop
def _add_atoms(offers, lengths, bond, positions, placed, first_in_cell, next_in_cell):
    """Add the offered positions that keep the bond, until all atoms are placed; returns how many.

    Cells are at least one bond wide, so that only the 27 around an offer can hold a neighbour.
    """
    shape = first_in_cell.shape
    home = np.empty(3, np.int64)
    for k in range(offers.shape[0]):
        if placed == positions.shape[0]:
            break
        point = offers[k]
        for axis in range(3):
            home[axis] = min(int(point[axis] / lengths[axis] * shape[axis]), shape[axis] - 1)
        free = True
        for step in range(27):
            i = (home[0] + step // 9 - 1) % shape[0]
            j = (home[1] + step // 3 % 3 - 1) % shape[1]
            m = (home[2] + step % 3 - 1) % shape[2]
            if _is_near(point, first_in_cell[i, j, m], positions, next_in_cell, lengths, bond):
                free = False
                break
        if free:
            for axis in range(3):
                positions[placed, axis] = point[axis]
            next_in_cell[placed] = first_in_cell[home[0], home[1], home[2]]
            first_in_cell[home[0], home[1], home[2]] = placed
            placed += 1
    return placed


@compile_loop
def _is_near(point, first, positions, next_in_cell, lengths, bond):
    """Whether an atom of the chain that starts at `first` is closer than the bond."""
    other = first
    while other >= 0:
        square = 0.0
        for axis in range(3):
            distance = abs(point[axis] - positions[other, axis])
            distance = min(distance, lengths[axis] - distance)
            square += distance * distance
        if square < bond * bond:
            return True
        other = next_in_cell[other]
    return False
