"""What images show several of, as tables: defects and atom columns, particles, planar defects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpctem.collection.columns import (
    STANDING,
    Block,
    Column,
    is_of_images,
    make_block,
    read_arrow,
    usable,
)
from hpctem.database.reader import Database
from hpctem.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow

    from hpctem.collection.collection import Collection

# Tables that are no objects: one row an image or structure, or nothing that a table shows.
PLAIN = ("images", "structures", "waves", "atoms")


def list_objects(collection: Collection) -> list[str]:
    """Tables with several rows for each structure that a database of the collection has."""
    tables = dict.fromkeys(table for table, _ in collection.joined)
    return [table for table in tables if table not in PLAIN]


def list_object_columns(collection: Collection, table: str) -> dict[str, Column]:
    """The columns of such a table by name, first those that say to which image or structure a row
    belongs: database, campaign, row (of a table about images), structure_id.

    Raises ConfigError for another table, and where the databases' columns cannot be one.
    """
    known = list_objects(collection)
    if table not in known:
        has = f"it is one of {', '.join(known)}" if known else "there is none"
        files = ", ".join(collection.files)
        raise ConfigError(f"{table!r} is no table of objects in {files}: {has}")
    keys = {name: collection.joined["images", name] for name in STANDING if name != "structure_id"}
    if not is_of_images(table, collection.joined):
        del keys["row"]
    keys["structure_id"] = collection.joined[table, "structure_id"]  # the structure of these rows
    own = {name: usable(column) for (of, name), column in collection.joined.items() if of == table}
    return keys | {name: column for name, column in own.items() if name not in STANDING}


def read_objects(collections: Sequence[Collection], table: str) -> Iterator[pyarrow.Table]:
    """Objects of the images of views of one collection, once each, an Arrow table per database."""
    import pyarrow as pa

    whole = collections[0]
    columns = list_object_columns(whole, table)
    seen = is_of_images(table, whole.joined)
    for number, (database, file) in enumerate(zip(whole.databases, whole.files, strict=True)):
        if table not in database.layout.tables:
            continue
        images = np.concatenate([c.rows[c.sources == number] for c in collections])
        block = make_block(database, file, table, find_rows(database, table, images, seen))
        arrays = [_read(block, column, seen) for column in columns.values()]
        yield pa.table(arrays, names=list(columns))


def find_rows(database: Database, table: str, images: np.ndarray, seen: bool) -> np.ndarray:
    """(n,) int64 file rows of a table that belong to some images, ascending.

    images   file rows of the image table
    seen     the rows are about images, not about their structures
    """
    structures = np.unique(database.structure_of("images", images))
    each = database.layout.rows_per_structure[table]
    rows = (structures[:, None] * each + np.arange(each)).reshape(-1)
    rows = rows[database.used(table)[rows]]
    if seen:
        rows = rows[np.isin(make_block(database, "", table, rows).images, images)]
    return rows


def _read(block: Block, column: Column, seen: bool) -> pyarrow.Array:
    import pyarrow as pa

    if seen and column.table == "images" and column.name == "row":
        return pa.array(block.images)
    return read_arrow(block, column)
