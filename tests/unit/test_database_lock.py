"""One job at a time, with and without a filesystem that has locks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket

import pytest

from hpctem.database import lock as lock_module
from hpctem.database.lock import hold_lock
from hpctem.errors import DatabaseError

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


def test_lock_that_another_job_has_just_taken_is_given_back(tmp_path, monkeypatch):
    """Two jobs find the same stale lock; the slower one must not remove the faster one's."""
    path = tmp_path / "lock.owner"
    stale = json.loads(lock_module._describe_self()) | {"pid": 2**22 + 1}
    path.write_text(json.dumps(stale))
    rename = os.rename

    def rename_late(old, new):
        path.write_text("the faster job")
        rename(old, new)

    monkeypatch.setattr(lock_module.os, "rename", rename_late)
    lock_module._remove_stale(path)
    assert path.read_text() == "the faster job"
    assert [p.name for p in tmp_path.iterdir()] == ["lock.owner"]


def test_lock_file_of_a_finished_slurm_job_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_lock_range", lambda *_: False)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    holder = json.loads(lock_module._describe_self()) | {"host": "node17", "job": "4711"}
    for script, stale in (
        ("echo 4711", False),
        ("echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("exit 0", True),
    ):
        squeue.write_text(f'#!/bin/sh\n[ "$3" = 4711 ] || exit 9\n{script}\n')
        squeue.chmod(0o755)
        (tmp_path / "lock.owner").write_text(json.dumps(holder))
        assert (attempt(tmp_path) == "") == stale, script
