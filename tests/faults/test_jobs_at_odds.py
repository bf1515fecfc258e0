"""Jobs that hold still, and jobs that fight over one database."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import launching
import pytest
from interpose import preload
from small_job import OPTIONS, commits_of, run_job, sha256

from hpctem.database.verify import verify

STILL = 3.0


@pytest.fixture
def expected(memory: Path) -> str:
    """Digest of the database that nobody disturbed."""
    path = memory / "expected.hdf5"
    run_job(path)
    return sha256(path)


def start(path: Path, ranks: int, environment: dict[str, str], **options: object):
    """Start the job in a session of its own."""
    return subprocess.Popen(
        launching.command(path, ranks, **OPTIONS, **options),
        env=launching.environment() | environment,
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_commits(path: Path, least: int, job: subprocess.Popen) -> None:
    """Wait until so many segments are committed, while the job lives."""
    limit = time.monotonic() + 180
    while len(commits_of(path)) < least:
        assert job.poll() is None and time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.mpi
def test_a_rank_that_holds_still_delays_and_no_more(memory, expected):
    launching.require_mpi()
    hold_still(memory / "gold.hdf5", expected, STILL)


def hold_still(path: Path, expected: str, seconds: float) -> None:
    """A rank is stopped for a while (a paused machine, a hanging filesystem); meanwhile a second
    job finds the database taken."""
    job = start(path, 2, {}, slow=0.6)
    try:
        wait_for_commits(path, 1, job)
        victim = launching.ranks_of(job)[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            second = start(path, 0, {}, patience=1)
            told = second.communicate(timeout=180)[1]
            assert second.returncode == 1 and "another job works on" in told
            time.sleep(seconds)
        finally:
            os.kill(victim, signal.SIGCONT)
        _, messages = job.communicate(timeout=240)
    finally:
        launching.end(job)
    assert job.returncode == 0, messages
    assert sha256(path) == expected and verify(path).intact


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("locks", ["kept", "none", "lies"])
def test_two_jobs_at_once_end_in_the_same_bytes(memory, expected, locks, ranks):
    if ranks:
        launching.require_mpi()
    run_two_jobs(memory, expected, locks, ranks)


def run_two_jobs(memory: Path, expected: str, locks: str, ranks: int) -> None:
    """With locks, on a filesystem without, and on one that grants every lock to everybody.

    Each job is done, refused with the reason, or says that it is not complete (4); the database is
    right, or is so after a rerun.
    """
    path = memory / "gold.hdf5"
    environment = {} if locks == "kept" else preload(memory, locks=locks)
    jobs = [start(path, ranks, environment, slow=0.1, patience=0.5) for _ in range(2)]
    try:
        told = [job.communicate(timeout=240)[1] for job in jobs]
    finally:
        for job in jobs:
            launching.end(job)
    for job, message in zip(jobs, told, strict=True):
        refused = job.returncode == 1 and message.count("hpctem: error") >= 1
        assert refused or job.returncode == 0 or (locks == "lies" and job.returncode == 4), message
        assert "Traceback" not in message
        if locks != "lies":
            assert job.returncode == 0 or "another job works on" in message
    if locks != "lies":
        assert 0 in [job.returncode for job in jobs]
    if path.exists():
        assert not verify(path).damaged
    run_job(path)
    assert sha256(path) == expected and verify(path).intact
