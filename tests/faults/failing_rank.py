"""One rank of two meets a failing or full disk, the other does not: both end, with one message."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import launching
from interpose import REFUSED, preload, read_trace
from power_loss import find_acknowledged
from small_job import DRAFT, KEY, find_fault
from test_jobs_at_odds import start

from hpctem.database.pace import PACE

PATIENCE = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a job of two ranks ended whose one rank met a failure.

    struck   "rename gold.hdf5", the call that failed; '' where none did: the job has fewer calls
    commits  how many were acknowledged before
    problem  what was wrong, '' for nothing
    """

    struck: str
    commits: int
    problem: str


def fail_rank(
    folder: Path,
    rank: int,
    number: int,
    code: int,
    expected: str,
    writer: str = "mpio",
    call: str = "",
) -> Outcome:
    """Run the job on two ranks, one of which has its so manieth call fail, and again without.

    call   count calls of this name alone
    """
    settings = {"rank": rank, "fail": f"{number}:{code}{call and ':'}{call}"}
    return _disturb(folder, settings, code, expected, writer)


def fill_rank(folder: Path, rank: int, level: int, expected: str, writer: str = "mpio") -> Outcome:
    """The same with a disk that is full for one rank once it has written so many bytes."""
    settings = {"rank": rank, "full": level}
    return _disturb(folder, settings, errno.ENOSPC, expected, writer)


def _disturb(
    folder: Path, settings: dict[str, int | str], code: int, expected: str, writer: str
) -> Outcome:
    work, notes = folder / "work", folder / "notes"
    for each in (work, notes):
        each.mkdir(parents=True)
    path = work / "gold.hdf5"
    job = start(path, 2, preload(work, trace=notes, **settings), writer=writer)
    try:
        messages = job.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        return Outcome("", 0, f"hangs with {settings}")
    finally:
        launching.end(job)
    events = read_trace(notes, work)
    refused = next((event for event in events if event.kind == REFUSED), None)
    if refused is None:
        return Outcome("", 0, "" if job.returncode == 0 else f"nothing failed: {messages}")
    acknowledged = find_acknowledged(events, KEY, events[-1].end + 1)
    # What comes back of a failing write through MPI-IO is that it failed, not why.
    through_mpi = writer == "mpio" and (refused.second, refused.path) == ("write", path.name)
    reason = "failed" if through_mpi else os.strerror(code)
    fault = _find_fault_of_end(path, job.returncode, messages, refused.path, reason)
    problem = fault or find_fault(path, acknowledged, expected)
    struck = f"{refused.second} {refused.path}"
    return Outcome(struck, len(acknowledged), f"{struck}: {problem}" if problem else "")


def _find_fault_of_end(path: Path, code: int, messages: str, victim: str, reason: str) -> str:
    """What is wrong with how the job ended and what it said, '' for nothing."""
    # The job goes on without a note of how fast it was, and where Open MPI tries locks in vain.
    told = {PACE: f"{PACE} cannot be written: {reason}", f"{path.name}.locktest.0": ""}
    if (name := Path(victim).name) in told:
        well = code == 0 and told[name] in messages
        return "" if well else f"ended with {code}: {messages}"
    said = [line for line in messages.splitlines() if "hpctem: " in line]
    if code != 1 or len(said) != 1 or "Traceback" in messages:
        return f"ended with {code} and not one message: {messages}"
    if str(path.parent / DRAFT.sub("", victim)) not in said[0] or reason not in said[0]:
        return f"does not name file and reason: {said[0]}"
    return ""
