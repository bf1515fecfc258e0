"""Crystals in cells that end 2 A beyond their atoms, which lie on pixels of 0.05 A."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cell:
    """Atoms in a cell that ends 2 A beyond them; `extent` (y, x) and `height` in A."""

    positions: np.ndarray
    numbers: np.ndarray
    extent: tuple[float, float]
    height: float
    shape: tuple[int, int]


def repeat(basis, numbers, unit, times, pixels) -> Cell:
    """A crystal of `times` (x, y, z) units of fractional `basis`; `pixels` (x, y) per unit."""
    unit = np.array(unit)
    steps = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = ((np.array(basis)[None] + steps) * unit).reshape(-1, 3)
    positions[:, 2] += 2 - positions[:, 2].min()
    extent = unit[1] * times[1], unit[0] * times[0]
    shape = pixels[1] * times[1], pixels[0] * times[0]
    height = float(positions[:, 2].max()) + 2
    return Cell(positions, np.tile(numbers, len(steps)), extent, height, shape)


def make_gold(layers: int = 4) -> Cell:
    """Au [001]; atoms on pixels of 0.0498 A."""
    basis = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    return repeat(basis, [79] * 4, [4.08] * 3, (2, 3, layers), (82, 82))


def make_titanate() -> Cell:
    """SrTiO3 [001], 39 A thick; atoms on pixels of 0.0501 A."""
    basis = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return repeat(basis, [38, 22, 8, 8, 8], [3.905] * 3, (3, 2, 10), (78, 78))


def make_disulfide() -> Cell:
    """A MoS2 monolayer in its rectangular cell; atoms on pixels of 0.0494 and 0.0507 A."""
    metal, sulfur = 0.5, (0.5 - 1.585 / 10, 0.5 + 1.585 / 10)
    basis, numbers = [], []
    for x, y in ((0, 0), (0.5, 0.5)):
        basis.append((x, y, metal))
        basis += [(x, y + 1 / 3, z) for z in sulfur]
        numbers += [42, 16, 16]
    unit = (3.16, 3.16 * np.sqrt(3), 10.0)
    return repeat(basis, numbers, unit, (4, 2, 1), (64, 108))
