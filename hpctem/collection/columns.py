"""Columns of one or several databases as one: what they are, and their values for given rows.

Values are taken from the file mapped into memory: only the columns that are asked for are read, and
nothing goes through HDF5 once their places are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow

# What is true of an image by where it stands: name -> (dtype, description). Every table has the
# structure_id.
STANDING = {
    "database": ("U", "file name of the database"),
    "campaign": ("U", "name of the campaign"),
    "row": ("i8", "row of the image in its file"),
    "structure_id": ("i8", "index of the structure in the campaign"),
}
NUMBERS = "iuf"
# Column of a table with several rows for each structure that says which of its images, counted from
# 0, a row is about; without it the rows are about the structure.
IMAGE = "image"


@dataclass(frozen=True)
class Column:
    """One column over all databases.

    table        'images', 'structures', 'particles', ...
    dtype        of the values; 'U' stands for text
    shape        of one value, () or (k,)
    units        'angstrom', 'eV', 'rad', ...; '' for pure numbers
    categories   all names that a value can have; () where it is no category
    nan          a NaN means 'does not apply' and is NULL for a condition
    missing      names of the files that have no such column: NULL there, NaN or '' as arrays
    conflict     why the files' columns of this name cannot be one; '' where they can
    """

    name: str
    table: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()
    units: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    nan: bool = False
    missing: tuple[str, ...] = ()
    conflict: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.dtype.kind in NUMBERS


def join_columns(databases: Sequence[Database]) -> dict[tuple[str, str], Column]:
    """(table, name) -> column, of all databases in the order of their layouts.

    A column that differs between files (units, shape, number or text) keeps its `conflict`, so that
    only those who use it are refused. Integers and floats of different width become the wider.
    """
    names = tell_apart(databases)
    joined: dict[tuple[str, str], Column] = {}
    holders: dict[tuple[str, str], list[str]] = {}
    for database, file in zip(databases, names, strict=True):
        for item in database.layout.fields:
            if len(item.shape) < 2 and item.dtype.kind in NUMBERS + "S":
                key, column = (item.table, item.name), _describe(item)
                joined[key] = _merge(joined[key], column, file) if key in joined else column
                holders.setdefault(key, []).append(file)
    for key, column in joined.items():
        missing = tuple(file for file in names if file not in holders[key])
        joined[key] = replace(column, missing=missing)
    belonging = {"database": names, "campaign": [database.name for database in databases]}
    for name, (kind, description) in STANDING.items():
        categories = tuple(dict.fromkeys(belonging.get(name, ())))
        column = Column(name, "images", np.dtype(kind), (), "", description, categories)
        joined["images", name] = column
    for table in {table for table, _ in joined}:
        joined[table, "structure_id"] = replace(joined["images", "structure_id"], table=table)
    return joined


def is_of_images(table: str, columns: Mapping[tuple[str, str], Column]) -> bool:
    """Whether each row of a table is about one image of its structure, as a defect seen there."""
    return (
        table not in ("images", "structures")
        and (table, IMAGE) in columns
        and columns[table, IMAGE].dtype.kind in "iu"
    )


def tell_apart(databases: Sequence[Database]) -> tuple[str, ...]:
    """Names of the files; with their folders where two files have the same name."""
    names = [database.path.name for database in databases]
    return tuple(
        str(database.path) if names.count(name) > 1 else name
        for database, name in zip(databases, names, strict=True)
    )


def _describe(item: Field) -> Column:
    text = item.dtype.kind == "S" or item.categories
    return Column(
        name=item.name,
        table=item.table,
        dtype=np.dtype("U") if text else item.dtype,
        shape=item.shape,
        units=item.units,
        description=item.description,
        categories=item.categories,
        nan=item.nan,
    )


def _merge(one: Column, other: Column, file: str) -> Column:
    if one.units != other.units:
        clash = f"in {other.units or 'no unit'} and elsewhere in {one.units or 'no unit'}"
    elif one.shape != other.shape:
        clash = f"of shape {other.shape} and elsewhere {one.shape}"
    elif _kind(one) != _kind(other):
        clash = f"{_kind(other)} and elsewhere {_kind(one)}"
    else:
        return replace(
            one,
            dtype=np.result_type(one.dtype, other.dtype),
            categories=tuple(dict.fromkeys((*one.categories, *other.categories))),
            nan=one.nan or other.nan,
        )
    return replace(one, conflict=one.conflict or f"in {file} it is {clash}")


def _kind(column: Column) -> str:
    if column.categories:
        return "a category"
    return {"i": "an integer", "u": "an integer", "f": "a float"}.get(column.dtype.kind, "text")


def find_column(columns: Mapping[Any, Column], name: str, table: str = "") -> Column:
    """The column of that name: 'dose', 'structures.height'; of the images before the structures.

    Raises ConfigError that names the nearest columns when there is none, or the table where the
    name belongs to a table with several rows for each image.
    """
    given, _, last = name.rpartition(".")
    for where in (table or given,) if table or given else ("images", "structures"):
        if (where, last) in columns:
            return usable(columns[where, last])
    elsewhere = [table for table, other in columns if other == name]
    if elsewhere and not (table or given):
        raise ConfigError(
            f"{name!r} is a column of {' and '.join(elsewhere)}, which have several rows for each "
            f"image: write {elsewhere[0]}.{name}"
        )
    raise ConfigError(f"there is no column {name!r}{_nearest(columns, name)}")


def usable(column: Column) -> Column:
    """The column itself. Raises ConfigError when the databases' columns cannot be one."""
    if column.conflict:
        raise ConfigError(
            f"the column {column.name!r} cannot be used over all databases: {column.conflict}; "
            "query them one by one"
        )
    return column


def _nearest(columns: Iterable[tuple[str, str]], name: str) -> str:
    import difflib

    written: dict[str, list[str]] = {}
    for table, last in columns:
        plain = table == "images" or (table == "structures" and ("images", last) not in columns)
        written.setdefault(last.lower(), []).append(last if plain else f"{table}.{last}")
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), written, n=3)
    if not near:
        return "; 'hpctem info --columns' lists them"
    return f"; nearest: {', '.join(full for last in near for full in written[last])}"


@dataclass(frozen=True)
class Block:
    """Rows of one table of one file: a slice of file rows where they lie side by side.

    file   the name that tells the database from the others
    """

    database: Database
    file: str
    table: str
    rows: slice | np.ndarray

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    @property
    def numbers(self) -> np.ndarray:
        """(n,) int64 file rows."""
        if isinstance(self.rows, slice):
            return np.arange(self.rows.start, self.rows.stop, dtype=np.int64)
        return self.rows

    @property
    def structures(self) -> np.ndarray:
        """(n,) int64 structures that the rows belong to, counted from 0 in the file."""
        return self.database.structure_of(self.table, self.numbers)

    @property
    def images(self) -> np.ndarray:
        """(n,) int64 file rows of the images that the rows are about; see `is_of_images`."""
        if self.table == "images":
            return self.numbers
        path = f"/entry/{self.table}/{IMAGE}"
        within = self.database.mapped(path)[self.rows].astype(np.int64)
        return self.structures * self.database.layout.rows_per_structure["images"] + within


def make_block(database: Database, file: str, table: str, rows: np.ndarray) -> Block:
    """The block of these file rows."""
    n = len(rows)
    if n and rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all()):
        return Block(database, file, table, slice(int(rows[0]), int(rows[0]) + n))
    return Block(database, file, table, rows)


def read_values(block: Block, column: Column) -> np.ndarray:
    """Values (n, *shape) of a column for the rows of a block; texts and categories as str.

    Of a structure's column the value is repeated for each row of the structure. Where the file has
    no such column: NaN for numbers, '' for text.
    """
    item = _stored_as(block.database, column)
    if item is not None:
        if not column.numeric:
            stored, places = _stored_texts(block, column, item)
            return block.database.decode(item, stored)[places]
        values = _raw(block, column, item)
        return values.astype(np.float64 if column.missing else column.dtype, copy=False)
    if block.file in column.missing:
        return np.full((len(block), *column.shape), np.nan if column.numeric else "")
    return _standing(block, column.name)


def _stored_as(database: Database, column: Column) -> Field | None:
    found = (f for f in database.layout.fields_of(column.table) if f.name == column.name)
    return next(found, None)


def _raw(block: Block, column: Column, item: Field) -> np.ndarray:
    rows = block.rows if block.table == column.table else block.structures
    return block.database.mapped(item.path)[rows]


def _stored_texts(
    block: Block, column: Column, item: Field
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Texts or category numbers as stored, and which of them each row has.

    A structure's text is there once for all its rows: to make texts costs much.
    """
    if item.dtype.kind != "S" or block.table == column.table or not len(block):
        return _raw(block, column, item), slice(None)
    structures = block.structures
    first, last = int(structures.min()), int(structures.max())
    if last - first >= len(structures):
        return _raw(block, column, item), slice(None)
    there = np.zeros(last + 1 - first, bool)
    there[structures - first] = True
    stored = block.database.mapped(item.path)[first : last + 1][there]
    return stored, (np.cumsum(there) - 1)[structures - first]


def _standing(block: Block, name: str) -> np.ndarray:
    if name == "row":
        return block.numbers
    if name == "structure_id":
        return block.structures + block.database.layout.first_structure
    return np.full(len(block), _belonging(block, name))


def _belonging(block: Block, name: str) -> str:
    return block.file if name == "database" else block.database.name


def arrow_type(column: Column) -> pyarrow.DataType:
    """Arrow's type of a column: categories are a dictionary, a value of shape (k,) is a list."""
    import pyarrow as pa

    if column.categories:
        return pa.dictionary(pa.from_numpy_dtype(_number_type(column)), pa.string())
    kind = pa.from_numpy_dtype(column.dtype) if column.numeric else pa.string()
    return pa.list_(kind, column.shape[0]) if column.shape else kind


def _number_type(column: Column) -> np.dtype:
    return np.min_scalar_type(len(column.categories))


def read_arrow(block: Block, column: Column) -> pyarrow.Array:
    """The same values for Arrow: categories as a dictionary, NULL where the file has no column.

    The bytes of the file are used where they lie, if they lie side by side and are aligned.
    """
    import pyarrow as pa

    kind = arrow_type(column)
    if block.file in column.missing:
        return pa.nulls(len(block), kind)
    item = _stored_as(block.database, column)
    if column.categories:
        return pa.DictionaryArray.from_arrays(_numbers(block, column, item), column.categories)
    if not column.numeric and item is not None:
        stored, places = _stored_texts(block, column, item)
        texts = pa.array(block.database.decode(item, stored).reshape(-1).tolist(), pa.string())
        texts = pa.FixedSizeListArray.from_arrays(texts, type=kind) if column.shape else texts
        return texts if isinstance(places, slice) else texts.take(places)
    values = _standing(block, column.name) if item is None else _raw(block, column, item)
    values = values.astype(column.dtype, copy=values.ctypes.data % column.dtype.itemsize != 0)
    flat = pa.array(values.reshape(-1), from_pandas=column.nan)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind) if column.shape else flat


def _numbers(block: Block, column: Column, item: Field | None) -> np.ndarray:
    """Category numbers among the categories of all databases."""
    number = _number_type(column)
    if item is None:
        place = column.categories.index(_belonging(block, column.name))
        return np.full(len(block), place, number)
    values = _raw(block, column, item)
    block.database.check(item, values)
    if item.categories == column.categories:
        values = np.asarray(values).astype(number, copy=False)
    else:
        values = np.array([column.categories.index(c) for c in item.categories], number)[values]
    return values
