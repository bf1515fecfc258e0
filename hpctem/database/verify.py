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

    complete   the database was finished
    rows       rows that were checked, all tables
    bad        (table, file row) whose bytes are not what was computed
    outside    None where nothing tells (unfinished, or copied without its folder); else whether the
               bytes outside the rows are intact
    """

    complete: bool
    rows: int
    bad: tuple[tuple[str, int], ...]
    outside: bool | None

    @property
    def intact(self) -> bool:
        """Nothing is damaged."""
        return not self.bad and self.outside is not False


def verify(path: str | Path, communicator: Communicator | None = None) -> Verification:
    """Recompute the digest of every committed row, and of all bytes outside the rows.

    All ranks call it and get the same answer; each reads its share of the segments.

    Raises DatabaseError when the file is foreign or cut, or damaged outside its rows so that
    it cannot be read at all.
    """
    communicator = communicator or Communicator()
    path = Path(path)
    folder = journal_folder(path)

    def begin() -> tuple[bool | None, bool, Layout, list[int], dict[int, tuple[bytes, int]]]:
        marker = read_marker(folder) if folder.is_dir() else None
        outside = outside_is_intact(path, marker) if marker and path.exists() else None
        try:
            with open_database(path) as database:
                layout = database.layout
                starts = range(0, layout.structures, layout.structures_per_segment)
                segments = np.flatnonzero(database.committed[starts]).tolist()
                plan = read_plan(database.file)
        except DatabaseError as error:
            if outside is False:
                raise DatabaseError(f"bytes outside the rows are damaged: {error}") from error
            raise
        commits = read_journals(folder, plan_key(plan)).commits if folder.is_dir() else {}
        return outside, marker is not None, layout, segments, commits

    outside, complete, layout, segments, commits = communicator.on_root(begin)
    found = find_bad_rows(path, layout, share_cyclically(segments, communicator), commits)
    communicator.barrier()
    bad = sorted(
        row for part in communicator.allgather(found) for rows in part.values() for row in rows
    )
    checked = sum(
        len(layout.row_range(table, layout.segment(segment)))
        for segment in segments
        for table in layout.tables
    )
    return Verification(complete, checked, tuple(bad), outside)
