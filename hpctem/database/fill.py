"""Fill a database: compute on all ranks, commit segment by segment, go on after any death."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hpctem.database.background import Committer, Monitor
from hpctem.database.create import create
from hpctem.database.finish import (
    MARKER,
    find_bad_rows,
    is_marked,
    read_commits,
    require_intact_outside,
    write_marker,
)
from hpctem.database.hdf5 import open_file, read_plan
from hpctem.database.isolate import compute_alone
from hpctem.database.journal import (
    Journal,
    Journals,
    JournalWatch,
    journal_folder,
    merge_journals,
    read_journals,
    remove_journals,
    wait_for_writers,
)
from hpctem.database.lock import hold_lock
from hpctem.database.pace import record_pace
from hpctem.database.plan import compare_plans, plan_key, write_plan
from hpctem.database.repair import forget, take_up_damaged
from hpctem.database.schema import PENDING, STATUS_PATH, Layout
from hpctem.database.segment import StructureRows, empty_block, place_rows
from hpctem.database.writer import open_writer, read_offsets
from hpctem.errors import DatabaseError, MachineError, tell_system_errors
from hpctem.parallel import Communicator, Progress, share_cyclically

DEATHS_BEFORE_ISOLATION = 3
AFTER_FAILURE = "everything committed is kept, mend that and run the same command again"
log = logging.getLogger("hpctem")


@dataclass(frozen=True)
class Summary:
    """What a database holds after a job: numbers of structures.

    complete    everything is committed, verified and marked; else the same command goes on
    """

    good: int
    quarantined: int
    remaining: int
    complete: bool


@dataclass(frozen=True)
class _Job:
    """What every rank knows of a job."""

    path: Path
    layout: Layout
    plan: str
    compute: Callable[[int], StructureRows]
    communicator: Communicator
    writer: str
    stop: Callable[[], bool]
    progress: Callable[[Progress], None] | None
    interval: float

    @property
    def key(self) -> bytes:
        return plan_key(self.plan)

    @property
    def folder(self) -> Path:
        return journal_folder(self.path)


def fill(
    path: str | Path,
    layout: Layout,
    identity: Mapping[str, str],
    compute: Callable[[int], StructureRows],
    communicator: Communicator | None = None,
    *,
    writer: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] | None = None,
    interval: float = 30.0,
    patience: float = 5.0,
    repair: bool = False,
) -> Summary:
    """Compute and commit every structure that is not yet in the database; all ranks call it.

    identity   what must not change between two runs (config, code version, device kind ...)
    compute    campaign index -> rows of that structure; it catches what fails by the structure's
               own nature and returns it quarantined; what it raises ends the job. It is pickled
               when a structure has to be computed in a process of its own (three deaths).
    stop       asked before each segment; once true on any rank, all finish theirs and return
    progress   called on rank 0 in a thread every `interval` seconds and at the end; what it raises
               is raised on all ranks once their segments are committed (too many quarantined)
    patience   seconds to wait for the end of an earlier job
    repair     first put right the bytes outside the rows, read every committed row back, and take
               the segments that do not agree as not committed

    Run it inside `abort_on_error`: an error on one rank must end the others.

    A finished file that has lost its folder is read back and marked again.

    Raises DatabaseError when another job holds the database, it was begun with another plan, is
    damaged, or is unfinished without its journals; MachineError when the disk or another part of
    the machine fails.
    """
    communicator = communicator or Communicator()
    plan = write_plan(layout, identity)
    job = _Job(Path(path), layout, plan, compute, communicator, writer, stop, progress, interval)
    with tell_system_errors(f"filling {path}", AFTER_FAILURE), ExitStack() as held:

        def begin() -> tuple[Journals, bool]:
            if repair and not job.path.exists():
                raise DatabaseError(f"there is no database {job.path} to repair")
            if job.path.exists() and not job.folder.exists() and not repair:
                _take_up(job)  # what is refused leaves no folder behind
            job.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold_lock(job.folder, patience))
            wait_for_writers(job.folder, patience)
            if repair:
                return take_up_damaged(job.path, job.folder, layout, plan), False
            return _prepare(job, identity)

        journals, complete = communicator.on_root(begin)
        whole: set[int] = set()
        if repair:
            bad = _check_segments(job, journals, set(journals.commits))
            whole = set(journals.commits) - set(bad)
            journals, complete = communicator.on_root(
                partial(forget, job.path, job.folder, layout, plan, journals, bad)
            )
        for _ in range(2):
            if complete:
                return _summarise(layout, journals, True)
            journals = _run(job, journals)
            if len(journals.commits) < layout.segments:
                return _summarise(layout, journals, False)
            if communicator.rank == 0:
                log.info("%s: everything is committed and is now read back", path)
            bad = _check_segments(job, journals, set(range(layout.segments)) - whole)
            journals, complete = communicator.on_root(partial(_finish, job, journals, bad))
        if complete:
            return _summarise(layout, journals, True)
    raise MachineError(
        f"{path}: what was written twice does not read back the same; check the filesystem"
    )


def _prepare(job: _Job, identity: Mapping[str, str]) -> tuple[Journals, bool]:
    """Rank 0: make the database or take up an earlier one; all earlier journals become one."""
    if not job.path.exists():
        (job.folder / MARKER).unlink(missing_ok=True)
        remove_journals(job.folder)
        create(job.path, job.layout, identity)
    journals, complete = _take_up(job)
    if complete:
        return journals, True
    if not journals.known:
        journals.commits = read_commits(job.path, job.layout)
        if journals.commits:
            log.warning("%s is finished, its journals are lost: every row is read back", job.path)
    for damaged in journals.damaged:
        log.warning("%s ends in a torn record; what it does not confirm is computed again", damaged)
    journals.run = merge_journals(job.folder, job.key, journals)
    return journals, False


def _take_up(job: _Job) -> tuple[Journals, bool]:
    """What file and folder say together, changing neither; True where they are marked complete.

    Raises DatabaseError when the job cannot go on with them.
    """
    require_intact_outside(job.path)
    with open_file(job.path) as file:
        differences = compare_plans(read_plan(file), job.plan)
        if differences:
            raise DatabaseError(
                f"{job.path} was begun with another plan and cannot be continued with this one:\n  "
                + "\n  ".join(differences)
            )
        status = file[STATUS_PATH][()]
        marked = is_marked(job.folder, job.key)
        journals = read_journals(job.folder, job.key)
        if marked:  # what damaged or lost journals no longer tell stands in the file
            if len(journals.commits) < job.layout.segments:
                journals.commits = read_commits(job.path, job.layout) | journals.commits
            return journals, True
        if journals.known:
            return journals, False
        if journals.damaged:
            raise DatabaseError(
                f"the journals in {job.folder} are not those of {job.path}: put its own there, or "
                "move that folder away"
            )
        if 0 < np.count_nonzero(status == PENDING) < len(status):
            raise DatabaseError(
                f"{job.path} holds results, but its journals are missing from {job.folder}: put "
                "them back, or move the file away to begin anew"
            )
    return journals, False


def _run(job: _Job, journals: Journals) -> Journals:
    """Compute and commit this rank's share of what remains; what the journals say afterwards."""
    communicator, layout = job.communicator, job.layout
    deaths = {
        s: max((journals.deaths.get(i, 0) for i in layout.segment(s)), default=0)
        for s in range(layout.segments)
        if s not in journals.commits
    }
    # Segments that died before come last, so that one that kills does not keep others waiting.
    remaining = sorted(deaths, key=lambda s: (deaths[s], s))
    shares = [
        sum(len(layout.segment(s)) for s in remaining[rank :: communicator.size])
        for rank in range(communicator.size)
    ]
    suspects = {i for i, n in journals.deaths.items() if n >= DEATHS_BEFORE_ISOLATION}
    stop_file = job.folder / f"{journals.run:08d}.stop"
    journal = Journal(job.folder, journals.run, communicator.rank, job.key)
    out = open_writer(job.path, layout, communicator, job.writer)
    communicator.barrier()
    monitor = Monitor(
        JournalWatch(job.folder, journals.run, job.key, journal),
        record_pace(job.folder, journals.run, job.progress) if communicator.rank == 0 else None,
        job.interval,
        Progress(
            before=layout.structures - sum(shares),
            total=layout.structures,
            computed=(0,) * communicator.size,
            shares=tuple(shares),
            quarantined=sum(count for _, count in journals.commits.values()),
            seconds=0.0,
        ),
        stop_file,
    )
    try:
        with Committer(layout, out, journal) as committer:
            for segment in share_cyclically(remaining, communicator):
                if job.stop():
                    stop_file.touch()
                if stop_file.exists():
                    break
                rows = _compute_segment(job, journal, segment, suspects, committer.raise_failure)
                committer.commit(segment, *rows)
    except BaseException:
        monitor.end()
        journal.close()
        # Of several ranks all are aborted now, and need not wait for a disk that fails.
        if communicator.size == 1:
            with suppress(MachineError):  # what is told is what came first
                out.close()
        raise
    communicator.barrier()
    monitor.end()
    out.close()
    journal.close()
    stop_file.unlink(missing_ok=True)
    communicator.on_root(monitor.raise_failure)
    return communicator.on_root(lambda: read_journals(job.folder, job.key))


def _compute_segment(
    job: _Job, journal: Journal, segment: int, suspects: set[int], check: Callable[[], None]
) -> tuple[dict[str, np.ndarray], int]:
    """All rows of a segment, and how many of its structures are quarantined.

    `check` raises what went wrong in the background, before each structure.
    """
    layout = job.layout
    structures = layout.segment(segment)
    block = empty_block(layout, structures)
    quarantined = 0
    for position, structure in enumerate(structures):
        index = layout.first_structure + structure
        check()
        if structure in suspects:
            log.warning("structure %d was being computed at three deaths: computed alone", index)
            result = compute_alone(job.compute, index)
        else:
            journal.begin(structure)
            try:
                result = job.compute(index)
            except Exception:
                journal.release(structure)
                raise
        quarantined += not place_rows(layout, block, position, result)
        journal.computed(structure)
    return block, quarantined


def _check_segments(
    job: _Job, journals: Journals, segments: Collection[int]
) -> dict[int, list[tuple[str, int]]]:
    """Segments that do not read back as they were committed, with their bad (table, row) pairs.

    Every rank checks its share of `segments`.
    """
    communicator = job.communicator
    offsets = communicator.on_root(lambda: read_offsets(job.path, job.layout))
    mine = share_cyclically(sorted(segments), communicator)
    found = find_bad_rows(job.path, job.layout, offsets, mine, journals.commits)
    communicator.barrier()
    return {
        segment: rows for part in communicator.allgather(found) for segment, rows in part.items()
    }


def _finish(job: _Job, journals: Journals, bad: Collection[int]) -> tuple[Journals, bool]:
    """Rank 0: mark the database complete, or forget the bad segments so that they are computed."""
    if not bad:
        quarantined = sum(count for _, count in journals.commits.values())
        write_marker(job.path, job.layout, job.folder, job.plan, quarantined)
        return journals, True
    log.warning("%d segments do not read back as written; computed again", len(bad))
    for segment in bad:
        del journals.commits[segment]
    journals.run = merge_journals(job.folder, job.key, journals)
    return journals, False


def _summarise(layout: Layout, journals: Journals, complete: bool) -> Summary:
    done = sum(len(layout.segment(segment)) for segment in journals.commits)
    quarantined = sum(count for _, count in journals.commits.values())
    return Summary(done - quarantined, quarantined, layout.structures - done, complete)
