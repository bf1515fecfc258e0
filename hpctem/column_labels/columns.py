"""Atom columns, found in the structure; columns and defects with their places in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpctem.column_labels.clusters import cut_chain, link_atoms
from hpctem.detection.scan import ScanPath, locate
from hpctem.errors import ConfigError, SampleError
from hpctem.structures.scenes import Column

ELEMENTS_BYTES = 24

SPREAD = 1.5
"""How far the atoms of a column may lie from its middle, in tolerances: at the default tolerance
0.6 A, so that no column holds neighbouring sites of graphene, 1.42 A apart."""

_PLACE = (
    Column("pixel_x", "float64", "px", "where it lies in the image: column, 0 is a pixel's centre"),
    Column("pixel_y", "float64", "px", "where it lies in the image: row"),
)

COLUMN_COLUMNS: tuple[Column, ...] = (
    Column("x", "float64", "A", "mean position of the column's atoms along x"),
    Column("y", "float64", "A", "mean position of the column's atoms along y"),
    *_PLACE,
    Column("elements", f"S{ELEMENTS_BYTES}", "", "symbols of its atoms, by name: 'Se Se'"),
    Column("atoms", "int32", "", "number of its atoms"),
    Column("z_sum", "int32", "", "sum of the atomic numbers of its atoms"),
    Column("site_class", "uint8", "", "class of its sites, from 1; 0 for foreign atoms alone"),
)
"""The table of atom columns: those that lie in the image."""

DEFECT_PLACE_COLUMNS: tuple[Column, ...] = (
    *_PLACE,
    Column("inside", "uint8", "", "1 where that is in the image, its outermost half pixels too"),
)
"""What the table of an image's defects adds to that of the structure's."""


@dataclass(frozen=True)
class Columns:
    """Atom columns: atoms that overlap in projection.

    x, y: float64 (n,) A, mean of the atoms; count, z_sum: int32 (n,), number of atoms and sum of
    their atomic numbers; site_class: uint8 (n,), the class (tag) of most of its atoms, at a tie
    that with the larger sum of atomic numbers; atoms without class (tag 0) count only where there
    are no others. members: int64 (m,), the column of each of the m atoms, and numbers: uint8 (m,),
    their atomic numbers. Ordered by the first atom of each.
    """

    x: np.ndarray
    y: np.ndarray
    count: np.ndarray
    z_sum: np.ndarray
    site_class: np.ndarray
    members: np.ndarray
    numbers: np.ndarray

    @cached_property
    def elements(self) -> np.ndarray:
        """The symbols of each by name, S24 (n,): 'Se Se', or 'O50 Ti50' where that is too long."""
        return _name_elements(self.members, self.numbers, len(self.x))


def find_columns(
    positions: np.ndarray, numbers: np.ndarray, tags: np.ndarray, tolerance: float = 0.4
) -> Columns:
    """Which atoms a beam along z meets one behind the other.

    Atoms within `tolerance` of each other in projection are one column, and so are chains of them:
    a column of a thick crystal whose atoms are displaced stays one. A chain that reaches farther
    than SPREAD tolerances from its middle is cut, from its lowest atom up: each atom joins the
    nearest piece whose middle so far lies within that distance, or begins one. So the columns of a
    tilted crystal become a few along their streak, and the layers of a moire, which overlap more or
    less from place to place, do not merge over neighbouring sites.

    positions: (n, 3) float64 A; numbers: (n,) uint8; tags: (n,) uint8, 1 + class of the site, 0
    for foreign atoms; tolerance: A. Raises SampleError for positions that are not finite,
    ConfigError for a tolerance that is not above 0.
    """
    if not tolerance > 0:
        raise ConfigError(f"the tolerance of atom columns is {tolerance:g} A: it must be above 0")
    if not np.isfinite(positions).all():
        raise SampleError("an atom's position is NaN or infinite: it belongs to no column")
    points = np.ascontiguousarray(positions[:, :2], dtype=np.float64)
    first = link_atoms(points, float(tolerance))
    chain = (np.cumsum(first == np.arange(len(first))) - 1)[first]
    column = _cut_chains(chain, points, positions[:, 2], SPREAD * tolerance)
    count, (x, y) = _find_middles(column, points)
    return Columns(
        x,
        y,
        count.astype(np.int32),
        np.bincount(column, numbers).astype(np.int32),
        _rank_classes(column, numbers, tags, len(count)),
        column,
        numbers,
    )


def tabulate_columns(columns: Columns, path: ScanPath) -> dict[str, np.ndarray]:
    """The rows of COLUMN_COLUMNS for the columns that an image shows, one array each.

    Shown is what lies within the outermost half pixels: -0.5 <= pixel_x < nx - 0.5, and so on.
    """
    pixels = _locate_columns(columns, path)
    shown = is_inside(pixels, path.shape)
    values = {
        "x": columns.x,
        "y": columns.y,
        "pixel_x": pixels[:, 0],
        "pixel_y": pixels[:, 1],
        "elements": columns.elements,
        "atoms": columns.count,
        "z_sum": columns.z_sum,
        "site_class": columns.site_class,
    }
    return {
        column.name: values[column.name][shown].astype(column.dtype) for column in COLUMN_COLUMNS
    }


def count_shown(columns: Columns, path: ScanPath) -> int:
    """How many columns an image shows: the rows of `tabulate_columns`."""
    return int(np.count_nonzero(is_inside(_locate_columns(columns, path), path.shape)))


def place_defects(defects: Sequence[Mapping[str, Any]], path: ScanPath) -> list[dict[str, Any]]:
    """All defects of a structure as rows of one image: with DEFECT_PLACE_COLUMNS.

    defects: rows with x and y in A, as `Structure.defects`; those that the image does not show
    have inside = 0.
    """
    if not defects:
        return []
    points = np.array([(row["x"], row["y"]) for row in defects], dtype=np.float64)
    pixels = locate(path, points)
    inside = is_inside(pixels, path.shape)
    return [
        {**row, "pixel_x": float(x), "pixel_y": float(y), "inside": int(shown)}
        for row, (x, y), shown in zip(defects, pixels, inside, strict=True)
    ]


def is_inside(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which pixel coordinates (n, 2) (column, row) lie in an image (ny, nx): bool (n,)."""
    return ((pixels >= -0.5) & (pixels < np.array(shape[::-1]) - 0.5)).all(axis=1)


def _locate_columns(columns: Columns, path: ScanPath) -> np.ndarray:
    """Pixel coordinates (n, 2) of the columns."""
    return locate(path, np.stack([columns.x, columns.y], axis=1))


def _number(chain: np.ndarray) -> np.ndarray:
    """Consecutive numbers of the groups, in the order of their first atoms."""
    firsts, number = np.unique(chain, return_index=True, return_inverse=True)[1:]
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
    return rank[number]


def _find_middles(column: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Number of atoms of each column, and their mean x and y."""
    count = np.bincount(column)
    return count, [np.bincount(column, values) / count for values in points.T]


def _cut_chains(chain: np.ndarray, points: np.ndarray, z: np.ndarray, reach: float) -> np.ndarray:
    """The number of each atom's column, after chains that spread beyond `reach` are cut."""
    count, (x, y) = _find_middles(chain, points)
    far = np.hypot(points[:, 0] - x[chain], points[:, 1] - y[chain]) > reach
    if not far.any():
        return chain
    column = chain.copy()
    total = len(count)
    for number in np.unique(chain[far]):
        atoms = np.flatnonzero(chain == number)
        atoms = atoms[np.argsort(z[atoms], kind="stable")]
        piece = cut_chain(points[atoms], reach)
        column[atoms] = np.where(piece == 0, number, total + piece - 1)
        total += int(piece.max())
    return _number(column)


def _rank_classes(
    column: np.ndarray, numbers: np.ndarray, tags: np.ndarray, columns: int
) -> np.ndarray:
    """The class of each column, uint8: most atoms, then the largest sum of atomic numbers."""
    classes = int(tags.max(initial=0)) + 1
    place = column * classes + tags
    atoms = np.bincount(place, minlength=columns * classes).reshape(columns, classes)
    weight = np.bincount(place, numbers, minlength=columns * classes).reshape(columns, classes)
    # A sum of atomic numbers is far below 2^32, so that it only decides where the counts agree.
    score = atoms * 2.0**32 + weight
    score[:, 0] = 0
    return score.argmax(axis=1).astype(np.uint8)


def _name_elements(column: np.ndarray, numbers: np.ndarray, columns: int) -> np.ndarray:
    """The symbols of each column's atoms, S24 (columns,)."""
    from ase.data import chemical_symbols

    present = sorted(np.unique(numbers).tolist(), key=lambda number: chemical_symbols[number])
    kind = np.empty(256, dtype=np.int64)
    kind[present] = np.arange(len(present))
    atoms = np.bincount(column * len(present) + kind[numbers], minlength=columns * len(present))
    compositions, which = np.unique(
        atoms.reshape(columns, len(present)), axis=0, return_inverse=True
    )
    symbols = [chemical_symbols[number] for number in present]
    texts = [_write_elements(symbols, composition.tolist()) for composition in compositions]
    return np.array(texts, dtype=f"S{ELEMENTS_BYTES}")[which.reshape(-1)]


def _write_elements(symbols: Sequence[str], counts: Sequence[int]) -> str:
    """'Se Se', or 'O50 Ti50' where that is too long; symbols that do not fit are left out."""
    text = " ".join(symbol for symbol, n in zip(symbols, counts, strict=True) for _ in range(n))
    if len(text) <= ELEMENTS_BYTES:
        return text
    parts = [f"{symbol}{n}" for symbol, n in zip(symbols, counts, strict=True) if n]
    while len(" ".join(parts)) > ELEMENTS_BYTES:
        parts.pop()
    return " ".join(parts)
