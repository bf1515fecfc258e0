"""The end of a campaign: every digest once more from the disk, then the marker COMPLETE."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.digest import digest_outside, digest_rows, digest_segment
from hpctem.database.journal import journal_folder, write_durably
from hpctem.database.plan import plan_key, rebuild, write_plan
from hpctem.database.schema import (
    DIGEST_BYTES,
    PENDING,
    PLAN_PATH,
    QUARANTINED,
    STATUS_PATH,
    Layout,
)
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError, MachineError

MARKER = "COMPLETE"


def read_rows(
    descriptor: int,
    layout: Layout,
    offsets: Mapping[str, int],
    structures: range,
    tables: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """All datasets' rows of some structures, read from the file: path -> array (rows, *shape).

    structures  counted from 0 in this file
    tables      only these; all without it

    What lies behind the end of a file that was cut off comes as zeros, which no digest confirms.
    """
    block = {}
    for item in layout.datasets:
        if tables is not None and item.table not in tables:
            continue
        rows = layout.row_range(item.table, structures)
        values = np.empty((len(rows), *item.shape), item.dtype)
        view = values.view(np.uint8).reshape(-1).data
        place = offsets[item.path] + rows.start * item.row_bytes
        while len(view):
            try:
                count = os.preadv(descriptor, [view[: 2**30]], place)
            except OSError as error:
                raise MachineError(f"reading {item.path} failed: {error.strerror}") from error
            if not count:
                view[:] = bytes(len(view))
                break
            view, place = view[count:], place + count
        block[item.path] = values
    return block


def compare_digests(
    layout: Layout, block: Mapping[str, np.ndarray], structures: range
) -> tuple[list[tuple[str, int]], dict[str, np.ndarray]]:
    """Rows of a block whose bytes do not give the digest stored beside them: (table, file row).

    Also returns the digests that the bytes do give: path of the digest column -> (rows, 16) uint8.
    """
    computed = digest_rows(layout, block)
    bad = []
    for column in layout.digests:
        if column.path in computed:
            first = layout.row_range(column.table, structures).start
            wrong = (computed[column.path] != block[column.path]).any(axis=1)
            bad += [(column.table, first + int(row)) for row in np.flatnonzero(wrong)]
    return bad, computed


def find_bad_rows(
    path: Path,
    layout: Layout,
    offsets: Mapping[str, int],
    segments: Iterable[int],
    commits: Mapping[int, tuple[bytes, int]],
) -> dict[int, list[tuple[str, int]]]:
    """Segments that are not what was committed: segment -> their bad (table, row) pairs.

    A row is bad when its bytes do not give the digest stored beside it. Where all rows agree but
    the segment has not the digest that the journal names, the whole segment is bad. HDF5 is not
    asked: `offsets` are the places of the datasets in the file.
    """
    bad: dict[int, list[tuple[str, int]]] = {}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for segment in segments:
            structures = layout.segment(segment)
            block = read_rows(descriptor, layout, offsets, structures)
            rows, computed = compare_digests(layout, block, structures)
            if not rows and segment in commits:
                if digest_segment(layout, computed) != commits[segment][0]:
                    rows = [("structures", structure) for structure in structures]
            if rows:
                bad[segment] = rows
    finally:
        os.close(descriptor)
    return bad


def read_commits(path: Path, layout: Layout) -> dict[int, tuple[bytes, int]]:
    """What the journals of a file said that holds no pending structure: segment -> (digest,
    quarantined structures); segments with a pending one are left out.

    It is taken from the digests in the file itself, so reading every row back has to confirm it.
    """
    commits = {}
    with h5py.File(path, "r", locking=False) as file:
        status = file[STATUS_PATH][()]
        for segment in range(layout.segments):
            structures = layout.segment(segment)
            here = status[structures.start : structures.stop]
            if (here == PENDING).any():
                continue
            stored = {}
            for column in layout.digests:
                rows = layout.row_range(column.table, structures)
                stored[column.path] = file[column.path][rows.start : rows.stop]
            bad = np.count_nonzero(here == QUARANTINED)
            commits[segment] = (digest_segment(layout, stored), int(bad))
    return commits


def write_marker(path: Path, layout: Layout, folder: Path, plan: str, quarantined: int) -> None:
    """Declare the database complete: COMPLETE in the journal folder.

    It holds where the rows lie, a digest of every byte outside them, the plan and the texts of the
    campaign, and a digest of itself: damage to the structures of HDF5 itself is found, the rows are
    checked and the damage is repaired without trusting them.
    """
    offsets = read_offsets(path, layout)
    items = sorted(layout.datasets, key=lambda item: offsets[item.path])
    rows = [[offsets[item.path], layout.rows(item.table) * item.row_bytes] for item in items]
    descriptor = os.open(path, os.O_RDWR)
    try:
        _sync(descriptor, path)
        marker = {
            "plan": plan_key(plan).hex(),
            "structures": layout.structures,
            "quarantined": quarantined,
            "size": os.fstat(descriptor).st_size,
            "rows": rows,
            "outside": digest_outside(descriptor, rows),
            "paths": [item.path for item in items],
            "texts": {PLAN_PATH: plan, **layout.campaign},
        }
    finally:
        os.close(descriptor)
    write_durably(folder / MARKER, json.dumps({**marker, "digest": digest_marker(marker)}).encode())


def digest_marker(marker: Mapping[str, Any]) -> str:
    """BLAKE2b-128 of what a marker says, as hex: damage to it is not mistaken for the file's."""
    said = json.dumps({name: value for name, value in marker.items() if name != "digest"})
    return hashlib.blake2b(said.encode(), digest_size=DIGEST_BYTES).hexdigest()


def _sync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise MachineError(f"writing {path} failed: {error.strerror}") from error


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a complete database, None while it is unfinished.

    Raises DatabaseError when the marker cannot be read.
    """
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        if marker["digest"] == digest_marker(marker):
            return marker
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (LookupError, ValueError, TypeError):
        pass
    raise DatabaseError(
        f"{folder / MARKER} is damaged: delete it and run the job again, which verifies every row"
    )


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


@dataclass(frozen=True)
class Recollection:
    """What a marker keeps of a database: enough to read its rows and to lay it out anew.

    plan     its plan, as JSON text
    layout   what the plan says, with the campaign's texts
    offsets  path of each dataset -> its byte offset in the file
    """

    plan: str
    layout: Layout
    offsets: Mapping[str, int]


def recall(marker: Mapping[str, Any] | None) -> Recollection | None:
    """What the marker keeps of its database; None where it keeps nothing whole."""
    try:
        texts = dict(marker["texts"])  # type: ignore[index]
        plan = texts.pop(PLAN_PATH)
        if plan_key(plan).hex() != marker["plan"]:  # type: ignore[index]
            return None
        described = json.loads(plan)
        layout = rebuild(described["layout"], texts)
        places = zip(marker["paths"], marker["rows"], strict=True)  # type: ignore[index]
        offsets = {path: int(offset) for path, (offset, _) in places}
        same = write_plan(layout, described["identity"]) == plan
        whole = set(offsets) == {item.path for item in layout.datasets}
    except (KeyError, TypeError, ValueError, DatabaseError):
        return None
    return Recollection(plan, layout, offsets) if same and whole else None


def require_intact_outside(path: Path) -> None:
    """Refuse a database that is marked complete and damaged outside its rows, before HDF5 opens it.

    HDF5 can crash on such a file. Raises DatabaseError that says how to repair it.
    """
    marker = read_marker(journal_folder(path))
    if marker is not None and path.exists() and not outside_is_intact(path, marker):
        raise DatabaseError(
            f"{path} is damaged outside its rows; 'hpctem verify {path}' says how to repair it"
        )
