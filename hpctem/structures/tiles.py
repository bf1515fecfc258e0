"""A user's own amorphous film, cut to the cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError, SampleError
from hpctem.structures.volumes import wrap


@dataclass(frozen=True)
class Tile:
    """A piece of amorphous material, periodic in x and y.

    positions: (n, 3) float64 A, from 0 up along z. numbers: (n,) uint8. period: (lx, ly, lz) A;
    lz is the height of the atoms where the tile is not periodic along z. stacks: whether it is.
    """

    positions: np.ndarray
    numbers: np.ndarray
    period: tuple[float, float, float]
    stacks: bool
    name: str


def read_tile(path: str | Path, minimum_bond: float) -> Tile:
    """Read a tile of amorphous material from any file with a cell that ASE reads.

    The cell must be rectangular with its vectors along x, y and z, periodic in x and y; a tile
    periodic in z without a gap (a cut of the bulk) may be stacked to any thickness. minimum_bond
    is in A.
    Raises ConfigError when the file cannot be read or is no such tile, or when its own atoms are
    closer than the minimum bond.
    """
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"tile {path} does not exist")
    try:
        atoms: Any = read(path, index=-1, parallel=False)
        positions, numbers = atoms.get_positions(), atoms.get_atomic_numbers()
        cell, periodic = np.array(atoms.cell), np.array(atoms.pbc)
    except Exception as error:  # the parsers raise whatever the file provokes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"tile {path} cannot be read: {reason[0]}") from error
    sides = np.diag(cell)
    if not np.allclose(cell, np.diag(sides), atol=1e-6) or min(sides) <= 0:
        raise ConfigError(f"tile {path} needs a rectangular cell along x, y and z")
    if len(numbers) == 0 or np.min(numbers) < 1 or not (periodic[0] and periodic[1]):
        raise ConfigError(f"tile {path} must hold atoms of known elements, periodic in x and y")
    lowest, highest = positions[:, 2].min(), positions[:, 2].max()
    # File formats without a word for it call a film with vacuum periodic along z too.
    stacks = bool(periodic[2]) and sides[2] - (highest - lowest) < 2.0 * minimum_bond
    period = (float(sides[0]), float(sides[1]), float(sides[2] if stacks else highest - lowest))
    positions = wrap(positions - np.array([0.0, 0.0, lowest]), _periods(period, stacks))
    tile = Tile(positions, numbers.astype(np.uint8), period, stacks, path.name)
    close = _close_pairs(tile.positions, period, minimum_bond, tile.stacks)
    if len(close):
        raise ConfigError(
            f"tile {path} has {len(close)} bonds under the minimum bond of {minimum_bond:g} A; "
            "lower minimum_bond"
        )
    return tile


def cut_tile(
    tile: Tile,
    extent: tuple[float, float, float],
    minimum_bond: float,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a film of the given extent from a repeated tile, at a random place.

    extent: lengths lx, ly, lz in A; the film is periodic in x and y. minimum_bond: A. Returns
    positions (n, 3) float64 A in [0, lx) x [0, ly) x [0, lz] and numbers (n,) uint8. Where the
    tile's period does not divide the cell, the film has a seam at its edge; of two atoms closer
    than the minimum bond across it one is removed. Raises SampleError when the tile is too thin.
    """
    spare = tile.period[2] - extent[2]
    if not tile.stacks and spare < 0:
        raise SampleError(
            f"tile {tile.name} is {tile.period[2]:g} A high, less than the substrate thickness of "
            f"{extent[2]:g} A; give a higher tile or one that is periodic in z"
        )
    freedom = np.array([*tile.period[:2], tile.period[2] if tile.stacks else spare])
    start = generator.random(3) * freedom
    moved = wrap(tile.positions - start, _periods(tile.period, tile.stacks))
    copies = [math.ceil(length / side) for length, side in zip(extent, tile.period, strict=True)]
    if not tile.stacks:
        copies[2] = 1
    shifts = np.stack(np.meshgrid(*map(np.arange, copies), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (moved[None] + shifts * np.array(tile.period)).reshape(-1, 3)
    numbers = np.tile(tile.numbers, len(shifts))
    inside = np.all((positions >= 0) & (positions < [extent[0], extent[1], math.inf]), axis=1)
    inside &= positions[:, 2] <= extent[2]
    positions, numbers = positions[inside], numbers[inside]
    close = _close_pairs(positions, extent, minimum_bond, stacks=False)
    kept = np.ones(len(positions), dtype=bool)
    kept[close[:, 1]] = False
    return positions[kept], numbers[kept]


def _periods(period: tuple[float, float, float], stacks: bool) -> np.ndarray:
    """Lengths (3,) of the period in A, infinite along z where the tile does not stack."""
    return np.array([period[0], period[1], period[2] if stacks else math.inf])


def _close_pairs(
    positions: np.ndarray, period: tuple[float, float, float], distance: float, stacks: bool
) -> np.ndarray:
    """Pairs (m, 2) of atoms closer than a distance, across the period in x and y (and z)."""
    from scipy.spatial import cKDTree

    # A box far higher than the film: the tree then knows no period along z.
    height = period[2] if stacks else 2.0 * period[2] + 10.0 * distance
    tree = cKDTree(positions, boxsize=[period[0], period[1], height])
    return tree.query_pairs(distance * (1.0 - 1e-9), output_type="ndarray").reshape(-1, 2)
