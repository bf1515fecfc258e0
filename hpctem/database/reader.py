"""Read a database: what is committed while a job fills it, everything once it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.finish import is_marked
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import FORMAT, plan_key, rebuild
from hpctem.database.schema import (
    ERROR_PATH,
    GOOD,
    PENDING,
    PLAN_PATH,
    QUARANTINED,
    STATUS_PATH,
    Field,
    Layout,
    find_field,
)
from hpctem.errors import DatabaseError

SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_file(path: str | Path) -> Iterator[h5py.File]:
    """The HDF5 file, opened for reading.

    Raises DatabaseError when it is missing, no HDF5, truncated, or was not written by hpctem.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise DatabaseError(f"cannot open the database {path}: {error.strerror}") from error
    if head != SIGNATURE:
        what = "is empty" if not head else "is no HDF5 file"
        raise DatabaseError(f"{path} {what}, so it is no hpctem database")
    try:
        # No sieve buffer: it would keep bytes that a job is about to change.
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_sieve_buf_size(0)
        access.set_file_locking(False, True)
        identifier = h5py.h5f.open(str(path).encode(), h5py.h5f.ACC_RDONLY, fapl=access)
    except OSError as error:
        cut = "truncated" in str(error)
        state = "is truncated: copy it again" if cut else "is damaged and cannot be opened"
        raise DatabaseError(f"{path} {state} (HDF5: {error})") from error
    with h5py.File(identifier) as file:
        if PLAN_PATH not in file:
            raise DatabaseError(
                f"{path} is an HDF5 file, but hpctem did not write it: no {PLAN_PATH}"
            )
        yield file


def read_plan(file: h5py.File) -> str:
    """The plan stored in an open database.

    Raises DatabaseError when it cannot be read or belongs to another format.
    """
    plan = _text(file[PLAN_PATH])
    try:
        found = json.loads(plan)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"the plan in {file.filename} is damaged") from error
    if found != FORMAT:
        raise DatabaseError(f"{file.filename} has format {found!r}; this hpctem reads {FORMAT!r}")
    return plan


def read_layout(file: h5py.File) -> Layout:
    """The layout and the campaign texts stored in an open database."""
    described = json.loads(read_plan(file))
    texts = {name: _text(file[f"/entry/campaign/{name}"]) for name in described["texts"]}
    return rebuild(described["layout"], texts)


def _text(dataset: h5py.Dataset) -> str:
    return bytes(dataset[()]).rstrip(b"\0").decode("utf-8")


@dataclass
class Database:
    """An open database; rows are counted over the structures that can be seen.

    layout      what is stored
    complete    every structure is committed
    marked      the end was verified and marked in the folder beside the file
    committed   (structures,) bool: what an unfinished file already holds
    status      (structures,) uint8: PENDING, GOOD, QUARANTINED; pending where not committed
    """

    path: Path
    file: h5py.File
    layout: Layout
    complete: bool
    marked: bool
    committed: np.ndarray
    status: np.ndarray

    @property
    def campaign(self) -> dict[str, str]:
        """Texts of the campaign: config, hash, versions ..."""
        return dict(self.layout.campaign)

    @property
    def identity(self) -> dict[str, str]:
        """What must not change between two runs of this campaign."""
        return json.loads(read_plan(self.file))["identity"]

    @property
    def counts(self) -> dict[str, int]:
        """Structures planned, pending, good and quarantined, and the good rows of every table."""
        totals = {
            "structures": self.layout.structures,
            "pending": int(np.count_nonzero(self.status == PENDING)),
            "good": int(np.count_nonzero(self.status == GOOD)),
            "quarantined": int(np.count_nonzero(self.status == QUARANTINED)),
        }
        return totals | {t: len(self.rows(t)) for t in self.layout.tables if t != "structures"}

    @property
    def quarantined(self) -> list[tuple[int, str]]:
        """(campaign index, reason) of every quarantined structure."""
        rows = np.flatnonzero(self.status == QUARANTINED)
        errors = self.file[ERROR_PATH]
        first = self.layout.first_structure
        return [(first + int(row), bytes(errors[row]).decode("utf-8")) for row in rows]

    def rows(self, table: str) -> np.ndarray:
        """int64 row numbers, in the file, of the used rows of all good structures."""
        if table not in self.layout.tables:
            raise DatabaseError(f"no table {table!r}; there are {', '.join(self.layout.tables)}")
        good = np.flatnonzero(self.status == GOOD)
        each = self.layout.rows_per_structure[table]
        rows = good[:, np.newaxis] * each + np.arange(each)
        if table in self.layout.counts:
            used = self.file[self.layout.counts[table]][()][good]
            return rows[np.arange(each) < used[:, np.newaxis]]
        return rows.reshape(-1)

    def structure_of(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Structures (counted from 0 in this file) that the given file rows belong to."""
        return np.asarray(rows) // self.layout.rows_per_structure[table]

    def field(self, name: str) -> Field:
        """The field of that column name or path."""
        return find_field(self.layout.fields, name)

    def column(self, name: str, table: str | None = None) -> np.ndarray:
        """Values of a column in all good rows; texts and categories as str.

        With `table`, a structure's column is repeated for the rows of that table.

        Raises DatabaseError for an unknown or ambiguous name.
        """
        item = self.field(name)
        rows = self.rows(table or item.table)
        if table and table != item.table:
            if item.table != "structures":
                raise DatabaseError(f"{item.path} has no value for a row of {table!r}")
            rows = self.structure_of(table, rows)
        return decode(item, self._read(item, rows))

    @cached_property
    def images(self) -> Images:
        """The signal of the first stack, one image for each good row."""
        if not self.layout.stacks:
            raise DatabaseError(f"{self.path} holds no images")
        item = self.field(self.layout.stacks[0].signal)
        return Images(self.file[item.path], self.rows(item.table))

    def row(self, table: str, index: int) -> dict[str, Any]:
        """Scalar columns of good row `index` of a table, and those of its structure, by name."""
        row = int(self.rows(table)[index])
        structure = int(self.structure_of(table, np.array(row)))
        values: dict[str, Any] = {}
        for item in self.layout.fields:
            if item.table in (table, "structures") and len(item.shape) < 2:
                place = row if item.table == table else structure
                values[item.name] = decode(item, self.file[item.path][place : place + 1])[0]
        return values | {"structure": self.layout.first_structure + structure, "row": row}

    def _read(self, item: Field, rows: np.ndarray) -> np.ndarray:
        dataset = self.file[item.path]
        if not item.shape or item.row_bytes <= 64:
            return dataset[()][rows]
        values = np.empty((len(rows), *item.shape), item.dtype)
        for place, row in enumerate(rows):
            values[place] = dataset[row]
        return values


@dataclass(frozen=True)
class Images(Sequence):
    """Images of a database, read one by one: images[i] is an array (ny, nx)."""

    dataset: h5py.Dataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return self.dataset[int(self.rows[index])]
        return np.stack([self.dataset[int(row)] for row in self.rows[index]])


def decode(item: Field, values: np.ndarray) -> np.ndarray:
    """Texts and category numbers as str, other values as they are."""
    if item.categories:
        return np.array(item.categories)[values]
    if item.dtype.kind == "S":
        return np.array([bytes(v).decode("utf-8") for v in values.reshape(-1)]).reshape(
            values.shape
        )
    return values


@contextmanager
def open_database(path: str | Path) -> Iterator[Database]:
    """Open a database for reading; of an unfinished one only what is committed is seen.

    The folder beside the file speaks for it only where it holds a record of its plan. Without one
    a file in which no structure is pending is complete, though not marked; one in which all are
    has just been made.

    Raises DatabaseError for a missing, foreign or truncated file, and for an unfinished one whose
    journals are missing.
    """
    path = Path(path)
    with open_file(path) as file:
        plan = read_plan(file)
        layout = read_layout(file)
        folder, key = journal_folder(path), plan_key(plan)
        # Before the journals: what a job has written by now, its journals say by then.
        status = file[STATUS_PATH][()]
        marked = is_marked(folder, key)
        journals = read_journals(folder, key)
        committed = np.zeros(layout.structures, bool)
        if marked or not (journals.known or (status == PENDING).any()):
            committed[:] = True
        elif journals.known:
            for segment in journals.commits:
                structures = layout.segment(segment)
                committed[structures.start : structures.stop] = True
        elif (status != PENDING).any():
            raise DatabaseError(
                f"{path} is unfinished and its journals are missing from {folder.name}: nothing "
                "tells which rows are whole; put its own folder beside the file"
            )
        status = np.where(committed, file[STATUS_PATH][()], PENDING)
        yield Database(path, file, layout, bool(committed.all()), marked, committed, status)
