"""Deaths under mpirun, full disks, deadly structures: nothing lost, the same bytes at the end."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import kill_many
import launching
import pytest
from launching import JOB

from hpctem.database.journal import journal_folder
from hpctem.database.reader import open_database
from hpctem.database.verify import verify

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(
    "ranks, kills, writer", [(2, 12, "auto"), (3, 6, "auto"), (2, 6, "pwrite")]
)
def test_kills_at_random_moments_lose_nothing(tmp_path, ranks, kills, writer):
    launching.require_mpi()
    tally = kill_many.kill_many(tmp_path, kills, ranks, seed=ranks, writer=writer)
    assert tally["kills"] == kills
    assert all(tally[phase] == kills / len(kill_many.PHASES) for phase in kill_many.PHASES)


def test_structure_that_kills_its_process_is_quarantined_after_three_deaths(tmp_path):
    launching.require_mpi()
    path = tmp_path / "gold.hdf5"
    deadly = JOB | {"structures": 12, "deadly": "5"}
    for _ in range(3):
        assert launching.run(path, 2, **deadly)[0] not in (0, 4)
        with open_database(path) as database:
            assert not database.committed[5]
    code, summary, messages = launching.run(path, 2, **deadly)
    assert code == 0, messages
    assert summary["quarantined"] == 3
    with open_database(path) as database:
        reasons = dict(database.quarantined)
    assert "SIGSEGV" in reasons[5] and "CIF" in reasons[3]


def test_kills_of_a_healthy_structure_do_not_quarantine_it(tmp_path, reference):
    path = tmp_path / "gold.hdf5"
    for _ in range(4):
        job = launching.start(path, 0, slow=1000, **JOB)
        while not list(journal_folder(path).glob("*.00000.journal")) or not _has_begun(path):
            assert job.poll() is None
            time.sleep(0.01)
        launching.end(job)
    assert launching.run(path, 0, **JOB)[0] == 0
    assert launching.sha256(path) == launching.sha256(reference)


def _has_begun(path: Path) -> bool:
    newest = max(journal_folder(path).glob("*.00000.journal"))
    return newest.stat().st_size > 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A small filesystem in memory; only root may mount one."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        if os.environ.get("CI", "").lower() in ("1", "true") and os.geteuid() == 0:
            pytest.fail("a tmpfs cannot be mounted")
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("ranks", [0, 2])
def test_disk_full_in_the_middle_aborts_cleanly_and_resumes(tmp_path, ranks):
    if ranks:
        launching.require_mpi()
    job = {"structures": 240, "per_segment": 1, "size": 8}
    expected = tmp_path / "expected.hdf5"
    assert launching.run(expected, 0, **job)[0] == 0
    with small_disk(tmp_path / "disk", "4m") as disk:
        path = disk / "gold.hdf5"
        process = launching.start(path, ranks, slow=0.05, **job)
        while not _has_committed(path):
            assert process.poll() is None
            time.sleep(0.005)
        junk = disk / "junk"
        with contextlib.suppress(OSError), open(junk, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        _, messages = process.communicate(timeout=180)
        assert process.returncode == 1
        assert messages.count("hpctem: error") == 1, messages
        assert "No space left on device" in messages and "run the same command again" in messages
        with open_database(path) as database:
            assert 0 < database.committed.sum() < 240
        assert verify(path).intact
        junk.unlink()
        code, _, messages = launching.run(path, ranks, **job)
        assert code == 0, messages
        assert launching.sha256(path) == launching.sha256(expected)


def _has_committed(path: Path) -> bool:
    if not path.exists():
        return False
    with open_database(path) as database:
        return bool(database.committed.any())


def test_disk_too_small_is_refused_with_the_estimate_before_any_work(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        code, _, messages = launching.run(disk / "gold.hdf5", 0, **JOB | {"structures": 2000})
        assert code == 1
        assert "the database needs" in messages and "free space" in messages
        assert [p.name for p in disk.iterdir()] == ["gold.hdf5.journal"]


def test_limit_on_the_file_size_aborts_cleanly_and_resumes(tmp_path, reference):
    path = tmp_path / "gold.hdf5"
    limit = 100_000
    process = subprocess.run(
        launching.command(path, 0, **JOB),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(launching.ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 1, process.stderr
    assert process.stderr.count("hpctem: error") == 1
    assert not path.exists() and not list(tmp_path.glob("*.creating"))
    assert launching.run(path, 0, **JOB)[0] == 0
    assert launching.sha256(path) == launching.sha256(reference)


ONE_RANK_FAILS = """
from hpctem.parallel import abort_on_error, world

communicator = world()
with abort_on_error(communicator):
    if communicator.rank == 1:
        open("/nowhere/table.csv")
    communicator.barrier()
"""


def test_file_that_one_rank_cannot_open_is_told_in_one_sentence(run_mpi):
    """Outside of what fills a database, too: no traceback."""
    done = run_mpi(2, sys.executable, "-c", ONE_RANK_FAILS)
    told = [line for line in done.stderr.splitlines() if "hpctem: " in line]
    assert done.returncode == 1 and len(told) == 1 and "Traceback" not in done.stderr
    assert told[0].startswith("hpctem: error on rank 1 of 2")
    assert told[0].endswith(": /nowhere/table.csv: No such file or directory")


@pytest.mark.parametrize("writer", ["mpio", "pwrite"])
def test_failing_write_aborts_with_one_message_and_resumes(tmp_path, reference, writer):
    launching.require_mpi(parallel_hdf5=writer == "mpio")
    path = tmp_path / "gold.hdf5"
    assert launching.run(path, 2, slow=0.1, failing="6", **JOB)[0] == 1
    half = path.stat().st_size // 2
    code, _, messages = launching.run(path, 2, timeout=180, writer=writer, file_limit=half, **JOB)
    assert code == 1, messages
    assert messages.count("hpctem: error") == 1, messages
    assert f"writing {path} failed" in messages and "everything committed is kept" in messages
    assert verify(path).intact
    assert launching.run(path, 2, writer=writer, **JOB)[0] == 0
    assert launching.sha256(path) == launching.sha256(reference)
