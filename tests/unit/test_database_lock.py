"""One job at a time, with and without a filesystem that has locks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from dying import run_and_die

from hpctem.database import lock as lock_module
from hpctem.database.lock import hold_lock
from hpctem.errors import DatabaseError, MachineError

FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["lockf", "file"])
def filesystem(request, monkeypatch):
    """A filesystem with locks, and one whose lockf fails as on some parallel filesystems."""
    if request.param == "file":

        def fail(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(lock_module.fcntl, "lockf", fail)
    return request.param


def _hold(folder, ready, leave):
    with hold_lock(folder):
        ready.set()
        leave.wait()


def _try(folder, answers):
    try:
        with hold_lock(folder, 0.2):
            answers.put("")
    except DatabaseError as error:
        answers.put(str(error))


def attempt(folder) -> str:
    """What another process is told that wants the lock."""
    answers = FORK.Queue()
    other = FORK.Process(target=_try, args=(folder, answers))
    other.start()
    answer = answers.get(timeout=60)
    other.join()
    return answer


def test_second_job_is_refused_by_name(tmp_path, filesystem):
    folder = tmp_path / "gold.hdf5.journal"
    folder.mkdir()
    with hold_lock(folder):
        answer = attempt(folder)
    assert (
        f"another job works on gold.hdf5: process {os.getpid()} on {socket.gethostname()}" in answer
    )
    assert attempt(folder) == ""


@pytest.mark.parametrize("how", ["leaves", "dies"])
def test_lock_ends_with_its_job(tmp_path, filesystem, how):
    ready, leave = FORK.Event(), FORK.Event()
    job = FORK.Process(target=_hold, args=(tmp_path, ready, leave))
    job.start()
    assert ready.wait(10)
    assert "another job works" in attempt(tmp_path)
    if how == "leaves":
        leave.set()
    else:
        job.kill()
    job.join()
    assert attempt(tmp_path) == ""


@pytest.mark.parametrize(
    "change, stale",
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"started": "1"}, True),
        ({"host": "node17"}, False),
    ],
)
def test_lock_file_is_stale_once_its_process_is_gone(tmp_path, monkeypatch, change, stale):
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)
    holder = json.loads(lock_module._describe_self()) | change
    (tmp_path / "lock.owner").write_text(json.dumps(holder))
    answer = attempt(tmp_path)
    assert (answer == "") == stale
    if not stale:
        assert f"on {holder['host']}" in answer and "delete" in answer


def test_death_while_the_lock_file_is_made_leaves_no_empty_one(tmp_path, monkeypatch):
    """A job dies before each of its calls: the next one has the lock without waiting."""
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)
    monkeypatch.setattr(lock_module, "UNREADABLE_SECONDS", 1e9)

    def take():
        with hold_lock(tmp_path):
            pass

    deaths = 0
    while run_and_die(take, deaths + 1):
        deaths += 1
        owner = tmp_path / "lock.owner"
        assert not owner.exists() or lock_module._read_holder(owner.read_bytes())
        assert attempt(tmp_path) == ""
    assert deaths >= 7, "the lock is made in fewer calls than it has steps: they are not counted"


@pytest.mark.parametrize("left", [b"", b'{"host": "node', b"\0\0"])
def test_lock_file_that_says_nothing_is_stale_after_a_while(tmp_path, monkeypatch, left):
    """What damage to the disk may leave: it must not block the database for ever."""
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)
    monkeypatch.setattr(lock_module, "UNREADABLE_SECONDS", 0.6)
    (tmp_path / "lock.owner").write_bytes(left)
    answer = attempt(tmp_path)
    assert "it does not say whose it is" in answer and "lock.owner" in answer
    began = time.monotonic()
    with hold_lock(tmp_path):
        assert time.monotonic() - began >= 0.6


def test_filesystem_without_locks_and_links_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)

    def fail(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(lock_module.os, "link", fail)
    with pytest.raises(MachineError, match=r"lock.owner: Operation not permitted; .* hard links"):
        with hold_lock(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_lock_that_another_job_has_just_taken_is_given_back(tmp_path, monkeypatch):
    """Two jobs find the same stale lock; the slower one must not remove the faster one's."""
    path = tmp_path / "lock.owner"
    stale = json.loads(lock_module._describe_self()) | {"pid": 2**22 + 1}
    path.write_text(raw := json.dumps(stale))
    rename = os.rename

    def rename_late(old, new):
        path.write_text("the faster job")
        rename(old, new)

    monkeypatch.setattr(lock_module.os, "rename", rename_late)
    lock_module._take_away(path, raw.encode())
    assert path.read_text() == "the faster job"
    assert [p.name for p in tmp_path.iterdir()] == ["lock.owner"]


@pytest.mark.parametrize(("restarts", "free"), [("0", False), ("1", False), ("2", True)])
def test_lock_file_of_an_earlier_start_of_the_same_slurm_job_is_stale(
    tmp_path, monkeypatch, restarts, free
):
    """Its node was lost, and Slurm knows the job, for it is this one."""
    monkeypatch.setattr(lock_module, "_lock_range", lambda *words: False)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    holder = json.loads(lock_module._describe_self()) | {"host": "node17"}
    (tmp_path / "lock.owner").write_text(json.dumps(holder))
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 4711\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if free:
        with lock_module.hold_lock(tmp_path, patience=0.3):
            pass
    else:
        with pytest.raises(DatabaseError, match="another job works"):
            with lock_module.hold_lock(tmp_path, patience=0.3):
                pass


def test_lock_file_of_a_finished_slurm_job_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    holder = json.loads(lock_module._describe_self()) | {"host": "node17", "job": "4711"}
    monkeypatch.setattr(lock_module, "SQUEUE_SECONDS", 1.0)
    alive, unknown = "since ", "whether it lives squeue did not say"
    for script, told in (
        ("echo 4711", alive),
        ("echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1", f"{unknown}: slurm_load"),
        ("sleep 60", f"{unknown} in 1 s"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", ""),
        ("exit 0", ""),
    ):
        squeue.write_text(f'#!/bin/sh\n[ "$3" = 4711 ] || exit 9\n{script}\n')
        squeue.chmod(0o755)
        (tmp_path / "lock.owner").write_text(json.dumps(holder))
        answer = attempt(tmp_path)
        assert told in answer if told else answer == "", script
        assert not told or ("(Slurm job 4711)" in answer and "delete" in answer)
