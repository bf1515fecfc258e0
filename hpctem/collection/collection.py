"""The images of one or several databases as one sequence: columns, conditions, images, labels.

A collection is a view: which rows of which databases, in which order. Conditions, slices and
subsets give smaller views of the same files; nothing is read before it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctem.collection.columns import (
    Block,
    Column,
    find_column,
    join_columns,
    make_block,
    read_arrow,
    read_values,
    tell_apart,
)
from hpctem.collection.image import Image
from hpctem.collection.joined import JoinedRows
from hpctem.collection.objects import list_objects, read_objects
from hpctem.collection.stacks import DETECTORS, find_stack, join_names
from hpctem.database.reader import Database, open_database
from hpctem.database.rows import StoredRows
from hpctem.errors import ConfigError, DatabaseError

if TYPE_CHECKING:
    import pyarrow

    from hpctem.subsets.subset import Subset

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Collection:
    """Rows of the image tables of open databases, in an order of their own; immutable.

    databases   the open databases
    sources     (n,) uint16, which database
    rows        (n,) int64, which row of its image table: the file's own row

    `len(c)`; `c[3]` is one image with its columns, `c[10:20]`, `c[[5, 3]]`, `c[mask]` are
    collections. Threads and forked processes may share it; pickled, it opens its files again.
    """

    databases: tuple[Database, ...]
    sources: np.ndarray
    rows: np.ndarray

    def __post_init__(self) -> None:
        for values in (self.sources, self.rows):
            values.flags.writeable = False

    def __len__(self) -> int:
        return len(self.rows)

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of all databases, also for the views taken of this collection."""
        for database in self.databases:
            database.close()

    def __repr__(self) -> str:
        files = ", ".join(self.files)
        return f"<{len(self)} images of {files}; {len(self.columns)} columns>"

    def __reduce__(self) -> tuple[Any, ...]:
        keys = tuple((database.location, database.key) for database in self.databases)
        return _reopen, (keys, self.sources, self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of {len(self)}")
            return Image(self, int(index) % len(self))
        return self.take(index)

    def take(self, index: Any) -> Collection:
        """The view of these places: a slice, numbers (in any order, also repeated) or a mask."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
                raise IndexError(f"images are chosen by number, slice, numbers or mask: {index!r}")
            index = index if index.size else index.astype(np.int64)
        return Collection(self.databases, self.sources[index], self.rows[index])

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the databases as in the column `database`."""
        return tell_apart(self.databases)

    @cached_property
    def joined(self) -> dict[tuple[str, str], Column]:
        """(table, name) -> column of all tables, also those with several rows for a structure."""
        return join_columns(self.databases)

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """Name -> column that has one value for each image: `database`, `campaign`, `row`,
        those of the images, those of their structures ('structures.x' where the images have x)."""
        standing = [self.joined["images", name] for name in ("database", "campaign", "row")]
        chosen = {column.name: column for column in standing}
        for table in ("images", "structures"):
            for (of, name), column in self.joined.items():
                if of == table and not (table == "structures" and name == "structure_id"):
                    known = table == "structures" and name in chosen
                    chosen[f"structures.{name}" if known else name] = column
        return chosen

    def find(self, name: str) -> Column:
        """The column that has this name for an image: 'dose', 'images.dose', 'structures.height'.

        Raises ConfigError, with the nearest names, when there is none.
        """
        column = find_column(self.joined, name)
        if column.table not in ("images", "structures"):
            raise ConfigError(
                f"{name} has several values for each image, as the table {column.table} has "
                f"several rows; it can be used in conditions"
            )
        return column

    def column(self, name: str) -> np.ndarray:
        """Values (n, *shape) of a column; texts and categories as str, NaN where a file has none.

        Raises ConfigError, with the nearest names, when there is no such column.
        """
        column = self.find(name)
        parts = [read_values(block, column) for block in self.blocks]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return values if self.places is None else values[self.places]

    def arrow(self, name: str) -> pyarrow.ChunkedArray:
        """The same for Arrow, without a copy where the rows lie side by side in the file."""
        import pyarrow as pa

        column = self.find(name)
        values = pa.chunked_array([read_arrow(block, column) for block in self.blocks])
        return values if self.places is None else values.take(self.places)

    @cached_property
    def images(self) -> StoredRows | JoinedRows:
        """The images as a lazy sequence: images[3] is (ny, nx), images[10:20] a stack of them."""
        return self._lazy(lambda database: database.image_path)

    @cached_property
    def labels(self) -> StoredRows | JoinedRows:
        """The first label of `label_names` as a lazy sequence of arrays (ny, nx).

        Of particles uint8, 0 background, k particle k; of crystals their atom columns, k class k.
        """
        return self._lazy(lambda database: database.label_path)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the label maps that any of the databases has."""
        return join_names(self.databases)

    @property
    def detector_names(self) -> tuple[str, ...]:
        """Names of the detectors whose images any of the databases has beside `images`."""
        return join_names(self.databases, DETECTORS)

    def label(self, name: str) -> StoredRows | JoinedRows:
        """A label map by its name as a lazy sequence of arrays (ny, nx), as `images` is one.

        Raises ConfigError, with what there is, where a database that gives images has none.
        """
        return self._lazy(lambda database: find_stack(database, name).path)

    def detector(self, name: str) -> StoredRows | JoinedRows:
        """Images of a further detector, (ny, nx) or (segments, ny, nx); errors as `label`."""
        return self._lazy(lambda database: find_stack(database, name, DETECTORS).path)

    @property
    def object_names(self) -> list[str]:
        """Tables of what images show several of: 'defects', 'columns', 'particles' ..."""
        return list_objects(self)

    def objects(self, table: str) -> pyarrow.Table:
        """What these images show, one row for each defect, atom column or particle, once each.

        Columns database, campaign and row say which image a row is about; without the column row
        it is about the structure of structure_id. Raises ConfigError, with the tables that there
        are, for another.
        """
        import pyarrow as pa

        return pa.concat_tables(read_objects([self], table), promote_options="permissive")

    def where(self, condition: str) -> Collection:
        """The images that fulfil an SQL condition, in their order.

        Raises ConfigError for a condition that is not understood, names a column that does not
        exist, or does anything but compare.
        """
        from hpctem.collection.query import find_places

        return self.take(find_places(self, where=condition))

    def table(
        self,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> pyarrow.Table:
        """Columns of the images that fulfil a condition, as an Arrow table (`.to_pandas()`).

        where     SQL condition; all images without it
        columns   names as in `columns`; all without it
        order     SQL expressions to sort by, as 'dose DESC, defocus'; ties stay in their order
        limit     the first so many

        Raises ConfigError as `where` does.
        """
        import pyarrow as pa

        from hpctem.collection.query import find_places

        names = list(self.columns) if columns is None else list(columns)
        for name in names:
            self.find(name)
        chosen = self
        if where is not None or order is not None or limit is not None:
            chosen = self.take(find_places(self, where, order, limit))
        arrays = [chosen.arrow(name) for name in names]
        return pa.table(arrays, names=names)

    def subset(self, **options: Any) -> Subset:
        """Rows drawn from these images; the options are those of `hpctem subset`.

        where, sample, per, stratify, balance, split, folds, draws, seed ...; see
        `hpctem.subsets.subset.draw_subset`, also for what it raises.
        """
        from hpctem.subsets.subset import draw_subset

        return draw_subset(self, **options)

    def show(self, places: Any = slice(4)) -> Any:
        """A picture of some images, by default the first four, as a matplotlib Figure.

        Image, mask, power spectrum and metadata of each. Raises ConfigError for more than a few.
        """
        from hpctem.pictures import draw_rows

        places = [places] if isinstance(places, int | np.integer) else places
        return draw_rows(self, np.arange(len(self))[places].tolist())

    def table_blocks(self, table: str) -> list[Block]:
        """All rows of a table that good structures use, one block for each database with it."""
        return [
            make_block(database, file, table, database.rows(table))
            for database, file in zip(self.databases, self.files, strict=True)
            if table in database.layout.tables
        ]

    @cached_property
    def blocks(self) -> list[Block]:
        """The rows, one block for each database that has some, in the order of the databases."""
        pairs = enumerate(zip(self.databases, self.files, strict=True))
        if len(self.databases) == 1:
            return [make_block(*pair, "images", self.rows) for _, pair in pairs]
        return [
            make_block(*pair, "images", self.rows[self.sources == source]) for source, pair in pairs
        ]

    @cached_property
    def places(self) -> np.ndarray | None:
        """Where in the sequence of all blocks each row is; None where all are in their place."""
        if bool((self.sources[1:] >= self.sources[:-1]).all()):
            return None
        order = np.argsort(self.sources, kind="stable")
        places = np.empty(len(self), np.int64)
        places[order] = np.arange(len(self))
        return places

    def _lazy(self, path_of: Callable[[Database], str]) -> StoredRows | JoinedRows:
        pairs = list(zip(self.databases, self.blocks, strict=True))
        used = [pair for pair in pairs if len(pair[1].numbers)] or pairs[:1]
        parts = [database.stored(path_of(database), block.numbers) for database, block in used]
        if len(parts) == 1:
            return parts[0]
        places = np.arange(len(self)) if self.places is None else self.places
        return JoinedRows(tuple(parts), places)


def list_paths(paths: Paths) -> list[str | os.PathLike[str]]:
    """One path or several, as a list."""
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def open_collection(paths: Paths) -> Collection:
    """All good images of one or several databases, in the order of the files and their rows.

    Of an unfinished database those that are committed by now.

    Raises DatabaseError as `open_database` does, ConfigError for no file or one named twice.
    """
    files = list_paths(paths)
    if not files:
        raise ConfigError("no database was named")
    seen: dict[Path, Any] = {}
    for file in files:
        if Path(file).resolve() in seen:
            raise ConfigError(f"{file} is named twice: its images would count twice")
        seen[Path(file).resolve()] = file
    databases = tuple(open_database(Path(file)) for file in files)
    for database in databases:
        if "images" not in database.layout.tables:
            raise DatabaseError(f"{database.path} holds no images")
    rows = [database.rows("images") for database in databases]
    sources = np.repeat(np.arange(len(rows), dtype=np.uint16), [len(r) for r in rows])
    return Collection(databases, sources, np.concatenate(rows) if len(rows) > 1 else rows[0])


def _reopen(keys: Any, sources: np.ndarray, rows: np.ndarray) -> Collection:
    """What a pickled collection becomes: the same rows of the same files.

    Raises DatabaseError when a file is no longer that of the same plan, or its rows are not good.
    """
    databases = []
    for number, (path, key) in enumerate(keys):
        database = open_database(path)
        if database.key != key:
            raise DatabaseError(f"{path} is another database than when the collection was made")
        database.require("images", rows[sources == number])
        databases.append(database)
    return Collection(tuple(databases), sources, rows)
