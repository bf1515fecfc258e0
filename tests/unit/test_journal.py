"""Journals: what they say after tears, merges and many runs."""

from __future__ import annotations

import multiprocessing

import pytest

from hpctem.database.journal import (
    RECORD_BYTES,
    Journal,
    Journals,
    JournalWatch,
    merge_journals,
    pack_record,
    read_journals,
    unpack_records,
    wait_for_writers,
    write_durably,
)
from hpctem.errors import DatabaseError

KEY = bytes(range(32))
DIGEST = bytes(range(16))


def test_every_torn_or_flipped_record_is_recognised():
    raw = b"".join(pack_record(KEY, 4, number, number, DIGEST) for number in range(3))
    assert unpack_records(KEY, raw) == ([(4, n, n, DIGEST) for n in range(3)], True)
    for size in range(len(raw)):
        records, whole = unpack_records(KEY, raw[:size])
        assert len(records) == size // RECORD_BYTES and whole == (size % RECORD_BYTES == 0)
    for place in range(RECORD_BYTES, 2 * RECORD_BYTES):
        flipped = bytearray(raw)
        flipped[place] ^= 16
        assert unpack_records(KEY, bytes(flipped)) == ([(4, 0, 0, DIGEST)], False)
    assert unpack_records(bytes(32), raw) == ([], False)


def test_commits_and_deaths_are_read_from_all_ranks(tmp_path):
    for rank in range(3):
        journal = Journal(tmp_path, 1, rank, KEY)
        journal.begin(10 * rank)
        journal.computed(10 * rank)
        journal.commit(rank, DIGEST, rank)
        journal.begin(10 * rank + 1)
        if rank == 2:
            journal.release(21)
        journal.close()
    found = read_journals(tmp_path, KEY)
    assert found.commits == {n: (DIGEST, n) for n in range(3)}
    assert found.deaths == {1: 1, 11: 1} and found.run == 1 and not found.damaged


def test_merging_keeps_everything_at_every_step_of_a_death(tmp_path):
    for run, rank in ((1, 0), (1, 1), (2, 0)):
        journal = Journal(tmp_path, run, rank, KEY)
        journal.commit(10 * run + rank, DIGEST, 1)
        journal.begin(5)
        journal.close()
    before = read_journals(tmp_path, KEY)
    assert before.deaths == {5: 3}
    old = {p.name: p.read_bytes() for p in tmp_path.glob("*.0*.journal")}
    assert merge_journals(tmp_path, KEY, before) == 3
    after = read_journals(tmp_path, KEY)
    assert (after.commits, after.deaths, after.run) == (before.commits, before.deaths, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["00000003.merged.journal"]
    # Died before deleting some of the old ones: their deaths are not counted twice.
    for name, raw in old.items():
        (tmp_path / name).write_bytes(raw)
        again = read_journals(tmp_path, KEY)
        assert (again.commits, again.deaths) == (before.commits, before.deaths)
    assert merge_journals(tmp_path, KEY, again) == 4
    assert read_journals(tmp_path, KEY).deaths == {5: 3}


def test_a_folder_belongs_to_its_plan_from_the_first_run_on(tmp_path):
    assert not read_journals(tmp_path, KEY).known
    merge_journals(tmp_path, KEY, read_journals(tmp_path, KEY))
    found = read_journals(tmp_path, KEY)
    assert found.known and found.run == 1 and not found.commits and not found.damaged
    other = read_journals(tmp_path, bytes(32))
    assert not other.known and len(other.damaged) == 1


def test_journal_of_a_run_is_never_reused(tmp_path):
    Journal(tmp_path, 1, 0, KEY).close()
    with pytest.raises(Exception, match="cannot open the journal"):
        Journal(tmp_path, 1, 0, KEY)


def _hold(folder, ready, leave):
    journal = Journal(folder, 1, 4, KEY)
    ready.set()
    leave.wait()
    journal.close()


def test_living_rank_of_an_earlier_job_is_waited_for(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, leave))
    other.start()
    try:
        assert ready.wait(10)
        with pytest.raises(DatabaseError, match="rank 4 of an earlier job still writes"):
            wait_for_writers(tmp_path, 0.2)
    finally:
        leave.set()
        other.join()
    wait_for_writers(tmp_path, 0.2)


def test_watch_reads_only_what_is_new_and_keeps_the_lock(tmp_path):
    own, other = Journal(tmp_path, 2, 0, KEY), Journal(tmp_path, 2, 1, KEY)
    watch = JournalWatch(tmp_path, 2, KEY, own)
    own.computed(0)
    other.computed(1)
    other.commit(1, DIGEST, 1)
    watch.update()
    assert watch.computed == {0: 1, 1: 1} and watch.quarantined == 1 and watch.committed == {1}
    own.computed(2)
    with open(other.path, "ab") as stream:  # a record that is just being written
        stream.write(pack_record(KEY, 2, 3)[:40])
    watch.update()
    assert watch.computed == {0: 2, 1: 1}
    context = multiprocessing.get_context("fork")
    child = context.Process(target=wait_for_writers, args=(tmp_path, 0.1))
    child.start()
    child.join()
    assert child.exitcode == 1, "reading its own journal has dropped the lock on it"
    own.close()
    other.close()


def test_durable_file_is_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "marker"
    write_durably(path, b"old")
    monkeypatch.setattr("os.replace", _die)
    with pytest.raises(KeyboardInterrupt):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


def _die(*_):
    raise KeyboardInterrupt


def test_no_journals_say_nothing(tmp_path):
    assert read_journals(tmp_path / "absent", KEY) == Journals()
