"""The power fails at any moment: nothing acknowledged is lost, the job ends in the same bytes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from pathlib import Path

import launching
import pytest
from interpose import LINK, Event, preload, read_trace
from power_loss import find_acknowledged, lose_power, replay
from small_job import KEY, LAYOUT, OPTIONS, find_fault, fresh_folders, run_job, sha256

from hpctem.database import lock as lock_module

STATES = 240
CONTROL_STATES = 80
# Of the states after a job that syncs nothing: at least this share must be found wrong.
FOUND_OUT = 0.25


def trace_job(folder: Path, ranks: int, **settings: object) -> list[Event]:
    """A job that fails in the middle, then is run to its end: all that it did to the disk."""
    work, notes = folder / "work", folder / "notes"
    for each in (work, notes):
        each.mkdir()
    environment = launching.environment() | preload(work, trace=notes, **settings)
    for failing, code in (("7", 1), ("", 0)):
        line = launching.command(work / "gold.hdf5", ranks, **OPTIONS, failing=failing)
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stderr
    events = read_trace(notes, work)
    synced = find_acknowledged(events, KEY, events[-1].end + 1)
    assert synced.keys() == set(range(LAYOUT.segments)), "commits that nobody asked to be synced"
    return events


@pytest.fixture
def expected(memory: Path) -> str:
    """Digest of the database that nobody disturbed."""
    path = memory / "expected.hdf5"
    run_job(path)
    return sha256(path)


def lose(events: list[Event], memory: Path, expected: str, states: int) -> list[str]:
    """What is found wrong with so many states after a power loss; '' for nothing."""
    with fresh_folders(memory) as make:
        return replay(
            events,
            states,
            KEY,
            seed=1,
            make_folder=make,
            check=lambda folder, state: find_fault(
                folder / "gold.hdf5", state.acknowledged, expected
            ),
        )


@pytest.mark.parametrize("locks", ["kept", "none"])
@pytest.mark.parametrize("ranks", [0, 2])
def test_nothing_acknowledged_is_lost(tmp_path, memory, expected, ranks, locks, monkeypatch):
    if ranks:
        launching.require_mpi()
    if locks == "none":
        monkeypatch.setattr(lock_module.fcntl, "lockf", refuse_lock)
    events = trace_job(tmp_path, ranks, locks=locks)
    assert any(event.kind == LINK for event in events) == (locks == "none")
    states = STATES if locks == "kept" else STATES // 2
    assert [problem for problem in lose(events, memory, expected, states) if problem] == []


def refuse_lock(*_: object) -> None:
    """fcntl.lockf on a filesystem without locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_job_that_does_not_sync_is_found_out(tmp_path, memory, expected):
    """The control: the same job whose fdatasync does nothing must lose what it acknowledged."""
    events = trace_job(tmp_path, 0, nosync=1)
    assert count_losses(lose(events, memory, expected, CONTROL_STATES)) > FOUND_OUT * CONTROL_STATES


def count_losses(problems: list[str]) -> int:
    """States in which something acknowledged is lost, or committed and not whole."""
    return sum("lost" in problem or "damaged" in problem for problem in problems)


def test_the_trace_is_the_whole_truth(tmp_path):
    """With nothing lost, the state after the last call is the folder that the job left."""
    events = trace_job(tmp_path, 0)
    state = lose_power(events, events[-1].end + 1, KEY, random.Random(0), "all kept")
    work = tmp_path / "work"
    left = {str(p.relative_to(work)): p.read_bytes() for p in work.rglob("*") if p.is_file()}
    assert state.files == left and len(left) > 4
