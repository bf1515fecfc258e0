"""Check every byte of a database against what was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpctem.database.finish import find_bad_rows, outside_is_intact, read_marker, recall
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key
from hpctem.database.reader import open_database
from hpctem.database.schema import Layout
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
    layout     of the database, with the campaign's texts; None where nothing whole tells of it
    """

    complete: bool
    marked: bool
    rows: int
    bad: tuple[tuple[str, int], ...]
    outside: bool | None
    layout: Layout | None = field(repr=False, compare=False, default=None)

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
    layout: Layout | None
    offsets: Mapping[str, int]
    segments: list[int]
    commits: dict[int, tuple[bytes, int]]


def verify(path: str | Path, communicator: Communicator | None = None) -> Verification:
    """Recompute the digest of every committed row, and of all bytes outside the rows.

    All ranks call it and get the same answer; each reads its share of the segments. A database with
    its marker that is damaged outside its rows is never opened by HDF5, which might crash: its rows
    are found by what the marker keeps.

    Raises DatabaseError when the file is missing or foreign, or, without a marker, damaged outside
    its rows so that it cannot be read at all.
    """
    communicator = communicator or Communicator()
    path = Path(path)
    start = communicator.on_root(lambda: _begin(path))
    layout, segments = start.layout, start.segments
    if layout is None:
        return Verification(True, True, 0, (), False)
    mine = share_cyclically(segments, communicator)
    found = find_bad_rows(path, layout, start.offsets, mine, start.commits)
    communicator.barrier()
    bad = sorted(
        row for part in communicator.allgather(found) for rows in part.values() for row in rows
    )
    checked = sum(
        len(layout.row_range(table, layout.segment(segment)))
        for segment in segments
        for table in layout.tables
    )
    return Verification(start.complete, start.marked, checked, tuple(bad), start.outside, layout)


def _begin(path: Path) -> _Start:
    folder = journal_folder(path)
    # The marker is believed without comparing plans: the plan itself may be what is damaged.
    marker = read_marker(folder)
    if marker is not None and path.exists() and not outside_is_intact(path, marker):
        remembered = recall(marker)
        if remembered is None:
            return _Start(True, True, False, None, {}, [], {})
        layout, key = remembered.layout, plan_key(remembered.plan)
        commits = read_journals(folder, key).commits
        segments = list(range(layout.segments))
        return _Start(True, True, False, layout, remembered.offsets, segments, commits)
    with open_database(path) as database:
        layout = database.layout
        starts = range(0, layout.structures, layout.structures_per_segment)
        return _Start(
            complete=database.complete,
            marked=marker is not None,
            outside=None if marker is None else True,
            layout=layout,
            offsets=database.offsets,
            segments=np.flatnonzero(database.committed[starts]).tolist(),
            commits=read_journals(folder, database.key).commits,
        )
