"""What databases hold, in numbers: for `hpctem info` and the summary after a job.

Every number is read from the tables, a piece of a column at a time: a million rows take well under
a second and a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.database.reader import Database, open_database
from hpctem.database.schema import ATOMS_DIGEST, Field

MOST_DISTINCT = 12
# Larger columns (positions of all atoms) are read only when all columns are asked for.
MOST_BYTES = 512 * 2**20
PIECE_BYTES = 512 * 2**10
FIRST_LOOK = 256


@dataclass(frozen=True)
class Column:
    """One column of a database over its good rows.

    smallest, largest   of a numeric column, None where there is no value
    absent              values that are NaN: they do not apply
    values              value -> number of rows, where there are at most 12 distinct ones
    distinct            number of distinct values; None where there are more than 12, or where they
                        are not counted: in a column of vectors or one that was not read
    read                False for a column too large to be read unless all is asked for
    """

    name: str
    path: str
    table: str
    units: str
    description: str
    shape: tuple[int, ...]
    dtype: str
    smallest: float | None = None
    largest: float | None = None
    absent: int = 0
    distinct: int | None = None
    values: Mapping[Any, int] | None = None
    read: bool = True

    @property
    def varies(self) -> bool:
        """Whether it is known to hold more than one value."""
        return self.distinct != 1 if not self.shape else self.smallest != self.largest


@dataclass(frozen=True)
class Array:
    """A dataset whose rows are arrays, such as a label map; classes: names of its values."""

    path: str
    table: str
    units: str
    description: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Information:
    """Counts, columns, bad structures, size and campaign texts of a database.

    complete      every structure is committed
    marked        the end was verified and marked in the folder beside the file
    counts        'structures', 'pending', 'good', 'quarantined', and good rows of every table
    first         campaign index of the first structure (volumes)
    images        shape and dtype of one image, e.g. ((512, 512), 'uint16'); None without images
    arrays        label maps, images of further detectors and other arrays beside the images
    quarantined   (campaign index, reason)
    size          bytes of the file
    identity      what must not change between two runs: config, code, libraries, device
    """

    path: Path
    name: str
    complete: bool
    marked: bool
    counts: Mapping[str, int]
    first: int
    images: tuple[tuple[int, ...], str] | None
    arrays: tuple[Array, ...]
    columns: tuple[Column, ...]
    quarantined: tuple[tuple[int, str], ...]
    size: int
    campaign: Mapping[str, str]
    identity: Mapping[str, str]


@dataclass(frozen=True)
class Union:
    """Several databases as one.

    counts     summed
    distinct   structures that are not the same atoms; None where a file does not tell
    columns    of all; ranges and values together
    differing  columns of one name that cannot be one: their units, shapes or kinds differ
    """

    names: tuple[str, ...]
    complete: bool
    counts: Mapping[str, int]
    distinct: int | None
    columns: tuple[Column, ...]
    differing: tuple[str, ...]
    size: int


def inform(path: str | Path, thorough: bool = False) -> Information:
    """Everything `hpctem info` shows of a database, finished or not.

    thorough   read also columns of more than 512 MiB

    Raises DatabaseError as `open_database` does.
    """
    with open_database(path) as database:
        layout = database.layout
        images = None
        if layout.stacks:
            signal = database.field(layout.stacks[0].signal)
            images = (signal.shape, signal.dtype.name)
        return Information(
            path=Path(path),
            name=database.name,
            complete=database.complete,
            marked=database.marked,
            counts=database.counts,
            first=layout.first_structure,
            images=images,
            arrays=tuple(
                _describe_array(item)
                for item in layout.fields
                if len(item.shape) > 1 and item.path not in [s.signal for s in layout.stacks[:1]]
            ),
            columns=tuple(
                describe_column(database, item, thorough)
                for item in layout.fields
                if len(item.shape) < 2
            ),
            quarantined=tuple(database.quarantined),
            size=Path(path).stat().st_size,
            campaign=database.campaign,
            identity=database.identity,
        )


def _describe_array(item: Field) -> Array:
    classes = tuple(map(str, item.attributes.get("classes", ())))
    about = item.path, item.table, item.units, item.description
    return Array(*about, item.shape, item.dtype.name, classes)


def describe_column(database: Database, item: Field, thorough: bool = True) -> Column:
    """Range and distinct values of a column over the good rows of a database."""
    column = Column(
        name=item.name,
        path=item.path,
        table=item.table,
        units=item.units,
        description=item.description,
        shape=item.shape,
        dtype="text" if item.dtype.kind == "S" else item.dtype.name,
    )
    if database.layout.rows(item.table) * item.row_bytes > MOST_BYTES and not thorough:
        return replace(column, read=False)
    found = _survey(_pieces(database, item), counted=not item.shape and item.dtype.kind != "c")
    values = found.values
    if values is not None and (item.categories or item.dtype.kind == "S"):
        names = database.decode(item, np.array(list(values), item.dtype)).tolist()
        values = dict(zip(names, values.values(), strict=True))
    if item.categories or item.dtype.kind == "S":
        found = replace(found, smallest=None, largest=None)
    return replace(
        column,
        smallest=found.smallest,
        largest=found.largest,
        absent=found.absent,
        values=None if values is None else dict(sorted(values.items())),
        distinct=None if values is None else len(values),
    )


def _pieces(database: Database, item: Field) -> Iterator[np.ndarray]:
    """The values of the good rows, one piece of the file after the other."""
    total = database.layout.rows(item.table)
    used = database.used(item.table)
    whole = bool(used.all())
    step = max(1, PIECE_BYTES // item.row_bytes)
    for start in range(0, total, step):
        chosen = used[start : start + step]
        if whole or chosen.any():
            piece = database.piece(item, start, len(chosen))
            yield piece if whole else piece[chosen]


@dataclass(frozen=True)
class _Survey:
    """Range, NaNs, and number of rows of each value while they are few."""

    smallest: Any = None
    largest: Any = None
    absent: int = 0
    values: dict[Any, int] | None = None


def _survey(pieces: Iterable[np.ndarray], counted: bool) -> _Survey:
    smallest = largest = None
    absent = 0
    values: dict[Any, int] | None = {} if counted else None
    for piece in pieces:
        piece = piece.reshape(-1)
        if piece.dtype.kind == "f" and not np.isfinite(piece.sum()):
            known = np.isfinite(piece)
            absent += piece.size - int(np.count_nonzero(known))
            piece = piece[known]
        if not piece.size:
            continue
        low = high = None
        if piece.dtype.kind in "iuf":
            low, high = piece.min().item(), piece.max().item()
            smallest = low if smallest is None else min(low, smallest)
            largest = high if largest is None else max(high, largest)
        if values is not None:
            if low is not None and low == high:
                values[low] = values.get(low, 0) + piece.size
            elif not _count(piece, values):
                values = None
            if values is not None and len(values) > MOST_DISTINCT:
                values = None
    return _Survey(smallest, largest, absent, values)


def _count(piece: np.ndarray, values: dict[Any, int]) -> bool:
    """Add how often each value occurs in the piece; False as soon as they are more than twelve."""
    candidates = list(values)
    while piece.size:
        candidates = candidates or np.unique(piece[:FIRST_LOOK]).tolist()
        if len(values.keys() | set(candidates)) > MOST_DISTINCT:
            return False
        counted = 0
        for value in candidates:
            number = int(np.count_nonzero(piece == value))
            values[value] = values.get(value, 0) + number
            counted += number
        if counted == piece.size:
            break
        piece = piece[~np.isin(piece, np.array(candidates, piece.dtype))]
        candidates = []
    return True


def unite(found: Sequence[Information]) -> Union:
    """What several databases hold together.

    Structures are the same where the digests of their atoms are: campaigns of one seed share them.
    """
    columns: dict[tuple[str, str], Column] = {}
    differing: dict[tuple[str, str], None] = {}
    for one in found:
        for column in one.columns:
            key = column.table, column.name
            other = columns.setdefault(key, column)
            if not _can_join(other, column):
                differing[key] = None
            elif other is not column:
                columns[key] = _join(other, column)
    counts: dict[str, int] = {}
    for one in found:
        for name, number in one.counts.items():
            counts[name] = counts.get(name, 0) + number
    return Union(
        names=tuple(dict.fromkeys(one.name for one in found)),
        complete=all(one.complete for one in found),
        counts=counts,
        distinct=_count_structures(found),
        columns=tuple(column for key, column in columns.items() if key not in differing),
        differing=tuple(f"{table}.{name}" for table, name in differing),
        size=sum(one.size for one in found),
    )


def _can_join(one: Column, two: Column) -> bool:
    kinds = {isinstance(value, str) for c in (one, two) for value in c.values or ()}
    return (one.units, one.shape) == (two.units, two.shape) and len(kinds) < 2


def _join(one: Column, two: Column) -> Column:
    lows = [c.smallest for c in (one, two) if c.smallest is not None]
    highs = [c.largest for c in (one, two) if c.largest is not None]
    values: dict[Any, int] | None = None
    if one.values is not None and two.values is not None:
        names = sorted(one.values.keys() | two.values.keys())
        if len(names) <= MOST_DISTINCT:
            values = {name: one.values.get(name, 0) + two.values.get(name, 0) for name in names}
    return replace(
        one,
        dtype=one.dtype if one.dtype == two.dtype else f"{one.dtype}, {two.dtype}",
        smallest=min(lows, default=None),
        largest=max(highs, default=None),
        absent=one.absent + two.absent,
        values=values,
        distinct=None if values is None else len(values),
        read=one.read and two.read,
    )


def _count_structures(found: Sequence[Information]) -> int | None:
    digests = []
    for one in found:
        if not any(column.path == ATOMS_DIGEST for column in one.columns):
            return None
        with open_database(one.path) as database:
            digests.append(database.column(ATOMS_DIGEST))
    whole = np.ascontiguousarray(np.concatenate(digests))
    return len(np.unique(whole.view(f"V{whole.shape[1]}")))
