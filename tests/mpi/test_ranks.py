"""Ranks and writers give the same bytes; one error ends all ranks; a signal stops all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import launching
import pytest
from launching import JOB

from hpctem.database.journal import journal_folder
from hpctem.database.reader import open_database
from hpctem.database.verify import verify

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("writer", ["mpio", "pwrite"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_and_writers_give_the_same_bytes(tmp_path, reference, ranks, writer):
    launching.require_mpi(parallel_hdf5=writer == "mpio")
    path = tmp_path / "gold.hdf5"
    code, summary, messages = launching.run(path, ranks, writer=writer, **JOB)
    assert code == 0, messages
    assert summary["good"] == 22 and summary["complete"]
    assert launching.sha256(path) == launching.sha256(reference)
    journals = list(journal_folder(path).glob("*[0-9].journal"))
    assert len(journals) == ranks and all(j.stat().st_size for j in journals), "a rank was idle"


def test_other_number_of_ranks_and_other_writer_go_on(tmp_path, reference):
    launching.require_mpi()
    path = tmp_path / "gold.hdf5"
    for ranks, failing in ((3, "2,22"), (1, "22"), (2, "")):
        code, _, messages = launching.run(
            path,
            ranks,
            writer="auto" if ranks > 1 else "pwrite",
            failing=failing,
            **JOB,
        )
        assert code == (1 if failing else 0), messages
    assert launching.sha256(path) == launching.sha256(reference)


@pytest.mark.parametrize("writer", ["mpio", "pwrite"])
def test_rows_larger_than_one_slab(tmp_path, reference, writer):
    """As rows of gigabytes are cut, which MPI could not move in one call: here of kilobytes."""
    launching.require_mpi(parallel_hdf5=writer == "mpio")
    path = tmp_path / "gold.hdf5"
    code, _, messages = launching.run(path, 2, writer=writer, slab=1000, **JOB)
    assert code == 0, messages
    assert launching.sha256(path) == launching.sha256(reference)


def test_mpio_without_mpi_is_refused(tmp_path):
    code, _, messages = launching.run(tmp_path / "gold.hdf5", 0, writer="mpio", **JOB)
    assert code == 1
    assert "the writer 'mpio' cannot be used" in messages


@pytest.mark.parametrize(
    "raising, failing", [("machine", "5"), ("machine", "0,1,2,3,4,5"), ("bug", "5")]
)
def test_error_of_a_rank_ends_all_with_one_message(tmp_path, raising, failing):
    launching.require_mpi()
    job = JOB | {"failing": failing, "structures": 200, "raising": raising}
    code, _, messages = launching.run(tmp_path / "gold.hdf5", 3, timeout=60, **job)
    assert code == 1
    text = "the GPU is lost" if raising == "machine" else "KeyError: 'bug'"
    assert messages.count("hpctem:") == 1 and messages.count(text) == 1, messages
    assert "Traceback" not in messages or raising == "bug"


def test_exit_code_of_a_finished_job_is_no_failure(tmp_path):
    launching.require_mpi()
    code, summary, messages = launching.run(tmp_path / "gold.hdf5", 3, exit=3, **JOB)
    assert code == 3 and summary["complete"]
    assert "hpctem" not in messages and "MPI_ABORT" not in messages


def test_refusal_is_one_message_and_no_abort(tmp_path, reference):
    launching.require_mpi()
    path = tmp_path / "gold.hdf5"
    assert launching.run(path, 2, **JOB)[0] == 0
    code, _, messages = launching.run(path, 3, seed=8, **JOB)
    assert code == 1
    assert messages.count("hpctem: error") == 1 and "seed: 7 then, 8 now" in messages
    assert "MPI_ABORT" not in messages
    assert launching.sha256(path) == launching.sha256(reference)


def test_second_job_is_refused_and_first_unharmed(tmp_path, reference):
    launching.require_mpi()
    path, gate = tmp_path / "gold.hdf5", tmp_path / "gate"
    gate.touch()
    first = launching.start(path, 2, gate=gate, **JOB)
    try:
        while not list(journal_folder(path).glob("*.00001.journal")):
            assert first.poll() is None
            time.sleep(0.01)
        pids = launching.ranks_of(first)
        for ranks in (0, 2):
            code, _, messages = launching.run(path, ranks, patience=0.2, **JOB)
            assert code == 1
            assert (
                f"another job works on gold.hdf5: process {pids[0]} on {os.uname()[1]}" in messages
            )
        gate.unlink()
        assert first.wait(180) == 0
    finally:
        launching.end(first)
    assert launching.sha256(path) == launching.sha256(reference)


@pytest.mark.parametrize("to", ["launcher", "one rank"])
def test_signal_finishes_segments_and_stops_all_ranks(tmp_path, reference, to):
    launching.require_mpi()
    path = tmp_path / "gold.hdf5"
    job = launching.start(path, 2, slow=0.8, **JOB)
    try:
        while not (path.exists() and _count_commits(path) >= 2):
            assert job.poll() is None
            time.sleep(0.01)
        target = job.pid if to == "launcher" else launching.ranks_of(job)[1]
        os.kill(target, signal.SIGUSR1)
        assert job.wait(180) == 4
    finally:
        launching.end(job)
    with open_database(path) as database:
        assert not database.complete
        assert 4 <= count_true(database.committed) < 24
        assert count_true(database.committed) % 2 == 0
    assert verify(path).intact
    assert launching.run(path, 3, **JOB)[0] == 0
    assert launching.sha256(path) == launching.sha256(reference)


def _count_commits(path: Path) -> int:
    with open_database(path) as database:
        return count_true(database.committed) // 2


def count_true(values) -> int:
    return int(values.sum())
