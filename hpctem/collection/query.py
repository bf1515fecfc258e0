"""Which images of a collection fulfil a condition, and in which order: DuckDB over its columns.

Only the columns that the SQL names are read; DuckDB gets them as Arrow arrays over the bytes of the
file where these are aligned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpctem.collection.columns import Block, Column, arrow_type, is_of_images, read_arrow
from hpctem.collection.condition import Condition, check_condition, check_order
from hpctem.collection.names import IMAGE, PLACE, STRUCTURE, key_of
from hpctem.collection.sql import connect, first_line
from hpctem.errors import ConfigError, MachineError

if TYPE_CHECKING:
    import pyarrow

    from hpctem.collection.collection import Collection


def find_places(
    collection: Collection,
    where: str | None = None,
    order: str | None = None,
    limit: int | None = None,
) -> np.ndarray:
    """(n,) int64 places in the collection of the images that fulfil a condition.

    In their order in the collection, or sorted by the SQL expressions of `order` (ties stay in
    their order); the first `limit`.

    Raises ConfigError for SQL that is not understood or not allowed or cannot be computed,
    MachineError when it needs more memory than it may have.
    """
    condition = None if where is None else check_condition(where, collection.joined)
    sorting = None if order is None else check_order(order, collection.joined)
    if limit is not None and limit < 0:
        raise ConfigError(f"the limit {limit} is negative")
    places = np.arange(len(collection), dtype=np.int64)
    if condition is not None:
        places = np.unique(_run(collection, condition, f"WHERE {condition.text}"))
    if sorting is not None and len(places):
        chosen = collection if condition is None else collection.take(places)
        first = "" if limit is None else f" LIMIT {int(limit)}"
        last = f'ORDER BY {sorting.text}, images."{PLACE}"{first}'
        places = places[_run(chosen, sorting, last)]
    return places[:limit]


def named_columns(collection: Collection, where: str | None, order: str | None) -> list[str]:
    """Columns of the images and their structures that a condition and an order name, sorted.

    Raises ConfigError as `find_places` does.
    """
    named: set[tuple[str, str]] = set()
    if where is not None:
        named |= check_condition(where, collection.joined).columns
    if order is not None:
        named |= check_order(order, collection.joined).columns
    columns = collection.columns
    return sorted(name for name, c in columns.items() if (c.table, c.name) in named)


def _run(collection: Collection, condition: Condition, clause: str) -> np.ndarray:
    """Places of the images that a clause leaves; an image comes as often as rows of its parts."""
    import duckdb

    joins = ""
    for table in ("structures", *condition.parts):
        if table in condition.tables:
            kind = "JOIN" if table == "structures" else "LEFT JOIN"
            key = IMAGE if is_of_images(table, collection.joined) else STRUCTURE
            joins += f' {kind} "{table}" ON {key_of(table, key)} = {key_of("images", key)}'
    query = f'SELECT images."{PLACE}" FROM images{joins} {clause}'
    try:
        with connect() as connection:
            for table in sorted({"images", *condition.tables}):
                connection.register(table, _relation(collection, table, condition))
            return np.asarray(connection.execute(query).fetchnumpy()[PLACE])
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise MachineError(f"the condition needs too much memory: {first_line(error)}") from error
    except (duckdb.Error, RuntimeError) as error:
        raise ConfigError(f"the condition cannot be computed: {first_line(error)}") from error


def _relation(collection: Collection, table: str, condition: Condition) -> pyarrow.Table:
    """The columns of a table that a condition names, with the keys that join the tables."""
    import pyarrow as pa

    keyed = table != "images" or condition.tables != {"images"}
    seen = [of for of in condition.tables if is_of_images(of, collection.joined)]
    names = sorted(name for of, name in condition.columns if of == table)
    if table == "images":
        blocks = collection.blocks
        order = collection.places
    else:
        blocks, order = collection.table_blocks(table), None
    columns = [collection.joined[table, name] for name in names]
    arrays = [_chunks(blocks, column) for column in columns]
    if keyed:
        names.append(STRUCTURE)
        arrays.append(_keys(collection, blocks, STRUCTURE))
    if seen and table in ("images", *seen):
        names.append(IMAGE)
        arrays.append(_keys(collection, blocks, IMAGE))
    found = pa.table(arrays, names=names) if names else None
    if order is not None and found is not None:
        found = found.take(order)
    if table != "images":
        return found
    places = pa.array(np.arange(len(collection), dtype=np.int64))
    return pa.table([places], [PLACE]) if found is None else found.append_column(PLACE, places)


def _chunks(blocks: Sequence[Block], column: Column) -> pyarrow.ChunkedArray:
    import pyarrow as pa

    return pa.chunked_array([read_arrow(block, column) for block in blocks], arrow_type(column))


def _keys(collection: Collection, blocks: Iterable[Block], key: str) -> pyarrow.ChunkedArray:
    """Of each row of one table its STRUCTURE or IMAGE, numbered through all databases."""
    import pyarrow as pa

    of = "images" if key == IMAGE else "structures"
    starts = np.cumsum([0, *(d.layout.rows(of) for d in collection.databases)])
    first = {id(d): start for d, start in zip(collection.databases, starts, strict=False)}
    keys = [getattr(block, of) + first[id(block.database)] for block in blocks]
    return pa.chunked_array([pa.array(part) for part in keys], pa.int64())
