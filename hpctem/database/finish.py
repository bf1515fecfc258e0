"""The end of a campaign: every digest once more from the disk, then the marker COMPLETE."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.digest import digest_outside, digest_rows, digest_segment
from hpctem.database.journal import write_durably
from hpctem.database.schema import PENDING, QUARANTINED, STATUS_PATH, Layout
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError, MachineError

MARKER = "COMPLETE"


def read_segment(
    descriptor: int, layout: Layout, offsets: Mapping[str, int], segment: int
) -> dict[str, np.ndarray]:
    """All datasets' rows of one segment, read from the file: path -> array (rows, *shape)."""
    block = {}
    for item in layout.datasets:
        rows = layout.row_range(item.table, layout.segment(segment))
        values = np.empty((len(rows), *item.shape), item.dtype)
        view = values.view(np.uint8).reshape(-1).data
        place = offsets[item.path] + rows.start * item.row_bytes
        while len(view):
            try:
                count = os.preadv(descriptor, [view[: 2**30]], place)
            except OSError as error:
                raise MachineError(f"reading {item.path} failed: {error.strerror}") from error
            if not count:
                raise DatabaseError(f"the file ends inside {item.path}: truncated")
            view, place = view[count:], place + count
        block[item.path] = values
    return block


def find_bad_rows(
    path: Path, layout: Layout, segments: Iterable[int], commits: Mapping[int, tuple[bytes, int]]
) -> dict[int, list[tuple[str, int]]]:
    """Segments that are not what was committed: segment -> their bad (table, row) pairs.

    A row is bad when its bytes do not give the digest stored beside it. Where all rows agree but
    the segment has not the digest that the journal names, the whole segment is bad.
    """
    offsets = read_offsets(path, layout)
    bad: dict[int, list[tuple[str, int]]] = {}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for segment in segments:
            block = read_segment(descriptor, layout, offsets, segment)
            computed = digest_rows(layout, block)
            structures = layout.segment(segment)
            rows = []
            for column in layout.digests:
                first = layout.row_range(column.table, structures).start
                wrong = (computed[column.path] != block[column.path]).any(axis=1)
                rows += [(column.table, first + int(row)) for row in np.flatnonzero(wrong)]
            if not rows and segment in commits:
                if digest_segment(layout, computed) != commits[segment][0]:
                    rows = [("structures", structure) for structure in structures]
            if rows:
                bad[segment] = rows
    finally:
        os.close(descriptor)
    return bad


def read_commits(path: Path, layout: Layout) -> dict[int, tuple[bytes, int]]:
    """What the journals of a finished file said: segment -> (digest, quarantined structures).

    It is taken from the digests in the file itself, so reading every row back has to confirm it.
    Empty where a structure is still pending.
    """
    commits = {}
    with h5py.File(path, "r", locking=False) as file:
        status = file[STATUS_PATH][()]
        if (status == PENDING).any():
            return {}
        for segment in range(layout.segments):
            structures = layout.segment(segment)
            stored = {}
            for column in layout.digests:
                rows = layout.row_range(column.table, structures)
                stored[column.path] = file[column.path][rows.start : rows.stop]
            bad = np.count_nonzero(status[structures.start : structures.stop] == QUARANTINED)
            commits[segment] = (digest_segment(layout, stored), int(bad))
    return commits


def write_marker(path: Path, layout: Layout, folder: Path, key: bytes, quarantined: int) -> None:
    """Declare the database complete: COMPLETE in the journal folder.

    It holds where the rows lie and a digest of every byte outside them, so that damage to the
    structures of HDF5 itself is found without trusting them.
    """
    offsets = read_offsets(path, layout)
    extents = sorted(
        [offsets[item.path], layout.rows(item.table) * item.row_bytes] for item in layout.datasets
    )
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        marker = {
            "plan": key.hex(),
            "structures": layout.structures,
            "quarantined": quarantined,
            "size": os.fstat(descriptor).st_size,
            "rows": extents,
            "outside": digest_outside(descriptor, extents),
        }
    finally:
        os.close(descriptor)
    write_durably(folder / MARKER, json.dumps(marker).encode())


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a complete database, None while it is unfinished.

    Raises DatabaseError when the marker cannot be read.
    """
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        if {"plan", "structures", "quarantined", "size", "rows", "outside"} <= set(marker):
            return marker
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        pass
    raise DatabaseError(f"{folder / MARKER} is damaged; delete it and run simulate again to verify")


def is_marked(folder: Path, key: bytes) -> bool:
    """Whether the database of that plan was marked complete."""
    marker = read_marker(folder)
    return marker is not None and marker["plan"] == key.hex()


def outside_is_intact(path: Path, marker: Mapping[str, Any]) -> bool:
    """Whether every byte outside the rows is as it was when the database was completed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size != marker["size"]:
            return False
        return digest_outside(descriptor, marker["rows"]) == marker["outside"]
    finally:
        os.close(descriptor)
