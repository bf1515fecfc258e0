"""Images cut into tiles of one size, with all that a database says of them.

An image of ny x nx pixels gives floor(ny / p) rows of floor(nx / p) tiles from its upper left
corner; what remains at its lower and right edge is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hpctem.collection.columns import IMAGE
from hpctem.collection.stacks import LABELS
from hpctem.database.schema import (
    ERROR_PATH,
    STATUS_PATH,
    Field,
    Layout,
    Stack,
    choose_structures_per_segment,
)
from hpctem.structures.scenes import Column
from hpctem.tables import IMAGE_STATISTICS, INSTANCES, column_fields

Block = Mapping[str, np.ndarray]

TILE_COLUMNS = (
    Column("parent_row", "int64", "", "row of the whole image in the database that was cut"),
    Column("tile_x", "int32", "", "column of tiles in the whole image, from 0"),
    Column("tile_y", "int32", "", "row of tiles in the whole image, from 0"),
)
_METADATA = "/entry/metadata/"
_DEFECT_KINDS = "/entry/defects/kind"
# What is not cut and would make the tiles' database large: waves, diffraction patterns.
_LEFT_OUT = ("waves", "patterns")


@dataclass(frozen=True)
class Cut:
    """How the images of a database are cut.

    parent   layout of the database
    patch    side of a tile in pixels
    """

    parent: Layout
    patch: int

    @property
    def signal(self) -> Field:
        """The images that are cut."""
        path = self.parent.stacks[0].signal
        return next(item for item in self.parent.fields if item.path == path)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        ny, nx = self.signal.shape
        return ny // self.patch, nx // self.patch

    @property
    def tiles(self) -> int:
        """Tiles of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def images(self) -> int:
        """Whole images of a structure."""
        return self.parent.rows_per_structure["images"]

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields of the parent that its tiles have too, label maps in their size; no images."""
        kept = [self._shrink(item) for item in self.parent.fields if self._is_kept(item)]
        return (*kept, *column_fields("metadata", "images", TILE_COLUMNS))

    def _is_kept(self, item: Field) -> bool:
        outcome = (STATUS_PATH, ERROR_PATH)  # of each structure anew
        if item.table in _LEFT_OUT or item.path in (self.signal.path, *outcome):
            return False
        if item.table == "images":
            counted = item.path != f"{_METADATA}n_columns" or "columns" in self.parent.tables
            flat = item.path.startswith(_METADATA) and counted
            own = item.path in {f"{_METADATA}{column.name}" for column in TILE_COLUMNS}
            return (flat and not own) or self._is_map(item)
        return not self._is_of_images(item.table) or self._is_placed(item.table)

    def _is_map(self, item: Field) -> bool:
        return item.path.startswith(LABELS) and item.shape == self.signal.shape

    def _is_of_images(self, table: str) -> bool:
        return any(item.path == f"/entry/{table}/{IMAGE}" for item in self.parent.fields)

    def _is_placed(self, table: str) -> bool:
        names = {item.name for item in self.parent.fields_of(table)}
        return {"pixel_x", "pixel_y"} <= names

    def _shrink(self, item: Field) -> Field:
        if not self._is_map(item):
            return item
        shape = (self.patch, self.patch)
        return replace(item, shape=shape, attributes={**item.attributes, "chunks": [1, *shape]})


def plan_tiles(
    cut: Cut,
    signal: Field,
    fields: tuple[Field, ...],
    structures: range,
    campaign: Mapping[str, str],
) -> Layout:
    """The layout of the database of the tiles.

    signal       what takes the place of the images
    fields       further fields; of one path with a field of the parent they take its place
    structures   campaign indices
    campaign     texts stored with the data
    """
    further = {item.path for item in (signal, *fields)}
    kept = tuple(item for item in cut.fields if item.path not in further)
    parent, all_fields = cut.parent, (signal, *kept, *fields)
    rows = {
        table: count * (cut.tiles if table == "images" else 1)
        for table, count in parent.rows_per_structure.items()
        if any(item.table == table for item in all_fields)
    }
    paths = {item.path for item in all_fields}
    size = sum(item.row_bytes * rows[item.table] for item in all_fields)
    return Layout(
        structures=len(structures),
        first_structure=structures.start,
        rows_per_structure=rows,
        structures_per_segment=choose_structures_per_segment(size, len(structures)),
        fields=all_fields,
        counts={table: path for table, path in parent.counts.items() if table in rows},
        campaign=campaign,
        stacks=tuple(_shrink_stack(s, cut.patch) for s in parent.stacks if s.signal in paths),
        title=parent.title,
    )


def _shrink_stack(stack: Stack, patch: int) -> Stack:
    return replace(stack, axes=tuple(replace(axis, size=patch) for axis in stack.axes))


def cut_images(images: np.ndarray, patch: int) -> np.ndarray:
    """Tiles (n * rows * columns, patch, patch) of images (n, ny, nx), image by image, by rows."""
    n, ny, nx = images.shape
    rows, columns = ny // patch, nx // patch
    whole = images[:, : rows * patch, : columns * patch]
    pieces = whole.reshape(n, rows, patch, columns, patch).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(pieces).reshape(-1, patch, patch)


def cut_rows(cut: Cut, block: Block, first_row: int) -> dict[str, np.ndarray]:
    """The rows of one structure's tiles but for their images: path -> array (rows, *shape).

    block       all rows of the structure in the database that is cut
    first_row   number of its first image there

    Label maps are cut; rows of defects and columns go to the tile that shows them, at their place
    there, those that no tile shows are left out; what an image counts is counted anew.
    """
    rows: dict[str, np.ndarray] = {}
    for item in cut.fields:
        values = block.get(item.path)
        if item.table == "images" and values is not None:
            is_map = len(item.shape) == 2
            rows[item.path] = (
                cut_images(values, cut.patch) if is_map else np.repeat(values, cut.tiles, axis=0)
            )
        elif values is not None:
            rows[item.path] = values[: _count_used(cut.parent, block, item.table)]
    rows |= _number_tiles(cut, first_row)
    for table in dict.fromkeys(item.table for item in cut.fields):
        if f"/entry/{table}/{IMAGE}" in rows:
            rows |= _place_objects(cut, table, rows)
    return _count_again(cut, rows)


def _count_used(parent: Layout, block: Block, table: str) -> int:
    if table not in parent.counts:
        return parent.rows_per_structure[table]
    return int(block[parent.counts[table]][0])


def _number_tiles(cut: Cut, first_row: int) -> dict[str, np.ndarray]:
    """Where each tile comes from."""
    ty, tx = np.divmod(np.arange(cut.tiles), cut.grid[1])
    numbers = {
        "parent_row": first_row + np.repeat(np.arange(cut.images), cut.tiles),
        "tile_x": np.tile(tx, cut.images),
        "tile_y": np.tile(ty, cut.images),
    }
    return {f"{_METADATA}{c.name}": numbers[c.name].astype(c.dtype) for c in TILE_COLUMNS}


def _place_objects(cut: Cut, table: str, rows: Block) -> dict[str, np.ndarray]:
    """Rows of a table about images, each with its tile and its place there."""
    of = {item.path: rows[item.path] for item in cut.parent.fields_of(table)}
    path_x, path_y, path_image = (
        f"/entry/{table}/{name}" for name in ("pixel_x", "pixel_y", IMAGE)
    )
    # The outermost half pixels of a tile belong to it: a pixel's centre is a whole number.
    tx, ty = (np.floor((of[path] + 0.5) / cut.patch).astype(int) for path in (path_x, path_y))
    shown = (tx >= 0) & (ty >= 0) & (tx < cut.grid[1]) & (ty < cut.grid[0])
    tile = of[path_image] * cut.tiles + ty * cut.grid[1] + tx
    chosen = np.flatnonzero(shown)[np.argsort(tile[shown], kind="stable")]
    placed = {path: values[chosen] for path, values in of.items()}
    placed[path_image] = tile[chosen].astype(of[path_image].dtype)
    placed[path_x] = placed[path_x] - tx[chosen] * cut.patch
    placed[path_y] = placed[path_y] - ty[chosen] * cut.patch
    return placed


def _count_again(cut: Cut, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns that count what an image or a structure shows."""
    for table, path in cut.parent.counts.items():
        own = f"/entry/{table}/{IMAGE}"
        if own in rows:
            rows[path] = np.array([len(rows[own])], rows[path].dtype)
    images = cut.images * cut.tiles
    counted: dict[str, np.ndarray] = {}
    if f"/entry/columns/{IMAGE}" in rows:
        counted["n_columns"] = np.bincount(rows[f"/entry/columns/{IMAGE}"], minlength=images)
    if _DEFECT_KINDS in rows:
        kinds = next(item for item in cut.parent.fields if item.path == _DEFECT_KINDS).categories
        for number, kind in enumerate(kinds):
            own = rows[f"/entry/defects/{IMAGE}"][rows[_DEFECT_KINDS] == number]
            counted[f"n_{kind}"] = np.bincount(own, minlength=images)
    if INSTANCES in rows:
        counted["particle_fraction"] = (rows[INSTANCES] > 0).mean(axis=(1, 2))
    for name, axis in (("crop_x", "tile_x"), ("crop_y", "tile_y")):
        if _METADATA + name in rows:
            counted[name] = rows[_METADATA + name] + cut.patch * rows[_METADATA + axis]
    for name, values in counted.items():
        if _METADATA + name in rows:
            rows[_METADATA + name] = values.astype(rows[_METADATA + name].dtype)
    return rows


def is_statistic(item: Field) -> bool:
    """Whether a column tells of the pixels' values, so that other pixels need others."""
    return item.path in {f"{_METADATA}{column.name}" for column in IMAGE_STATISTICS}
