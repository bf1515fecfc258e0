"""Repeat a unit cell until it fills a region: every site in it, none twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.structures.distortions import transform

COINCIDE = 0.1  # A, of the sites of a column in projection
# Which end of each coordinate the corners of a box have, (2^d, d) bool.
_CORNERS = {d: np.array(list(itertools.product((False, True), repeat=d))) for d in (2, 3)}


@dataclass(frozen=True)
class Unit:
    """A unit cell made ready to be repeated, the beam along z.

    vectors: (2, 3) or (3, 3) float64 A, the periods in the plane and, of a bulk crystal, then the
    one along z. basis: (k, 3) float64 A, moved by whole periods so that the sites of a column have
    one place in projection. numbers, classes: (k,) uint8, the class counts from 0. columns: (k,)
    int64, the column of each site within the cell: sites of one class at one place in projection.
    n_columns: number of them.
    """

    vectors: np.ndarray
    basis: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    columns: np.ndarray
    n_columns: int

    @property
    def reach(self) -> np.ndarray:
        """Lowest and highest coordinates (2, 3) A of the basis."""
        return np.stack([self.basis.min(axis=0), self.basis.max(axis=0)])

    @property
    def area(self) -> float:
        """Area of the cell in projection, A^2."""
        a, b = self.vectors[:2, :2]
        return abs(float(a[0] * b[1] - a[1] * b[0]))


def prepare_unit(
    vectors: np.ndarray, basis: np.ndarray, numbers: np.ndarray, classes: np.ndarray
) -> Unit:
    """Find the columns of a unit cell; arrays as in `Unit`."""
    plane = np.array(vectors[:2, :2], dtype=float)
    apart = basis[None, :, :2] - basis[:, None, :2]  # from each site to every one
    periods = np.rint(apart @ np.linalg.inv(plane))
    rest = apart - (periods[..., :1] * plane[0] + periods[..., 1:] * plane[1])
    same = (rest**2).sum(axis=-1) < COINCIDE**2
    same &= classes[:, None] == classes
    first = np.argmax(same, axis=1)
    periods = periods[np.arange(len(basis)), first]
    moved = basis + periods[:, :1] * vectors[0] + periods[:, 1:] * vectors[1]
    found, columns = np.unique(first, return_inverse=True)
    return Unit(np.asarray(vectors, dtype=float), moved, numbers, classes, columns, len(found))


def find_cells(
    steps: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All integer combinations n of the steps with low <= n . steps <= high.

    steps: (d, d) float64, one lattice vector a row; low, high: (d,). Returns n (cells, d)
    int64 in ascending order, and (cells,) int64 that numbers the rows: cells which differ in the
    last index alone share a row. Each row is cut to the region by itself, so that the cost is that
    of the cells found, at any angle between lattice and region.
    """
    dimensions = len(steps)
    # The region's corners in units of the steps bound all indices but the last, which runs along
    # each row; where a row leaves the region is computed for every coordinate.
    corners = np.where(_CORNERS[dimensions], high, low) @ np.linalg.inv(steps)
    first, last = np.ceil(corners.min(axis=0) - 1e-6), np.floor(corners.max(axis=0) + 1e-6)
    rows = np.arange(first[0], last[0] + 1)[:, None]
    if dimensions == 3:
        second = np.arange(first[1], last[1] + 1)
        rows = np.stack(np.meshgrid(rows, second, indexing="ij"), axis=-1).reshape(-1, 2)
    start, stop = np.full(len(rows), -math.inf), np.full(len(rows), math.inf)
    for k in range(dimensions):
        base = rows[:, 0] * steps[0, k]
        if dimensions == 3:
            base += rows[:, 1] * steps[1, k]
        step = steps[-1, k]
        if abs(step) < 1e-9:
            stop[(base < low[k]) | (base > high[k])] = -math.inf
            continue
        near, far = (low[k], high[k]) if step > 0 else (high[k], low[k])
        np.maximum(start, np.ceil((near - base) / step), out=start)
        np.minimum(stop, np.floor((far - base) / step), out=stop)
    counts = np.maximum(stop - start + 1, 0).astype(np.int64)
    found = counts > 0
    rows, start, counts = rows[found], start[found], counts[found]
    row = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    cells = np.empty((len(row), dimensions), dtype=np.int64)
    cells[:, :-1] = rows[row]
    cells[:, -1] = within + start[row].astype(np.int64)
    return cells, row


@dataclass(frozen=True)
class Frame:
    """Where the field of view lies and what the crystal goes through on its way into it.

    field: (2,) A, the field is [0, lx) x [0, ly). view: (2,) A, the part about its middle that is
    to be seen. tilt: (3, 3) rotation about its middle, at the
    height 0; None without. margin: (2,) A, by which ripples and displacements may move a site.
    """

    field: np.ndarray
    view: np.ndarray
    tilt: np.ndarray | None
    margin: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """Middle (3,) A of the field, at the height 0."""
        return np.array([0.5 * self.field[0], 0.5 * self.field[1], 0.0])

    def pick(self, generator: np.random.Generator) -> np.ndarray:
        """A random point (2,) A of the view."""
        return self.middle[:2] + (generator.random(2) - 0.5) * self.view


@dataclass(frozen=True)
class Layer:
    """How a unit cell is laid down: r = origin + linear (n . vectors + basis).

    linear: (3, 3), which acts in the plane alone. origin: (3,) A, of the lattice. span: lowest and
    highest z in A of a film that is cut from a bulk crystal; None for a layer.
    """

    unit: Unit
    linear: np.ndarray
    origin: np.ndarray
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sites:
    """Sites of a flat crystal.

    positions: (n, 3) float64 A. numbers, classes: (n,) uint8. columns: (n,) int64, below n_columns.
    """

    positions: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    columns: np.ndarray
    n_columns: int


def fill_layer(layer: Layer, frame: Frame) -> Sites:
    """All sites of a layer that can come to lie in the field, and some beyond its border.

    A cell of a layer is whole where any of its sites may lie in the field. The sites ascend with
    the indices of their cells, then within the cell.
    """
    unit = layer.unit
    vectors = transform(layer.linear, unit.vectors)
    basis = transform(layer.linear, unit.basis) + layer.origin
    # Coordinates that bound the crystal: x and y as they are seen and, of a film, z before that.
    steps, seen = vectors[:, :2], basis[:, :2]
    if frame.tilt is not None:
        steps = transform(frame.tilt, vectors)[:, :2]
        seen = (transform(frame.tilt, basis - frame.middle) + frame.middle)[:, :2]
    low, high = -frame.margin - seen.max(axis=0), frame.field + frame.margin - seen.min(axis=0)
    if layer.span is not None:
        steps = np.column_stack([steps, vectors[:, 2]])
        low = np.append(low, layer.span[0] - basis[:, 2].max())
        high = np.append(high, layer.span[1] - basis[:, 2].min())
    cells, row = find_cells(steps, low, high)
    if layer.span is None:
        row = np.arange(len(cells))
    lattice = _combine(cells, vectors)
    positions = (lattice[:, None] + basis).reshape(-1, 3)
    columns = (row[:, None] * unit.n_columns + unit.columns).ravel()
    numbers = np.tile(unit.numbers, len(cells))
    classes = np.tile(unit.classes, len(cells))
    rows = int(row[-1]) + 1 if len(row) else 0
    if layer.span is not None:
        z = positions[:, 2]
        inside = (z >= layer.span[0]) & (z < layer.span[1])
        positions, columns = positions[inside], columns[inside]
        numbers, classes = numbers[inside], classes[inside]
    return Sites(positions, numbers, classes, columns, rows * unit.n_columns)


def join_sites(layers: Sequence[Sites]) -> Sites:
    """The sites of several layers, each with columns of its own."""
    if len(layers) == 1:
        return layers[0]
    before = np.cumsum([0, *(sites.n_columns for sites in layers)])
    return Sites(
        np.concatenate([sites.positions for sites in layers]),
        np.concatenate([sites.numbers for sites in layers]),
        np.concatenate([sites.classes for sites in layers]),
        np.concatenate([s.columns + n for s, n in zip(layers, before[:-1], strict=True)]),
        int(before[-1]),
    )


def find_places(layer: Layer, frame: Frame, height: float) -> np.ndarray:
    """Where the projected cells of a layer begin, of all that reach into the field; (m, 2) A.

    height: A, greatest distance along z from the middle of the specimen at which it matters.
    """
    vectors = transform(layer.linear, layer.unit.vectors[:2])
    vectors[:, 2] = 0.0
    steps, from_middle = vectors, (layer.origin - frame.middle)[None]
    margin = frame.margin + np.abs(vectors[:, :2]).sum(axis=0).max()
    if frame.tilt is not None:
        steps, from_middle = transform(frame.tilt, steps), transform(frame.tilt, from_middle)
        margin += height * np.abs(frame.tilt[:2, 2])
    begin = (from_middle + frame.middle)[0, :2]
    cells, _ = find_cells(steps[:, :2], -margin - begin, frame.field + margin - begin)
    return (_combine(cells, vectors) + layer.origin)[:, :2]


def _combine(cells: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Lattice points (n, 3) of integer cells (n, d); every product rounds by itself."""
    points = cells[:, :1] * vectors[0]
    for k in range(1, len(vectors)):
        points = points + cells[:, k : k + 1] * vectors[k]
    return points
