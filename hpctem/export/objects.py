"""What a structure has several of, as tables: the particles and planar defects that images show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.collection.columns import Column, make_block, read_arrow, usable
from hpctem.export.plan import Part

if TYPE_CHECKING:
    import pyarrow

OBJECTS = {
    "particles": "one record for each particle of the structures that images show",
    "planar_defects": "one record for each planar defect of the particles",
}
# Which structure an object belongs to; the table of the images has them too.
KEYS = ("database", "campaign", "structure_id")


def list_objects(collection: Collection) -> list[str]:
    """The tables of OBJECTS that a database of the collection has."""
    return [name for name in OBJECTS if any(table == name for table, _ in collection.joined)]


def list_columns(collection: Collection, table: str) -> dict[str, Column]:
    """The columns of such a table by name, those of KEYS first.

    Raises ConfigError where the databases' columns of a name cannot be one.
    """
    keys = {name: collection.joined["images", name] for name in KEYS[:2]}
    keys["structure_id"] = collection.joined[table, "structure_id"]  # the structure of these rows
    own = {name: usable(column) for (of, name), column in collection.joined.items() if of == table}
    return keys | {name: column for name, column in own.items() if name not in KEYS}


def read_objects(parts: Sequence[Part], table: str) -> Iterator[pyarrow.Table]:
    """Objects of the structures that the parts show, once each, one Arrow table per database."""
    import pyarrow as pa

    whole = parts[0].collection
    columns = list_columns(whole, table)
    for number, (database, file) in enumerate(zip(whole.databases, whole.files, strict=True)):
        if table not in database.layout.tables:
            continue
        rows = [part.collection.rows[part.collection.sources == number] for part in parts]
        shown = np.unique(database.structure_of("images", np.concatenate(rows)))
        candidates = database.rows(table)
        there = np.isin(database.structure_of(table, candidates), shown)
        block = make_block(database, file, table, candidates[there])
        arrays = [read_arrow(block, column) for column in columns.values()]
        yield pa.table(arrays, names=list(columns))
