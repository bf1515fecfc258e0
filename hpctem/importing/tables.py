"""What the database of an imported set holds: images, label maps, positions, where they are from.

A structure is an image of the set, with all its tiles where it is cut: so no split of a training
takes tiles of one image to both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.database.schema import Axis, Field, Layout, Stack, choose_structures_per_segment
from hpctem.detection.filters import MEDIAN_VIEW, RAW_VIEW
from hpctem.importing.pictures import Picture
from hpctem.sections.importing import ImportConfig
from hpctem.structures.scenes import Column
from hpctem.tables import IMAGE_STATISTICS, IMAGES, column_fields, measure_image

NAME_BYTES = 200
LABELS = "/entry/labels/"
LISTED = "/entry/structures/defects_listed"
SOURCE = "/entry/structures/source_file"
TILE_COLUMNS = (
    Column("tile_x", "int32", "", "column of tiles in the image of the set, from 0"),
    Column("tile_y", "int32", "", "row of tiles in the image of the set, from 0"),
)
PIXEL_SIZE = Column("pixel_size", "float64", "A", "side of a pixel")
SOURCE_COLUMN = Column(
    "source_file", f"S{NAME_BYTES}", "", "file of the set, of an array with the place in it"
)
LISTED_COLUMN = Column("defects_listed", "int32", "", "rows of its images in the table of defects")


@dataclass(frozen=True)
class Form:
    """What decides the rows of a set's database.

    shape      rows and columns of an image of the set
    tile       side of the squares that it is cut into; None: stored whole
    maps       names of the label maps
    positions  the maps show defects, whose positions are listed
    counts     pixels are stored as uint16, else as float32
    pixel_size A, where the import file says it
    """

    shape: tuple[int, int]
    tile: int | None
    maps: tuple[str, ...]
    positions: bool
    counts: bool
    pixel_size: float | None

    @property
    def stored(self) -> tuple[int, int]:
        """Rows and columns of a stored image."""
        return self.shape if self.tile is None else (self.tile, self.tile)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image of the set."""
        if self.tile is None:
            return 1, 1
        return self.shape[0] // self.tile, self.shape[1] // self.tile

    @property
    def tiles(self) -> int:
        """Stored images of one of the set."""
        return self.grid[0] * self.grid[1]

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored pixel."""
        return np.dtype(np.uint16 if self.counts else np.float32)


@dataclass(frozen=True)
class Listed:
    """Defects of the tiles of one image of a set, in order; arrays (n,).

    image  int32, the tile, from 0
    kind   int64, the label map, from 0
    x, y   float64, column and row in pixels of the tile
    """

    image: np.ndarray
    kind: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


def image_columns(form: Form) -> tuple[Column, ...]:
    """The columns of the stored images."""
    shares = (
        Column(f"{name}_fraction", "float64", "", f"share of the pixels that {name} marks")
        for name in form.maps
    )
    numbers = (
        Column(f"n_{name}", "int32", "", f"defects of the kind {name} in the image")
        for name in (form.maps if form.positions else ())
    )
    return (PIXEL_SIZE, *TILE_COLUMNS, *IMAGE_STATISTICS, *shares, *numbers)


def defect_columns(form: Form) -> tuple[Column, ...]:
    """The columns of the table of defects."""
    return (
        Column("image", "int32", "", "image within the structure, from 0"),
        Column("kind", "uint8", "", "which label map shows it", form.maps),
        Column("pixel_x", "float64", "px", "where it lies in the image: column, 0 the first's"),
        Column("pixel_y", "float64", "px", "where it lies in the image: row"),
        Column("inside", "uint8", "", "1: that is in the image"),
    )


def plan_layout(
    form: Form, config: ImportConfig, images: int, most: int, texts: Mapping[str, str]
) -> Layout:
    """The layout of the database of a set of `images` images.

    most   defects of an image of the set with the most of them
    texts  stored with the data
    """
    rows = {"images": form.tiles, "structures": 1}
    if form.positions and most:
        rows["defects"] = most
    fields = tuple(item for item in _fields(form, config) if item.table in rows)
    size = sum(item.row_bytes * rows[item.table] for item in fields)
    # Pixels may differ from image to image where the files say them.
    step, units = (1.0, "") if form.pixel_size is None else (form.pixel_size, "angstrom")
    axes = tuple(
        Axis(name, n, step, units) for name, n in zip(("y", "x"), form.stored, strict=True)
    )
    stacks = [Stack(IMAGES, axes, title=config.set.name)]
    if form.maps:
        stacks.append(Stack(f"{LABELS}{form.maps[0]}", axes, title=form.maps[0]))
    return Layout(
        structures=images,
        rows_per_structure=rows,
        structures_per_segment=choose_structures_per_segment(size, images),
        fields=fields,
        counts={"defects": LISTED} if "defects" in rows else {},
        campaign=texts,
        stacks=tuple(stacks),
        title=config.set.description or config.set.name,
    )


def _fields(form: Form, config: ImportConfig) -> Iterator[Field]:
    chunks: dict[str, Any] = {"chunks": [1, *form.stored]}
    view = MEDIAN_VIEW if config.set.median == "view" else RAW_VIEW
    kind = "3 x 3 medians" if config.set.median == "stored" else "values"
    yield Field(
        IMAGES, "images", form.dtype, form.stored, "", f"{kind} as the files of the set have them",
        attributes=chunks | {"view": view},
    )  # fmt: skip
    for name in form.maps:
        meaning = f"1 where the labels of the set say {name}"
        yield Field(
            f"{LABELS}{name}", "images", np.dtype("u1"), form.stored, "", meaning,
            attributes=chunks,
        )  # fmt: skip
    yield from column_fields("metadata", "images", image_columns(form))
    listed = (LISTED_COLUMN,) if form.positions else ()
    yield from column_fields("structures", "structures", (SOURCE_COLUMN, *listed))
    if form.positions:
        yield from column_fields("defects", "defects", defect_columns(form))


def cut(form: Form, values: np.ndarray) -> np.ndarray:
    """Tiles (n, *stored) of an array (ny, nx), row by row; what remains right and below is left."""
    if form.tile is None:
        return values[np.newaxis]
    rows, columns = form.grid
    whole = values[: rows * form.tile, : columns * form.tile]
    pieces = whole.reshape(rows, form.tile, columns, form.tile).swapaxes(1, 2)
    return np.ascontiguousarray(pieces).reshape(-1, *form.stored)


def make_rows(form: Form, name: str, picture: Picture) -> dict[str, Any]:
    """The rows of one image of a set: path -> values.

    Raises SampleError for an image that holds NaN or infinity.
    """
    images = cut(form, picture.image).astype(form.dtype)
    size = form.pixel_size or picture.pixel_size
    rows: dict[str, Any] = {IMAGES: images, SOURCE: [name]}
    ty, tx = np.divmod(np.arange(form.tiles), form.grid[1])
    columns: dict[str, Any] = {
        "pixel_size": np.full(form.tiles, size),
        "tile_x": tx.astype(np.int32),
        "tile_y": ty.astype(np.int32),
    }
    measured = [measure_image(image) | {"saturated": 0.0} for image in images]
    columns |= {c.name: np.array([m[c.name] for m in measured]) for c in IMAGE_STATISTICS}
    for map_name, labels in zip(form.maps, picture.labels, strict=True):
        rows[f"{LABELS}{map_name}"] = tiles = cut(form, labels)
        columns[f"{map_name}_fraction"] = tiles.mean(axis=(1, 2), dtype=np.float64)
    if form.positions:
        listed = list_defects(form, picture.labels, size)
        for kind, map_name in enumerate(form.maps):
            counted = np.bincount(listed.image[listed.kind == kind], minlength=form.tiles)
            columns[f"n_{map_name}"] = counted.astype(np.int32)
        rows |= _tabulate(listed)
    return rows | {f"/entry/metadata/{name}": values for name, values in columns.items()}


def list_defects(form: Form, labels: np.ndarray, pixel_size: float | None) -> Listed:
    """Where the label maps of an image of a set show defects, tile by tile, as they are stored.

    The way in which `hpctem predict` finds those of a network: both are judged alike.

    labels      uint8 (maps, ny, nx), 1 where a map marks
    pixel_size  A
    """
    from hpctem.learning.prediction.positions import find_positions

    tiles = np.stack([cut(form, one) for one in labels], axis=1).astype(np.float32)
    parts = []
    for number, tile in enumerate(tiles):
        # Of maps of 0 and 1 no position is surer than another: they come by kind and place.
        found = find_positions(np.stack([np.zeros_like(tile[0]), *tile]), pixel_size=pixel_size)
        parts.append((np.full(len(found), number, np.int32), found.kind - 1, found.x, found.y))
    image, kind, x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Listed(image, kind, x, y)


def _tabulate(listed: Listed) -> dict[str, Any]:
    rows: dict[str, Any] = {LISTED: np.array([len(listed)], np.int32)}
    if len(listed):
        rows |= {
            "/entry/defects/image": listed.image,
            "/entry/defects/kind": listed.kind.astype(np.uint8),
            "/entry/defects/pixel_x": listed.x,
            "/entry/defects/pixel_y": listed.y,
            "/entry/defects/inside": np.ones(len(listed), np.uint8),
        }
    return rows
