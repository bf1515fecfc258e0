"""A job that dies before each of its system calls: nothing is lost, and the bytes are the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from dying import run_and_die
from synthetic import Compute, lay_out

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.isolate import compute_alone
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.schema import GOOD, QUARANTINED
from hpctem.database.verify import verify
from hpctem.errors import MachineError

LAYOUT = lay_out(4, 2)
IDENTITY = {"seed": "7"}
COMPUTE = Compute(bad=(1,))
KEY = plan_key(write_plan(LAYOUT, IDENTITY))


def fill_and_die(path: Path, at: int) -> bool:
    """Fill in a process that dies before its call number `at`; True if it did."""
    return run_and_die(lambda: fill(path, LAYOUT, IDENTITY, COMPUTE), at)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def commits(path: Path) -> dict:
    folder = journal_folder(path)
    return read_journals(folder, KEY).commits if folder.exists() else {}


@pytest.fixture
def memory(tmp_path):
    """A folder in memory where there is one: a SIGKILL is no power cut, so fsync need not wait."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def test_death_before_every_system_call(memory):
    whole = memory / "whole.hdf5"
    fill(whole, LAYOUT, IDENTITY, COMPUTE)
    expected, at, marked = digest(whole), 0, 0
    while True:
        at += 1
        path = memory / f"{at}.hdf5"
        died = fill_and_die(path, at)
        if not died:
            break
        for again in (3, 11, 29, 47):  # deaths of the jobs that resume
            known = commits(path)
            marked += (journal_folder(path) / MARKER).exists()
            if path.exists():
                assert not verify(path).damaged
            fill_and_die(path, again)
            assert known.items() <= commits(path).items(), "a committed segment is lost"
        assert not fill_and_die(path, 0)
        assert digest(path) == expected, f"other bytes after a death before call {at}"
        assert (journal_folder(path) / MARKER).exists() and verify(path).intact
        path.unlink()
        shutil.rmtree(journal_folder(path))
    assert at > 60, "the job makes fewer calls than its protocol has steps: they are not counted"
    assert marked, "no death came after the end was marked"


def test_structure_alone_returns_its_rows():
    result = compute_alone(COMPUTE, 2)
    assert result.status == GOOD
    same = COMPUTE(2).rows
    assert result.rows.keys() == same.keys()
    assert (result.rows["/entry/images/intensity"] == same["/entry/images/intensity"]).all()


def test_structure_alone_that_segfaults_is_quarantined():
    result = compute_alone(Compute(deadly=(2,)), 2)
    assert result.status == QUARANTINED and "SIGSEGV" in result.error


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_structure_alone_that_is_killed_is_no_ones_fault(how):
    with pytest.raises(MachineError, match=f"code -{how.value}"):
        compute_alone(Compute(deadly=(2,), deadly_signal=how.value), 2)


def test_structure_alone_passes_errors_of_the_machine_on():
    with pytest.raises(MachineError, match="the GPU is lost"):
        compute_alone(Compute(failing=(2,)), 2)
