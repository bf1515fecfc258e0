"""Point defects: which columns bear one, which of their atoms it takes, where adatoms settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP_PLANE = 0.5  # A, depth of the plane of the uppermost atoms
SURFACE = 2.5  # A, depth of the planes between whose atoms an adatom sinks
ALIKE = 0.05  # A, difference of distances that count as the same
ADATOM_SITES = ("hollow", "bridge", "top", "random")


@dataclass(frozen=True)
class Planted:
    """The defects of columns.

    kinds: (defects,) int64, index of each one's kind. sites: (m,) int64, the sites that they take,
    ascending within each defect. defects: (m,) int64, the defect that takes each, ascending.
    """

    kinds: np.ndarray
    sites: np.ndarray
    defects: np.ndarray


def plant_defects(
    columns: np.ndarray,
    n_columns: int,
    matches: Sequence[np.ndarray],
    atoms: Sequence[int],
    rates: Sequence[float],
    generator: np.random.Generator,
) -> Planted:
    """Draw which columns bear a defect, at most one each, and which of their sites it takes.

    columns: (n,) int64, the column of each site, below n_columns. Of each kind of defect: matches,
    (n,) bool, the sites that it can take; atoms, how many of a column it takes; rates, its
    probability at every column that holds so many of them. The probabilities of the kinds that a
    column can bear are exclusive: one uniform number of each column falls among them, in their
    order. Which sites of the column are taken is random.
    """
    uniform = generator.random(n_columns)
    chosen = np.full(n_columns, -1, dtype=np.int64)
    below = np.zeros(n_columns)
    for kind, (match, number, rate) in enumerate(zip(matches, atoms, rates, strict=True)):
        share = np.where(np.bincount(columns[match], minlength=n_columns) >= number, rate, 0.0)
        chosen[(uniform >= below) & (uniform < below + share)] = kind
        below += share
    bearing = np.flatnonzero(chosen >= 0)
    ordinal = np.zeros(n_columns, dtype=np.int64)
    ordinal[bearing] = np.arange(len(bearing))
    kinds = chosen[bearing]

    sites = np.flatnonzero(chosen[columns] >= 0)
    kind_of_site = chosen[columns[sites]]
    fits = np.zeros(len(sites), dtype=bool)
    for kind, match in enumerate(matches):
        fits |= (kind_of_site == kind) & match[sites]
    sites = sites[fits]
    defects = ordinal[columns[sites]]
    # A random order within each defect; the first so many of it are taken.
    order = np.lexsort((generator.random(len(sites)), defects))
    sites, defects = sites[order], defects[order]
    starts = np.searchsorted(defects, np.arange(len(bearing)))
    taken = (
        np.arange(len(sites)) - starts[defects] < np.asarray(atoms, dtype=np.int64)[kinds[defects]]
    )
    sites, defects = sites[taken], defects[taken]
    order = np.lexsort((sites, defects))
    return Planted(kinds, sites[order], defects[order])


def draw_adatoms(
    n_cells: int, rates: Sequence[float], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw which unit cells bear an adatom, at most one each.

    rates: of each kind the probability at every cell; they are exclusive. Returns the cells (m,)
    int64, ascending, the kinds (m,) int64 and two uniform numbers of each (m, 2) for its place.
    """
    uniform = generator.random(n_cells)
    bounds = np.cumsum(np.asarray(rates, dtype=float))
    kind = np.searchsorted(bounds, uniform, side="right")
    cells = np.flatnonzero(kind < len(rates))
    return cells, kind[cells], generator.random((n_cells, 2))[cells]


def place_adatoms(
    site: str, basis: np.ndarray, periods: np.ndarray, uniform: np.ndarray
) -> np.ndarray:
    """Places (m, 2) A within the unit cell where adatoms settle.

    site: one of ADATOM_SITES. basis: (k, 3) A, sites of the uppermost layer's cell; periods: (2, 2)
    A, its vectors. uniform: (m, 2) float64 in [0, 1), which of equivalent places is taken, or where
    in the cell. Top: above an atom of the uppermost plane; bridge: midway between two neighbours of
    that plane; hollow: as far in projection as can be from the atoms of the planes within SURFACE.
    """
    if site == "random":
        return uniform[:, :1] * periods[0] + uniform[:, 1:] * periods[1]
    uppermost = basis[basis[:, 2] > basis[:, 2].max() - TOP_PLANE, :2]
    if site == "top":
        places = uppermost
    elif site == "bridge":
        places = _midpoints(uppermost, periods)
    else:
        surface = basis[basis[:, 2] > basis[:, 2].max() - SURFACE, :2]
        places = _hollows(surface, periods)
    return places[(uniform[:, 0] * len(places)).astype(np.int64)]


def _midpoints(points: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Midpoints (m, 2) A of the shortest bonds of a periodic net, each bond once."""
    shifts = _shifts(2) @ periods
    apart = points[None, :, None] + shifts - points[:, None, None]
    squares = (apart**2).sum(axis=-1)
    squares[squares < ALIKE**2] = np.inf
    one, other, shift = np.nonzero(squares <= (np.sqrt(squares.min()) + ALIKE) ** 2)
    return _distinct(points[one] + 0.5 * apart[one, other, shift], periods)


def _hollows(points: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Points (m, 2) A of the cell that lie farthest from a periodic set: corners of its Voronoi
    cells."""
    from scipy.spatial import Voronoi, cKDTree

    around = (points[:, None] + _shifts(3) @ periods).reshape(-1, 2)
    around = around[np.unique(np.rint(around / 1e-3), axis=0, return_index=True)[1]]
    corners = Voronoi(around, qhull_options="Qbb Qc Qz").vertices
    inverse = np.linalg.inv(periods)
    fractional = corners @ inverse
    corners = corners[np.all((fractional > -0.25) & (fractional < 1.25), axis=1)]
    distances = cKDTree(around).query(corners)[0]
    return _distinct(corners[distances > distances.max() - ALIKE], periods)


def _shifts(reach: int) -> np.ndarray:
    """Integer shifts (m, 2) float64 up to `reach` periods."""
    side = np.arange(-reach, reach + 1.0)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


def _distinct(points: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """One of each set of points (n, 2) that are the same but for whole periods, sorted."""
    # Rounded: parsers and Qhull leave digits that may differ from one processor to the next.
    fractional = np.round(points @ np.linalg.inv(periods), 6) % 1.0
    return np.unique(np.round(fractional % 1.0, 5) % 1.0, axis=0) @ periods
