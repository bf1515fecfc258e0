"""Find what is damaged in a database and forget that it was committed, so that it is made again.

The bytes outside the rows follow from the plan alone and are put right first; then every row is
read back. HDF5 does not open the file before its own structures are as they should be.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from hpctem.database.create import reserve_file, sync_folder, write_empty
from hpctem.database.finish import (
    MARKER,
    find_bad_rows,
    outside_is_intact,
    read_commits,
    read_marker,
    recall,
)
from hpctem.database.hdf5 import open_file, read_plan
from hpctem.database.journal import Journals, merge_journals, read_journals
from hpctem.database.plan import compare_plans, plan_key
from hpctem.database.schema import Layout
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError, MachineError

BLOCK = 2**20
log = logging.getLogger("hpctem")


def take_up_damaged(path: Path, folder: Path, layout: Layout, plan: str) -> Journals:
    """What the journals say of a damaged database, after its bytes outside the rows are put right.

    Where journals are lost or damaged the file speaks for itself, structure by structure; every row
    that is said to be committed must still be read back. Called under the lock.

    Raises DatabaseError when the file belongs to another plan (with the difference), when nothing
    tells to which, or when nothing in it is what the journals say; MachineError when it cannot be
    written.
    """
    key = plan_key(plan)
    marker = find_marker(folder)
    journals = read_journals(folder, key)
    if not journals.known and (marker is None or marker["plan"] != key.hex()):
        _require_plan(path, folder, marker, journals, plan)
        marker = None
    _restore_outside(path, folder, layout, plan, marker, sorted(journals.commits))
    # Journals that an earlier repair left, whole and without a marker, name as not committed also
    # what agrees with itself and not with its commit: there the file is not asked.
    if marker is not None or journals.damaged or not journals.known:
        journals.commits = read_commits(path, layout) | journals.commits
    return journals


def find_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a complete database; None also where it cannot be read."""
    try:
        return read_marker(folder)
    except DatabaseError as error:
        log.warning("%s", error)
        return None


def _require_plan(
    path: Path, folder: Path, marker: Mapping[str, Any] | None, journals: Journals, plan: str
) -> None:
    """Raise DatabaseError unless the file itself says that it belongs to the plan."""
    stored, what = "", f"{path} was made with another plan"
    if marker is None or outside_is_intact(path, marker):
        with open_file(path) as file:
            stored = read_plan(file)
    elif (remembered := recall(marker)) is not None:
        stored = remembered.plan
        what = f"{path} is damaged outside its rows, and {folder / MARKER} is of another plan"
    differences = compare_plans(stored, plan) if stored else ["COMPLETE does not tell the plan"]
    if differences:
        raise DatabaseError(
            f"{what}: it cannot be repaired with this one:\n  " + "\n  ".join(differences)
        )
    if journals.damaged:
        raise DatabaseError(
            f"the journals in {folder} are not those of {path}: put its own there, or move that "
            "folder away; without one every row of the file is read back"
        )


def _restore_outside(
    path: Path,
    folder: Path,
    layout: Layout,
    plan: str,
    marker: Mapping[str, Any] | None,
    committed: list[int],
) -> None:
    """Give the file the bytes outside its rows that a file just laid out has."""
    if marker is not None and outside_is_intact(path, marker):
        return
    fresh = folder / "layout.tmp"
    try:
        write_empty(fresh, layout, plan)
        offsets = read_offsets(fresh, layout)
        rows = sorted(
            (offsets[item.path], layout.rows(item.table) * item.row_bytes)
            for item in layout.datasets
        )
        size = fresh.stat().st_size
        laid_out = {"size": size, "rows": [list(extent) for extent in rows]}
        if marker is not None and any(marker[name] != laid_out[name] for name in laid_out):
            raise DatabaseError(
                f"{path} was laid out by another version of HDF5 than {h5py.version.hdf5_version}, "
                "at other places: repair it with that version"
            )
        changes = list(_compare_outside(fresh, path, size, rows))
        cut = path.stat().st_size != size
        segments = committed or (range(layout.segments) if marker is not None else ())
        if (changes or cut) and segments and not _holds_rows(path, layout, offsets, segments):
            raise DatabaseError(
                f"{path} is not the file that the folder {folder} speaks of: not one row is what "
                "was committed. Nothing was changed: put the file back to which the folder "
                "belongs, or move both away and simulate again"
            )
        if cut:
            log.warning("%s has %d bytes instead of %d", path, path.stat().st_size, size)
            reserve_file(path, size)
        changed = _write_changes(path, changes)
    except OSError as error:
        raise MachineError(f"{path} cannot be repaired: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    if changed:
        log.warning("%s: %d damaged bytes outside the rows are put right", path, changed)


def _compare_outside(
    source: Path, target: Path, size: int, rows: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, bytes, int]]:
    """What differs outside the rows (offset, bytes): place, bytes of `source`, how many differ."""
    place = 0
    one, two = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        for begin, length in (*rows, (size, 0)):
            while place < begin:
                expected = os.pread(one, min(BLOCK, begin - place), place)
                found = os.pread(two, len(expected), place)
                if found != expected:
                    same = sum(a == b for a, b in zip(expected, found, strict=False))
                    yield place, expected, len(expected) - same
                place += len(expected)
            place = max(place, begin + length)
    finally:
        os.close(one)
        os.close(two)


def _write_changes(path: Path, changes: Iterable[tuple[int, bytes, int]]) -> int:
    """Put right what `_compare_outside` found; how many bytes it was."""
    changed = 0
    descriptor = os.open(path, os.O_RDWR)
    try:
        for place, expected, count in changes:
            os.pwrite(descriptor, expected, place)
            changed += count
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return changed


def _holds_rows(
    path: Path, layout: Layout, offsets: Mapping[str, int], segments: Iterable[int]
) -> bool:
    """Whether any row of these segments has its digest, where the layout has it."""
    for segment in segments:
        bad = find_bad_rows(path, layout, offsets, [segment], {}).get(segment, [])
        structures = layout.segment(segment)
        if len(bad) < sum(len(layout.row_range(table, structures)) for table in layout.tables):
            return True
    return False


def forget(
    path: Path,
    folder: Path,
    layout: Layout,
    plan: str,
    journals: Journals,
    bad: Mapping[int, list[tuple[str, int]]],
) -> tuple[Journals, bool]:
    """Take the bad segments out of the journals; True where nothing is left to do.

    The marker goes first. A death afterwards leaves an unfinished database: its journals name the
    bad segments as not committed, or the check at its end finds them again.
    """
    marker = find_marker(folder)
    if not bad and len(journals.commits) == layout.segments and marker is not None:
        if marker["plan"] == plan_key(plan).hex() and outside_is_intact(path, marker):
            if journals.damaged or not journals.known:
                journals.run = merge_journals(folder, plan_key(plan), journals)
            return journals, True
    (folder / MARKER).unlink(missing_ok=True)
    sync_folder(folder)
    if bad:
        rows = sum(len(found) for found in bad.values())
        log.warning(
            "%s: %d rows are damaged; the %d segments that hold them are computed again",
            path,
            rows,
            len(bad),
        )
    for segment in bad:
        del journals.commits[segment]
    journals.run = merge_journals(folder, plan_key(plan), journals)
    return journals, False
