"""Check every byte of a database against what was computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.database.finish import find_bad_rows, outside_is_intact, read_marker
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key
from hpctem.database.reader import open_database, read_plan
from hpctem.database.schema import Layout
from hpctem.errors import DatabaseError
from hpctem.parallel import Communicator, share_cyclically


@dataclass(frozen=True)
class Verification:
    """What the check of a database found.

    complete   every structure is committed
    marked     the database was marked complete in the folder beside it
    rows       rows that were checked, all tables
    bad        (table, file row) whose bytes are not what was computed
    outside    None where nothing tells (not marked: unfinished, or copied without its folder); else
               whether the bytes outside the rows are intact
    """

    complete: bool
    marked: bool
    rows: int
    bad: tuple[tuple[str, int], ...]
    outside: bool | None

    @property
    def damaged(self) -> bool:
        """Something is not what was computed."""
        return bool(self.bad) or self.outside is False

    @property
    def intact(self) -> bool:
        """There was something to check, and nothing of it is damaged."""
        return self.rows > 0 and not self.damaged


@dataclass(frozen=True)
class _Start:
    """What rank 0 finds before the rows are read."""

    complete: bool
    marked: bool
    outside: bool | None
    layout: Layout
    segments: list[int]
    commits: dict[int, tuple[bytes, int]]


def verify(path: str | Path, communicator: Communicator | None = None) -> Verification:
    """Recompute the digest of every committed row, and of all bytes outside the rows.

    All ranks call it and get the same answer; each reads its share of the segments.

    Raises DatabaseError when the file is foreign or cut, or damaged outside its rows so that
    it cannot be read at all.
    """
    communicator = communicator or Communicator()
    path = Path(path)
    folder = journal_folder(path)

    def begin() -> _Start:
        # The marker is believed without comparing plans: the plan itself may be what is damaged.
        marker = read_marker(folder)
        outside = outside_is_intact(path, marker) if marker and path.exists() else None
        try:
            with open_database(path) as database:
                complete, layout = database.complete, database.layout
                starts = range(0, layout.structures, layout.structures_per_segment)
                segments = np.flatnonzero(database.committed[starts]).tolist()
                plan = read_plan(database.file)
        except DatabaseError as error:
            if outside is False:
                raise DatabaseError(f"bytes outside the rows are damaged: {error}") from error
            raise
        commits = read_journals(folder, plan_key(plan)).commits
        return _Start(complete, marker is not None, outside, layout, segments, commits)

    start = communicator.on_root(begin)
    layout, segments = start.layout, start.segments
    found = find_bad_rows(path, layout, share_cyclically(segments, communicator), start.commits)
    communicator.barrier()
    bad = sorted(
        row for part in communicator.allgather(found) for rows in part.values() for row in rows
    )
    checked = sum(
        len(layout.row_range(table, layout.segment(segment)))
        for segment in segments
        for table in layout.tables
    )
    return Verification(start.complete, start.marked, checked, tuple(bad), start.outside)
