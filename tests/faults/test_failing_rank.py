"""One rank of two meets a failing or full disk: both end with one message, nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import launching
import pytest
from failing_rank import fail_rank, fill_rank
from interpose import preload
from small_job import run_job, sha256
from test_jobs_at_odds import start

from hpctem.database.journal import journal_folder

pytestmark = pytest.mark.mpi
EIO, ENOSPC = errno.EIO, errno.ENOSPC
DATABASE = "gold.hdf5"
JOURNAL = "gold.hdf5.journal/00000001.00001.journal"
MARKER = "gold.hdf5.journal/COMPLETE.tmp"


@pytest.fixture
def expected(memory: Path) -> str:
    """Digest of the database that nobody disturbed."""
    path = memory / "expected.hdf5"
    run_job(path)
    return sha256(path)


@pytest.mark.parametrize(
    "writer, rank, call, number, code, victim, commits",
    [
        ("mpio", 1, "open", 1, ENOSPC, JOURNAL, 0),
        ("mpio", 1, "write", 9, EIO, DATABASE, 0),
        ("mpio", 1, "fdatasync", 1, EIO, DATABASE, 0),
        ("mpio", 0, "write", 67, EIO, DATABASE, 5),  # of HDF5, as it closes the file
        ("mpio", 0, "rename", 3, EIO, MARKER, 5),
        ("pwrite", 1, "write", 9, ENOSPC, DATABASE, 0),
        ("pwrite", 1, "fdatasync", 2, ENOSPC, JOURNAL, 0),
    ],
)
def test_failing_call_of_one_rank_ends_all(
    memory, expected, writer, rank, call, number, code, victim, commits
):
    launching.require_mpi(parallel_hdf5=writer == "mpio")
    outcome = fail_rank(memory / "job", rank, number, code, expected, writer, call)
    assert outcome.struck == f"{call} {victim}" and not outcome.problem
    assert outcome.commits >= commits


@pytest.mark.parametrize("writer", ["mpio", "pwrite"])
def test_disk_full_for_one_rank_ends_all(memory, expected, writer):
    launching.require_mpi(parallel_hdf5=writer == "mpio")
    outcome = fill_rank(memory / "job", 1, 30_000, expected, writer)
    assert outcome.struck.startswith("write ") and not outcome.problem


def is_second(process: int) -> bool:
    """Whether it is rank 1, as Open MPI or MPICH name it."""
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return bool({b"OMPI_COMM_WORLD_RANK=1", b"PMI_RANK=1"} & set(variables))


def test_stop_on_a_disk_that_takes_no_file_ends_all_with_one_message(memory):
    """A rank that is asked to stop cannot tell the others by a file."""
    launching.require_mpi()
    path = memory / "work" / "gold.hdf5"
    path.parent.mkdir()
    failing = preload(path.parent, rank=1, fail=f"2:{ENOSPC}:open")
    job = start(path, 2, failing, slow=1.0, writer="pwrite")
    try:
        journal = journal_folder(path) / "00000001.00001.journal"
        while not journal.exists() or not journal.stat().st_size:
            assert job.poll() is None
            time.sleep(0.01)
        os.kill(next(p for p in launching.ranks_of(job) if is_second(p)), signal.SIGUSR1)
        messages = job.communicate(timeout=240)[1]
    finally:
        launching.end(job)
    assert job.returncode == 1 and messages.count("hpctem: ") == 1, messages
    assert "00000001.stop: No space left on device; everything committed is kept" in messages
