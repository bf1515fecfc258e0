"""What a database holds: fields, tables, images and segments.

A *table* has a fixed number of rows for each structure (20 images, 1 row of structure columns, up
to 3 particles ...); a *field* is one dataset of a table; a *layout* is all fields together with
the range of structures and the number of structures committed at once (a segment). Row r of a
table belongs to structure r // rows_per_structure, so a row's place never depends on who computed
it.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError, DatabaseError

SEGMENT_BYTES = 256 * 2**20
MOST_SEGMENTS = 4096
DIGEST_BYTES = 16
ERROR_BYTES = 512
STATUSES = ("pending", "good", "quarantined")
PENDING, GOOD, QUARANTINED = range(3)
STATUS_PATH = "/entry/structures/status"
ERROR_PATH = "/entry/structures/error"
PLAN_PATH = "/entry/campaign/plan"
ATOMS_DIGEST = "/entry/structures/atoms_digest"


@dataclass(frozen=True)
class Field:
    """One dataset: a value of fixed type and shape for each row of a table.

    path         absolute HDF5 path, '/entry/metadata/dose'
    table        'images', 'structures', 'particles', ...
    dtype        fixed-size dtype; 'S96' is UTF-8 text cut at a character
    shape        shape of one row
    units        'angstrom', 'eV', 'rad', '' for pure numbers
    categories   names of the values 0, 1, ... of an unsigned integer field (an HDF5 enum)
    attributes   further HDF5 attributes (str, numbers, lists of them)
    nan          a NaN here means 'does not apply'; elsewhere it quarantines the structure
    """

    path: str
    table: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()
    units: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    nan: bool = False

    def __post_init__(self) -> None:
        dtype = np.dtype(self.dtype)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "categories", tuple(self.categories))
        if not self.path.startswith("/entry/") or self.path.endswith("/"):
            raise DatabaseError(f"field path {self.path!r} does not begin with '/entry/'")
        if dtype.kind not in "biufcS" or dtype.itemsize == 0 or dtype.byteorder == ">":
            raise DatabaseError(
                f"field {self.path} has dtype {dtype}, no fixed-size number or 'S<n>'"
            )
        if dtype.kind == "b":
            raise DatabaseError(f"field {self.path} has dtype bool; use uint8 with two categories")
        if self.categories and (dtype.kind != "u" or len(self.categories) > np.iinfo(dtype).max):
            raise DatabaseError(
                f"field {self.path} has {len(self.categories)} categories, which need an unsigned "
                f"integer that can count them, not {dtype}"
            )

    @property
    def name(self) -> str:
        """Last part of the path, the name of the column."""
        return self.path.rsplit("/", 1)[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Axis:
    """One regular axis of an image: coordinates offset + step * (0 ... size - 1) in `units`."""

    name: str
    size: int
    step: float
    units: str = "angstrom"
    offset: float = 0.0
    description: str = ""


@dataclass(frozen=True)
class Stack:
    """An NXdata group: the field `signal` as a stack of images with calibrated axes (y, x).

    The group is the parent of the signal's path; `row` names the axis that counts the rows of the
    whole campaign (also across volumes). The first stack of a layout is what viewers plot first.
    """

    signal: str
    axes: tuple[Axis, ...]
    row: str = "image"
    title: str = ""


@dataclass(frozen=True)
class Layout:
    """Everything that fixes the bytes of an empty database.

    structures              number of structures in this file
    first_structure         campaign index of the first one (volumes)
    rows_per_structure      rows of each table for one structure; unused rows stay zero
    structures_per_segment  structures committed together (see `choose_structures_per_segment`)
    fields                  all datasets; `status` and `error` of structures are added here
    counts                  table -> path of the structure column that counts its used rows
    campaign                name -> text, stored under /entry/campaign (config, hash, versions ...)
    stacks                  NXdata groups, the default plot first
    groups                  group path -> HDF5 attributes, on top of NX_class = NXcollection
    title                   title of the NXentry

    Raises DatabaseError when fields, tables and stacks do not fit together.
    """

    structures: int
    rows_per_structure: Mapping[str, int]
    structures_per_segment: int
    fields: tuple[Field, ...]
    first_structure: int = 0
    counts: Mapping[str, str] = field(default_factory=dict)
    campaign: Mapping[str, str] = field(default_factory=dict)
    stacks: tuple[Stack, ...] = ()
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    title: str = "hpctem campaign"

    def __post_init__(self) -> None:
        own = tuple(f for f in self.fields if f.path not in (STATUS_PATH, ERROR_PATH))
        object.__setattr__(self, "fields", (*own, *_outcome_fields()))
        object.__setattr__(self, "rows_per_structure", {"structures": 1, **self.rows_per_structure})
        object.__setattr__(self, "stacks", tuple(self.stacks))
        _check(self)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that hold at least one field, in order of first use."""
        return tuple(dict.fromkeys(f.table for f in self.fields))

    def rows(self, table: str) -> int:
        """Number of rows of a table in the whole file."""
        return self.structures * self.rows_per_structure[table]

    def fields_of(self, table: str) -> tuple[Field, ...]:
        """Fields of one table in the order in which their bytes enter the row's digest."""
        return tuple(f for f in self.fields if f.table == table)

    @property
    def digests(self) -> tuple[Field, ...]:
        """One 16-byte digest column for each table, written after its rows."""
        return tuple(
            Field(
                f"/entry/digests/{table}",
                table,
                np.dtype("u1"),
                (DIGEST_BYTES,),
                description=f"BLAKE2b-128 of all fields of this row of the table '{table}'",
            )
            for table in self.tables
        )

    @property
    def datasets(self) -> tuple[Field, ...]:
        """All datasets that are filled row by row: the fields and the digests."""
        return (*self.fields, *self.digests)

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-self.structures // self.structures_per_segment)

    def segment(self, number: int) -> range:
        """Structures of one segment, counted from 0 in this file."""
        first = number * self.structures_per_segment
        return range(first, min(first + self.structures_per_segment, self.structures))

    def row_range(self, table: str, structures: range) -> range:
        """Rows of a table that belong to a range of structures."""
        each = self.rows_per_structure[table]
        return range(structures.start * each, structures.stop * each)

    @property
    def structure_bytes(self) -> int:
        """Bytes stored for one structure in all tables, digests included."""
        return sum(f.row_bytes * self.rows_per_structure[f.table] for f in self.datasets)

    @property
    def data_bytes(self) -> int:
        """Bytes of all rows: the size of the file but for about a megabyte."""
        return self.structures * self.structure_bytes


def _outcome_fields() -> tuple[Field, Field]:
    return (
        Field(
            STATUS_PATH,
            "structures",
            np.dtype("u1"),
            categories=STATUSES,
            description="pending until computed, then good or quarantined",
        ),
        Field(
            ERROR_PATH,
            "structures",
            np.dtype(f"S{ERROR_BYTES}"),
            description="why the structure is quarantined; empty where it is good",
        ),
    )


def _check(layout: Layout) -> None:
    paths = [f.path for f in layout.datasets] + [
        f"/entry/campaign/{name}" for name in layout.campaign
    ]
    paths += [
        f"{s.signal.rsplit('/', 1)[0]}/{name}"
        for s in layout.stacks
        for name in (s.row, *(a.name for a in s.axes))
    ]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice or PLAN_PATH in paths:
        raise DatabaseError(f"two datasets are called {sorted(twice or {PLAN_PATH})[0]}")
    if layout.structures < 1 or layout.structures_per_segment < 1:
        raise DatabaseError(
            f"a database needs at least one structure and one per segment, not {layout.structures} "
            f"and {layout.structures_per_segment}"
        )
    if layout.rows_per_structure["structures"] != 1:
        raise DatabaseError("the table 'structures' has exactly one row for each structure")
    for item in layout.fields:
        if layout.rows_per_structure.get(item.table, 0) < 1:
            raise DatabaseError(f"field {item.path} is in table {item.table!r}, which has no rows")
    own = {f.path: f for f in layout.fields}
    for table, path in layout.counts.items():
        if table not in layout.tables or path not in own or own[path].table != "structures":
            raise DatabaseError(f"rows of {table!r} are counted by {path}, no column of structures")
    for stack in layout.stacks:
        signal = own.get(stack.signal)
        if signal is None or signal.shape != tuple(a.size for a in stack.axes):
            raise DatabaseError(f"the axes of stack {stack.signal} do not fit a field of that path")


def choose_structures_per_segment(structure_bytes: int, structures: int) -> int:
    """How many structures are committed together: at most 256 MiB of rows, about 4096 segments.

    The answer depends on the plan alone, never on the number of ranks: a campaign of up to 4096
    structures commits each by itself, so that a few hundred ranks still share it evenly.
    """
    fits = max(1, SEGMENT_BYTES // max(1, structure_bytes))
    return int(min(fits, max(1, -(-structures // MOST_SEGMENTS))))


def volume_range(structures: int, number: int, volumes: int) -> range:
    """Structures of volume `number` (1 ... volumes): contiguous, sizes differing by at most one.

    Raises ConfigError for a number outside 1 ... volumes or more volumes than structures.
    """
    if not 1 <= number <= volumes or volumes > structures:
        raise ConfigError(
            f"volume {number}/{volumes} does not exist: a campaign of {structures} structures has "
            f"volumes 1/{volumes} ... {volumes}/{volumes}, at most one for each structure"
        )
    return range((number - 1) * structures // volumes, number * structures // volumes)


def volume_path(path: str | Path, number: int, volumes: int) -> Path:
    """File name of a volume: gold.hdf5 becomes gold.v003of120.hdf5 (zero-padded, so names sort)."""
    path = Path(path)
    width = len(str(volumes))
    return path.with_name(f"{path.stem}.v{number:0{width}d}of{volumes}{path.suffix or '.hdf5'}")


def find_files(path: Path) -> list[Path]:
    """The file of a database, or the volumes that it is cut into, as far as they are there."""
    if path.exists():
        return [path]
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.v*of*{path.suffix}"))


def fit_text(text: str | bytes, size: int) -> bytes:
    """UTF-8 bytes of a text, cut to `size` bytes at a character."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return raw if len(raw) <= size else raw[:size].decode("utf-8", "ignore").encode()


def find_field(fields_: Sequence[Field], name: str) -> Field:
    """The field of that path or last name part.

    Raises DatabaseError naming the nearest columns when none fits, or all that fit when several do.
    """
    import difflib

    found = [f for f in fields_ if name in (f.path, f.name)]
    exact = [f for f in found if f.path == name]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if found:
        raise DatabaseError(f"column {name!r} is ambiguous: {', '.join(f.path for f in found)}")
    near = difflib.get_close_matches(name, [f.name for f in fields_], n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise DatabaseError(f"there is no column {name!r} in this database{hint}")
