"""A database apart from its folder, beside a foreign one, or begun by several jobs at once."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.information import inform
from hpctem.database.journal import journal_folder
from hpctem.database.verify import verify
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError
from hpctem.summaries import format_information, format_verification

IDENTITY = {"seed": "7", "code": "1.0"}
OTHER = IDENTITY | {"seed": "8"}
LAYOUT = dataclasses.replace(lay_out(6, 2), campaign={"config_hash": "0123456789abcdef"})
COMPUTE = Compute(bad=(3,))
ROWS = 6 * (1 + IMAGES + 1 + 3)
FORK = multiprocessing.get_context("fork")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill_all(path: Path, compute=COMPUTE, **options):
    return fill(path, LAYOUT, IDENTITY, compute, **options)


def fill_some(path: Path, segments: int, identity=IDENTITY) -> Path:
    """Stop after a number of segments; the folder."""
    asked = iter(range(10**6))
    fill(path, LAYOUT, identity, COMPUTE, stop=lambda: next(asked) >= segments)
    return journal_folder(path)


def refuse(index):
    raise AssertionError(f"structure {index} is there already")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "gold.hdf5"
    assert fill_all(path).complete
    return path


@pytest.fixture
def alone(whole, tmp_path) -> Path:
    """A finished file without its folder."""
    return Path(shutil.copy(whole, tmp_path / "mv.hdf5"))


def assert_shows_everything(path: Path) -> None:
    found, checked = inform(path), verify(path)
    assert (found.counts["good"], found.counts["quarantined"]) == (5, 1)
    assert found.counts["images"] == 5 * IMAGES and found.counts["pending"] == 0
    assert found.complete and not found.marked
    assert checked.rows == ROWS and checked.intact
    assert checked.complete and not checked.marked and checked.outside is None
    for text in (format_information(found, False), format_verification(path, checked)):
        assert "COMPLETE is missing" in text and "unfinished" not in text


def test_a_refused_job_leaves_no_folder(alone):
    with pytest.raises(DatabaseError, match="another plan"):
        fill(alone, LAYOUT, OTHER, COMPUTE)
    assert [p.name for p in alone.parent.iterdir()] == ["mv.hdf5"]
    assert_shows_everything(alone)


@pytest.mark.parametrize("beside", ["nothing", "lock", "other campaign", "other complete campaign"])
def test_a_finished_file_shows_everything_whatever_lies_beside_it(alone, tmp_path, beside):
    """A folder speaks for a file only where it holds a record of that file's plan."""
    folder = journal_folder(alone)
    if beside == "lock":
        folder.mkdir()
        (folder / "lock").touch()
    elif beside != "nothing":
        segments = 1 if beside == "other campaign" else 3
        fill_some(tmp_path / "other.hdf5", segments, OTHER).rename(folder)
    if beside != "other complete campaign":
        assert_shows_everything(alone)
        return
    found = inform(alone)
    assert found.complete and not found.marked and found.counts["good"] == 5
    assert verify(alone).outside is False, "the marker tells of other bytes"


def test_a_finished_file_is_read_back_and_marked_again(whole, alone, caplog):
    summary = fill_all(alone, refuse)
    assert (summary.good, summary.quarantined, summary.complete) == (5, 1, True)
    assert caplog.text.count("its journals are lost") == 1
    assert digest(alone) == digest(whole)
    found = verify(alone)
    assert found.marked and found.outside and found.intact
    assert "complete and verified" in format_information(inform(alone), False)
    # The journals that were made anew are as good as the lost ones.
    (journal_folder(alone) / MARKER).unlink()
    assert fill_all(alone, refuse).complete and verify(alone).marked


@pytest.mark.parametrize("path, row", [("/entry/metadata/dose", 9), ("/entry/digests/images", 9)])
def test_a_damaged_row_of_a_file_alone_is_computed_again(whole, alone, path, row):
    item = next(f for f in LAYOUT.datasets if f.path == path)
    place = read_offsets(alone, LAYOUT)[path] + row * item.row_bytes
    with open(alone, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 4]))
    assert verify(alone).bad == (("images", row),)
    computed = []

    def record(index):
        computed.append(index)
        return COMPUTE(index)

    assert fill_all(alone, record).complete
    assert computed == [2, 3] and digest(alone) == digest(whole)


def test_an_unfinished_file_without_its_journals_is_refused_and_nothing_made(tmp_path):
    path = tmp_path / "gold.hdf5"
    shutil.rmtree(fill_some(path, 2))
    before = digest(path)
    for attempt in (fill_all, verify, inform):
        with pytest.raises(DatabaseError, match="journals are missing"):
            attempt(path)
    assert [p.name for p in tmp_path.iterdir()] == ["gold.hdf5"] and digest(path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_journals_of_another_database_are_refused_and_kept(alone, tmp_path, finished):
    path = alone
    if not finished:
        path = tmp_path / "begun.hdf5"
        shutil.rmtree(fill_some(path, 2))
    folder = fill_some(tmp_path / "other.hdf5", 1, OTHER).rename(journal_folder(path))
    before = contents(folder)
    with pytest.raises(DatabaseError, match=r"are not those of .*hdf5: put its own there"):
        fill_all(path)
    after = contents(folder)
    assert after.keys() == before.keys()
    # The lock says since when it was last taken, to the second.
    assert {k: after[k] for k in after if k != "lock"} == {
        k: before[k] for k in before if k != "lock"
    }


def test_all_committed_but_not_yet_marked_is_said(whole, tmp_path):
    """A death between the last commit and the marker."""
    path = Path(shutil.copy(whole, tmp_path / "gold.hdf5"))
    shutil.copytree(journal_folder(whole), journal_folder(path))
    (journal_folder(path) / MARKER).unlink()
    assert_shows_everything(path)


def test_rows_that_no_journal_confirms_are_not_shown_in_a_file_without_pending_ones(tmp_path):
    """All rows are written, the last commit is not: the journals decide, not the status."""
    path = tmp_path / "gold.hdf5"
    folder = fill_some(path, 3)
    (folder / MARKER).unlink()
    journal = folder / "00000001.00000.journal"
    journal.write_bytes(journal.read_bytes()[:-64])
    found = inform(path)
    assert not found.complete and found.counts["pending"] == 2
    journal.write_bytes(b"")
    assert inform(path).counts["pending"] == 6


def test_a_check_of_nothing_does_not_pass(tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 0)
    command = [sys.executable, "-m", "hpctem", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1, done.stdout
    assert "0 rows checked" in done.stdout and "nothing could be checked" in done.stdout
    fill_some(path, 1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "unfinished" in done.stdout, done.stdout


def _start_together(path: Path, barrier, answers) -> None:
    computed = []

    def record(index):
        computed.append(index)
        return COMPUTE(index)

    barrier.wait()
    try:
        answers.put((fill_all(path, record, patience=30).complete, computed))
    except Exception as error:
        answers.put((repr(error), computed))


@pytest.mark.parametrize("begin", ["new", "alone"])
def test_jobs_that_start_at_once_take_turns(whole, tmp_path, begin):
    for number in range(4):
        path = tmp_path / f"{number}.hdf5"
        if begin == "alone":
            shutil.copy(whole, path)
        barrier, answers = FORK.Barrier(4), FORK.Queue()
        jobs = [FORK.Process(target=_start_together, args=(path, barrier, answers)) for _ in "1234"]
        for job in jobs:
            job.start()
        told = [answers.get(timeout=180) for _ in jobs]
        for job in jobs:
            job.join()
        assert [complete for complete, _ in told] == [True] * 4, told
        computed = sorted(index for _, indices in told for index in indices)
        assert computed == ([] if begin == "alone" else list(range(6)))
        assert digest(path) == digest(whole)
