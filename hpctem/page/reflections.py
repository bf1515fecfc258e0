"""The reflections of a campaign's crystal, which its power spectra show."""

from __future__ import annotations

import numpy as np

from hpctem.config import Config, StemConfig
from hpctem.structures import recipes
from hpctem.structures.sheet_crystals import load_crystal

FAINT = 1e-3  # of the sum of the atomic numbers; what is below is extinct


def list_reflections(config: Config, edge: float) -> list[tuple[str, float]]:
    """(indices, spatial frequency in 1/A) of the crystal of a campaign up to `edge`, rising.

    Of crystals seen along an axis those of the lattice in projection. None where the campaign takes
    its crystals from a database, or has none.
    """
    if not isinstance(config, StemConfig):
        particles = config.structure.particles
        if particles is None:
            return []
        crystal = recipes.load_crystal(particles.crystal)
        return find_reflections(crystal.cell, crystal.fractional, crystal.numbers, edge)
    if config.structure.material.database is not None:
        return []
    unit = load_crystal(config.structure.material, config.structure.zone_axis).unit
    plane = unit.vectors[:2, :2]
    return find_reflections(plane, unit.basis[:, :2] @ np.linalg.inv(plane), unit.numbers, edge)


def find_reflections(
    cell: np.ndarray, fractional: np.ndarray, numbers: np.ndarray, edge: float
) -> list[tuple[str, float]]:
    """(indices, spatial frequency in 1/A) of the reflections of a lattice up to `edge`, rising.

    cell: (d, d) A, the periods; fractional: (n, d) and numbers (n,) of its atoms. Those that the
    basis extinguishes are left out; of several of one frequency the first in descending order of
    indices names them.
    """
    reciprocal = np.linalg.inv(cell).T
    most = np.ceil(edge * np.linalg.norm(cell, axis=1)).astype(int).clip(0, 12)
    hkl = np.array([index for index in np.ndindex(*(2 * most + 1))]) - most
    g = hkl @ reciprocal
    length = np.linalg.norm(g, axis=1)
    phases = np.exp(2j * np.pi * (hkl @ fractional.T))
    strength = np.abs(phases @ numbers.astype(float))
    seen = (length > 0) & (length <= edge) & (strength > FAINT * numbers.sum())
    found: dict[float, tuple[list[int], float]] = {}
    for indices, q in zip(hkl[seen].tolist(), length[seen].tolist(), strict=True):
        found[round(q, 6)] = max(found.get(round(q, 6), (indices, q)), (indices, q))
    return [("".join(map(_write_index, indices)), q) for _, (indices, q) in sorted(found.items())]


def _write_index(index: int) -> str:
    return f"{-index}\u0305" if index < 0 else str(index)
