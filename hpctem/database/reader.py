"""Read a database: what is committed while a job fills it, everything once it is complete."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.finish import outside_is_intact, read_marker, recall
from hpctem.database.hdf5 import name_damage, open_file, read_layout, read_plan, require_hdf5
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key
from hpctem.database.rows import OpenFile, StoredRows, locate
from hpctem.database.schema import (
    ERROR_PATH,
    GOOD,
    PENDING,
    QUARANTINED,
    STATUS_PATH,
    Field,
    Layout,
    find_field,
)
from hpctem.errors import DatabaseError

log = logging.getLogger("hpctem")


@dataclass(eq=False, repr=False)
class Database:
    """A database as it was when it was opened; only rows of good structures can be read.

    layout      what is stored
    offsets     path of a dataset -> byte at which it begins
    complete    every structure is committed
    marked      the end was verified and marked in the folder beside the file
    committed   (structures,) bool: what an unfinished file already holds
    status      (structures,) uint8: PENDING, GOOD, QUARANTINED; pending where not committed

    A *row* is always the file's own row of a table, 0 ... structures * rows per structure - 1: it
    stays the same while a job fills the file. Threads and forked processes may share a database;
    pickled, it is opened again. Columns, images, labels and waves are read without HDF5 and stay
    readable after `close`, as long as something refers to them; `close` ends `file`.
    """

    path: Path
    plan: str
    layout: Layout
    offsets: dict[str, int]
    complete: bool
    marked: bool
    committed: np.ndarray
    status: np.ndarray
    _bytes: OpenFile
    _rows: dict[str, np.ndarray] = field(default_factory=dict)
    _used: dict[str, np.ndarray] = field(default_factory=dict)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        held = ", ".join(f"{number} {name}" for name, number in self.counts.items() if number)
        return f"<{self.path}: {held}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_database, (self.location,)

    def close(self) -> None:
        """Close the HDF5 file, if `file` opened it."""
        if "file" in self.__dict__:
            self.__dict__.pop("file").close()

    @cached_property
    def file(self) -> h5py.File:
        """The HDF5 file for what nothing else offers, opened when first asked for."""
        return h5py.File(self.location, "r", locking=False)

    @property
    def location(self) -> Path:
        """Its path from the root, wherever the process is by now."""
        return self._bytes.location

    @property
    def campaign(self) -> dict[str, str]:
        """Texts of the campaign: config, hash, versions ..."""
        return dict(self.layout.campaign)

    @cached_property
    def name(self) -> str:
        """Name of the campaign, without one the title of the file."""
        try:
            return str(json.loads(json.loads(self.campaign["resolved_config"])["campaign.name"]))
        except (LookupError, ValueError, TypeError):
            return self.layout.title

    @property
    def identity(self) -> dict[str, str]:
        """What must not change between two runs of this campaign."""
        return json.loads(self.plan)["identity"]

    @property
    def key(self) -> bytes:
        """32 bytes that identify the plan."""
        return plan_key(self.plan)

    @property
    def counts(self) -> dict[str, int]:
        """Structures planned, pending, good and quarantined, and the good rows of every table."""
        totals = {
            "structures": self.layout.structures,
            "pending": int(np.count_nonzero(self.status == PENDING)),
            "good": int(np.count_nonzero(self.status == GOOD)),
            "quarantined": int(np.count_nonzero(self.status == QUARANTINED)),
        }
        tables = [table for table in self.layout.tables if table != "structures"]
        return totals | {t: int(np.count_nonzero(self.used(t))) for t in tables}

    @property
    def quarantined(self) -> list[tuple[int, str]]:
        """(campaign index, reason) of every quarantined structure."""
        places = np.flatnonzero(self.status == QUARANTINED)
        item = self.field(ERROR_PATH)
        first = self.layout.first_structure
        reasons = self.decode(item, self._stored(item, places)[:]).tolist()
        return [(first + int(p), reason) for p, reason in zip(places, reasons, strict=True)]

    def rows(self, table: str) -> np.ndarray:
        """int64 row numbers, in the file, of the used rows of all good structures; read-only."""
        if table not in self.layout.tables:
            raise DatabaseError(f"no table {table!r}; there are {', '.join(self.layout.tables)}")
        if table not in self._rows:
            rows = np.flatnonzero(self.used(table)).astype(np.int64, copy=False)
            rows.flags.writeable = False
            self._rows[table] = rows
        return self._rows[table]

    def used(self, table: str) -> np.ndarray:
        """(rows of the table,) bool: rows that a good structure uses; read-only."""
        if table not in self._used:
            each = self.layout.rows_per_structure[table]
            used = np.repeat(self.status == GOOD, each)
            if table in self.layout.counts:
                item = self.field(self.layout.counts[table])
                counts = self.piece(item, 0, self.layout.structures)
                used &= (np.arange(each) < counts[:, np.newaxis]).reshape(-1)
            used.flags.writeable = False
            self._used[table] = used
        return self._used[table]

    def structure_of(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Structures (counted from 0 in this file) that the given file rows belong to."""
        return np.asarray(rows) // self.layout.rows_per_structure[table]

    def require(self, table: str, rows: np.ndarray) -> None:
        """Raise DatabaseError, with the reason, unless all these file rows can be read."""
        rows, total = np.asarray(rows), self.layout.rows(table)
        missing = rows[(rows < 0) | (rows >= total)]
        if missing.size:
            raise DatabaseError(f"{self.path} has no row {missing[0]} of {table}: 0 to {total - 1}")
        bad = rows[self.status[self.structure_of(table, rows)] != GOOD]
        if table in self.layout.counts and not bad.size:
            bad = rows[~self.used(table)[rows]]
        if bad.size:
            raise DatabaseError(
                f"{self.path}: row {bad[0]} of {table} {self._explain(table, int(bad[0]))}"
            )

    def _explain(self, table: str, row: int) -> str:
        place = int(self.structure_of(table, np.array(row)))
        belongs = f"belongs to structure {self.layout.first_structure + place}, which"
        if self.status[place] == PENDING:
            return f"{belongs} is not committed yet"
        if self.status[place] == QUARANTINED:
            item = self.field(ERROR_PATH)
            reason = self.decode(item, self._stored(item, np.array([place]))[:])[0]
            return f"{belongs} is quarantined: {reason}"
        return f"{belongs} does not use it"

    def field(self, name: str) -> Field:
        """The field of that column name or path."""
        return find_field(self.layout.fields, name)

    def column(
        self, name: str, table: str | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Values of a column; texts and categories as str.

        table   whose rows they are: that of the column; with another table a structure's column
                is repeated for the rows of that table
        rows    file rows of that table, all good ones by default

        Raises DatabaseError for an unknown or ambiguous name, and for rows that cannot be read.
        """
        item = self.field(name)
        table = table or item.table
        if rows is None:
            rows = self.rows(table)
        else:
            self.require(table, rows)
        if table != item.table:
            if item.table != "structures":
                raise DatabaseError(f"{item.path} has no value for a row of {table!r}")
            rows = self.structure_of(table, rows)
        return self.decode(item, self._read(item, np.asarray(rows)))

    def stored(self, name: str, rows: np.ndarray | None = None) -> StoredRows:
        """Rows of a dataset, read when asked for; all good ones or the given file rows.

        Raises DatabaseError for an unknown name, and for rows that cannot be read.
        """
        item = self.field(name)
        if rows is None:
            rows = self.rows(item.table)
        else:
            self.require(item.table, rows)
        return self._stored(item, rows)

    def mapped(self, name: str) -> np.ndarray:
        """A whole column, or the digests of a table by their path, mapped into memory read-only.

        Every row of the file; those outside `rows(table)` mean nothing. Categories are numbers,
        texts bytes.
        """
        item = find_field(self.layout.datasets, name)
        shape = (self.layout.rows(item.table), *item.shape)
        return self._bytes.map(item.dtype, shape, self.offsets[item.path])

    def piece(self, item: Field, start: int, count: int) -> np.ndarray:
        """Consecutive rows of a dataset as they are in the file, good or not, in one array.

        Categories are numbers, texts bytes; see `used` for the rows that mean something.
        """
        values = np.empty((count, *item.shape), item.dtype)
        self._bytes.read(values, self.offsets[item.path] + start * item.row_bytes)
        return values

    def check(self, item: Field, values: np.ndarray) -> None:
        """Raise DatabaseError for a number that stands for no category: the row is damaged."""
        if item.categories and values.size and int(values.max()) >= len(item.categories):
            raise DatabaseError(
                f"{self.path}: {item.path} holds {values.max()}, which is none of its "
                f"{len(item.categories)} categories; 'hpctem verify' names the damaged rows"
            )

    def decode(self, item: Field, values: np.ndarray) -> np.ndarray:
        """Texts and category numbers as str, other values as they are; errors as `check`."""
        self.check(item, values)
        if item.categories:
            return np.array(item.categories)[values]
        return _decode_texts(values) if item.dtype.kind == "S" else values

    @property
    def image_path(self) -> str:
        """Dataset of the images. Raises DatabaseError when there is none."""
        if not self.layout.stacks:
            raise DatabaseError(f"{self.path} holds no images")
        return self.layout.stacks[0].signal

    @property
    def label_path(self) -> str:
        """Dataset of the masks. Raises DatabaseError when there is none."""
        for stack in self.layout.stacks:
            if stack.signal.startswith("/entry/labels/"):
                return stack.signal
        raise DatabaseError(f"{self.path} holds no labels")

    @cached_property
    def images(self) -> StoredRows:
        """The signal of the first stack, one image (y, x) for each good row."""
        return self.stored(self.image_path)

    @cached_property
    def labels(self) -> StoredRows:
        """The stack under /entry/labels, one array (y, x) for each good row."""
        return self.stored(self.label_path)

    @cached_property
    def waves(self) -> StoredRows:
        """Exit waves, one complex64 array (phonons, y, x) for each good row of 'waves'."""
        if "waves" not in self.layout.tables:
            raise DatabaseError(
                f"{self.path} holds no exit waves; 'storage: {{exit_waves: true}}' keeps them"
            )
        return self.stored(self.layout.fields_of("waves")[0].path)

    def row(self, table: str, row: int) -> dict[str, Any]:
        """Scalar columns of file row `row` of a table, and those of its structure, by name.

        Raises DatabaseError, with the reason, for a row that cannot be read.
        """
        self.require(table, np.array([row]))
        structure = int(self.structure_of(table, np.array(row)))
        values: dict[str, Any] = {}
        for item in self.layout.fields:
            if item.table in (table, "structures") and len(item.shape) < 2:
                place = np.array([row if item.table == table else structure])
                values[item.name] = self.decode(item, self._stored(item, place)[:])[0]
        return values | {"structure": self.layout.first_structure + structure, "row": int(row)}

    def _stored(self, item: Field, rows: np.ndarray) -> StoredRows:
        return StoredRows(self._bytes, self.offsets[item.path], item.dtype, item.shape, rows)

    def _read(self, item: Field, rows: np.ndarray) -> np.ndarray:
        if item.row_bytes > 64:
            return self._stored(item, rows)[:]
        # Of a column of which much is wanted, reading all is fastest; of few rows, their pages.
        if 16 * len(rows) < self.layout.rows(item.table):
            return self.mapped(item.path)[rows]
        whole = self.piece(item, 0, self.layout.rows(item.table))
        return whole if len(rows) == len(whole) and (np.diff(rows) == 1).all() else whole[rows]


def _decode_texts(values: np.ndarray) -> np.ndarray:
    # Cut to the longest first: as str every character takes four bytes.
    longest = max(1, int(np.char.str_len(values).max(initial=0)))
    values = values.astype(f"S{longest}")
    if values.size and values.view(np.uint8).max() < 128:
        return values.astype(f"U{longest}")
    return np.char.decode(values, "utf-8", "replace")


def open_database(path: str | Path) -> Database:
    """Open a database for reading; of an unfinished one only what is committed is seen.

    The folder beside the file speaks for it only where it holds a record of its plan. Without one
    a file in which no structure is pending is complete, though not marked; one in which all are
    has just been made. A file that is as its marker says is opened without HDF5, by what the marker
    keeps; damage outside the rows of a marked one that HDF5 still reads is logged.

    Raises DatabaseError for a missing, foreign, damaged or truncated file, and for an unfinished
    one whose journals are missing.
    """
    path = Path(path)
    require_hdf5(path)
    folder = journal_folder(path)
    marker = read_marker(folder)
    intact = marker is not None and outside_is_intact(path, marker)
    known = recall(marker) if intact else None
    if known is not None:
        plan, layout, offsets = known.plan, known.layout, dict(known.offsets)
    else:
        with open_file(path) as file:
            plan, layout = read_plan(file), read_layout(file)
            with name_damage(path):
                offsets = locate(file, layout)
    key = plan_key(plan)
    marked = marker is not None and marker["plan"] == key.hex()
    if marked and not intact:
        log.warning("%s is damaged outside its rows; 'hpctem verify' says how to repair it", path)
    content = OpenFile(path)
    # Before the journals: what a job has written by now, its journals say by then.
    status = _read_status(content, layout, offsets)
    committed = np.full(layout.structures, marked)
    if not marked:
        journals = read_journals(folder, key)
        for segment in journals.commits:
            structures = layout.segment(segment)
            committed[structures.start : structures.stop] = True
        if not journals.known:
            committed[:] = not (status == PENDING).any()
            if not committed.all() and (status != PENDING).any():
                raise DatabaseError(
                    f"{path} is unfinished and its journals are missing from {folder.name}: "
                    "nothing tells which rows are whole; put its own folder beside the file"
                )
    status = np.where(committed, _read_status(content, layout, offsets), np.uint8(PENDING))
    complete = bool(committed.all())
    return Database(path, plan, layout, offsets, complete, marked, committed, status, content)


def _read_status(content: OpenFile, layout: Layout, offsets: Mapping[str, int]) -> np.ndarray:
    status = np.empty(layout.structures, np.uint8)
    content.read(status, offsets[STATUS_PATH])
    return status
