"""Damage of any kind is found, and repaired to the same bytes, also by a job that dies at it."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from dying import run_and_die
from launching import sha256
from synthetic import IMAGES, Compute, lay_out

from hpctem.database.fill import Summary, fill
from hpctem.database.finish import MARKER, find_bad_rows, read_marker
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.reader import open_database
from hpctem.database.schema import ERROR_PATH, PENDING, STATUS_PATH
from hpctem.database.segment import StructureRows
from hpctem.database.verify import verify
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError

LAYOUT = lay_out(8, 2, size=8)
IDENTITY = {"seed": "7"}
COMPUTE = Compute(size=8, bad=(3,))
PLAN = write_plan(LAYOUT, IDENTITY)


class Recorder:
    """Computes, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, index: int) -> StructureRows:
        self.asked.append(index)
        return COMPUTE(index)


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested here is no power cut."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def whole(memory: Path) -> Path:
    path = memory / "whole.hdf5"
    assert fill(path, LAYOUT, IDENTITY, COMPUTE).complete
    return path


@pytest.fixture
def copy(whole: Path, memory: Path) -> Iterator[Path]:
    path = Path(shutil.copy(whole, memory / "gold.hdf5"))
    shutil.copytree(journal_folder(whole), journal_folder(path))
    yield path
    path.unlink()
    shutil.rmtree(journal_folder(path), ignore_errors=True)


def flip(path: Path, place: int, mask: int = 4) -> None:
    """Change bits of one byte; the same again puts it right."""
    with open(path, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ mask]))


def place_of(path: Path, dataset: str, row: int) -> int:
    item = next(f for f in LAYOUT.datasets if f.path == dataset)
    return read_offsets(path, LAYOUT)[dataset] + row * item.row_bytes


def outside_of(path: Path) -> np.ndarray:
    """Places of all bytes that belong to no row."""
    inside = np.zeros(path.stat().st_size, bool)
    for offset, size in read_marker(journal_folder(path))["rows"]:
        inside[offset : offset + size] = True
    return np.flatnonzero(~inside)


def test_each_of_1000_flipped_bits_is_found(copy: Path) -> None:
    """Half of them in rows, each of which is named, half outside; then all is as it was."""
    chance = random.Random(7)
    offsets = read_offsets(copy, LAYOUT)
    outside = outside_of(copy).tolist()
    sizes = [LAYOUT.rows(item.table) * item.row_bytes for item in LAYOUT.datasets]
    for number in range(1000):
        mask = 1 << chance.randrange(8)
        if number % 2:
            [item] = chance.choices(LAYOUT.datasets, sizes)
            byte = chance.randrange(LAYOUT.rows(item.table) * item.row_bytes)
            flip(copy, offsets[item.path] + byte, mask)
            found = verify(copy)
            assert found.bad == ((item.table, byte // item.row_bytes),) and found.outside
        else:
            byte = place = chance.choice(outside)
            flip(copy, place, mask)
            found = verify(copy)
            assert found.outside is False and not found.bad and found.rows
        assert found.damaged and not found.intact
        flip(copy, byte + (offsets[item.path] if number % 2 else 0), mask)
    assert verify(copy).intact


def test_bits_of_the_first_kilobyte_are_found_before_hdf5_opens_the_file(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 may crash on a damaged superblock, so neither checking nor resuming let it look."""
    flip(copy, place_of(copy, "/entry/images/intensity", 5))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("HDF5 opens a file that is known to be damaged")

    monkeypatch.setattr(h5py, "File", refuse)
    monkeypatch.setattr(h5py.h5f, "open", refuse)
    for place in [p for p in outside_of(copy).tolist() if p < 1024]:
        flip(copy, place)
        found = verify(copy)
        assert found.outside is False and found.bad == (("images", 5),)
        with pytest.raises(DatabaseError, match="is damaged outside its rows"):
            fill(copy, LAYOUT, IDENTITY, COMPUTE)
        flip(copy, place)


def test_flipped_bits_of_rows_are_found_without_a_marker(copy: Path) -> None:
    chance = random.Random(8)
    shutil.rmtree(journal_folder(copy))
    offsets = read_offsets(copy, LAYOUT)
    for _ in range(100):
        item = chance.choice([f for f in LAYOUT.datasets if f.path != STATUS_PATH])
        row = chance.randrange(LAYOUT.rows(item.table))
        place = offsets[item.path] + row * item.row_bytes + chance.randrange(item.row_bytes)
        flip(copy, place)
        assert verify(copy).bad == ((item.table, row),)
        flip(copy, place)


def repair(path: Path, compute: object = COMPUTE, identity: dict = IDENTITY) -> Summary:
    return fill(path, LAYOUT, identity, compute, repair=True)


def flip_row(path: Path) -> None:
    flip(path, place_of(path, "/entry/images/intensity", IMAGES * 5 + 2) + 9)


def flip_digest(path: Path) -> None:
    flip(path, place_of(path, "/entry/digests/images", IMAGES * 4))


def flip_status(path: Path) -> None:
    flip(path, place_of(path, STATUS_PATH, 5), 1)


def flip_outside(path: Path) -> None:
    for place in outside_of(path)[::97].tolist():
        flip(path, place)


def cut(path: Path) -> None:
    """The last column loses the rows of structures 5 to 7, and what lies behind it all."""
    items = [item for item in LAYOUT.datasets if item.path != ERROR_PATH]
    last = max(items, key=lambda item: place_of(path, item.path, 0))
    os.truncate(path, place_of(path, last.path, 5 * LAYOUT.rows_per_structure[last.table]) + 1)


def zero_block(path: Path) -> None:
    """A lost page: the end of one dataset and what lies behind it."""
    place = place_of(path, "/entry/waves/exit_wave", 7)
    with open(path, "r+b") as stream:
        stream.seek(place)
        stream.write(bytes(1000))


def spoil_marker(path: Path) -> None:
    (journal_folder(path) / MARKER).write_text("{")


def lie_in_marker(path: Path) -> None:
    marker = journal_folder(path) / MARKER
    marker.write_text(marker.read_text().replace('"outside": "', '"outside": "f'))


def spoil_journals(path: Path) -> None:
    """The first record of every journal: none says anything any more."""
    for journal in journal_folder(path).glob("*.journal"):
        if journal.stat().st_size:
            flip(journal, 20)


def lose_folder(path: Path) -> None:
    shutil.rmtree(journal_folder(path))


def lose_journals(path: Path) -> None:
    for journal in journal_folder(path).glob("*.journal"):
        journal.unlink()


def lengthen(path: Path) -> None:
    with open(path, "ab") as stream:
        stream.write(b"more")


DAMAGES = {
    "nothing": ([], set()),
    "row": ([flip_row], {4, 5}),
    "digest": ([flip_digest], {4, 5}),
    "status": ([flip_status], {4, 5}),
    "outside": ([flip_outside], set()),
    "row and outside": ([flip_row, flip_outside], {4, 5}),
    "cut off": ([cut], {4, 5, 6, 7}),
    "longer": ([lengthen], set()),
    "page of zeros": ([zero_block], {6, 7}),
    "journal": ([spoil_journals], set()),
    "row and journal": ([flip_row, spoil_journals], {4, 5}),
    "marker": ([spoil_marker], set()),
    "marker and row": ([flip_row, spoil_marker], {4, 5}),
    "lying marker": ([lie_in_marker], set()),
    "row without folder": ([flip_row, lose_folder], {4, 5}),
    "status without folder": ([flip_status, lose_folder], {4, 5}),
    "status without journals": ([flip_status, lose_journals], {4, 5}),
    "outside without journals": ([flip_row, flip_outside, lose_journals], {4, 5}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_repair_gives_the_same_bytes_and_computes_only_what_is_bad(
    name: str, copy: Path, whole: Path
) -> None:
    damages, expected = DAMAGES[name]
    for damage in damages:
        damage(copy)
    compute = Recorder()
    summary = repair(copy, compute)
    assert summary == Summary(7, 1, 0, True)
    assert sha256(copy) == sha256(whole) and verify(copy).intact
    # The reason why structure 3 is quarantined may lie behind all else, or not.
    assert set(compute.asked) - ({2, 3} if name == "cut off" else set()) == expected
    assert read_marker(journal_folder(copy)) == read_marker(journal_folder(whole))
    assert not list(journal_folder(copy).glob("*.tmp"))


def test_flipped_bits_beside_the_database_cost_nothing(copy: Path, whole: Path) -> None:
    """In the marker and the journals: what reads it refuses or is right, and a repair computes
    nothing, since every row is as it was."""
    chance = random.Random(9)
    folder = journal_folder(copy)
    files = [folder / MARKER, *sorted(folder.glob("*.journal"))]
    assert len(files) > 2
    for number in range(120):
        beside = files[number % len(files)]
        flip(beside, chance.randrange(beside.stat().st_size), 1 << chance.randrange(8))
        for ask in (lambda: fill(copy, LAYOUT, IDENTITY, refuse), lambda: verify(copy)):
            try:
                found = ask()
            except DatabaseError:
                continue
            if isinstance(found, Summary):
                assert found == Summary(7, 1, 0, True)
            else:
                assert not found.bad
        assert repair(copy, refuse) == Summary(7, 1, 0, True)
        assert sha256(copy) == sha256(whole)
        assert read_marker(folder) == read_marker(journal_folder(whole))
        told = read_journals(folder, plan_key(PLAN))
        assert len(told.commits) == LAYOUT.segments and not told.damaged
        shutil.rmtree(folder)
        shutil.copytree(journal_folder(whole), folder)


def refuse(index: int) -> StructureRows:
    raise AssertionError(f"structure {index} is computed again")


def test_a_finished_database_says_the_same_without_journals(copy: Path) -> None:
    lose_journals(copy)
    assert fill(copy, LAYOUT, IDENTITY, refuse) == Summary(7, 1, 0, True)


@pytest.mark.parametrize("lost", [True, False])
def test_repair_never_writes_into_the_file_of_another_campaign(
    lost: bool, copy: Path, memory: Path
) -> None:
    """One that was copied over the database whose folder is still there."""
    other = lay_out(6, 1, size=6)
    fill(memory / "another.hdf5", other, {"seed": "9"}, Compute(size=6))
    shutil.copy(memory / "another.hdf5", copy)
    if lost:
        lose_journals(copy)
    else:
        (journal_folder(copy) / MARKER).unlink()
    before = sha256(copy)
    with pytest.raises(DatabaseError, match="is not the file that the folder"):
        repair(copy)
    assert sha256(copy) == before and not list(journal_folder(copy).glob("*.tmp"))


@pytest.mark.parametrize("lost", [True, False])
def test_repair_completes_an_unfinished_database(copy: Path, whole: Path, lost: bool) -> None:
    """Also one whose journals are lost: rows that agree with their digests are whole."""
    copy.unlink()
    shutil.rmtree(journal_folder(copy))
    asked = iter(range(10))
    fill(copy, LAYOUT, IDENTITY, COMPUTE, stop=lambda: next(asked) >= 3)
    flip(copy, place_of(copy, "/entry/structures/radius", 1))
    flip(copy, copy.read_bytes().find(b"angstrom"))
    compute = Recorder()
    if lost:
        lose_folder(copy)
        with pytest.raises(DatabaseError, match="journals are missing"):
            fill(copy, LAYOUT, IDENTITY, compute)
    assert repair(copy, compute).complete
    assert set(compute.asked) == {0, 1, 6, 7}
    assert sha256(copy) == sha256(whole) and verify(copy).intact


@pytest.mark.parametrize("damages", [[], [flip_row], [flip_outside], [flip_row, lose_folder]])
def test_repair_with_another_plan_is_refused_with_the_difference(damages: list, copy: Path) -> None:
    for damage in damages:
        damage(copy)
    before = sha256(copy)
    with pytest.raises(
        DatabaseError, match=r"cannot be repaired with this one:\n  seed: 7 then, 8"
    ):
        repair(copy, identity={"seed": "8"})
    assert sha256(copy) == before
    if lose_folder not in damages:
        assert verify(copy).marked


def test_repair_needs_a_database_and_its_own_journals(copy: Path, memory: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database"):
        repair(memory / "none.hdf5")
    assert not journal_folder(memory / "none.hdf5").exists()
    lose_folder(copy)
    fill(memory / "other.hdf5", LAYOUT, {"seed": "9"}, COMPUTE)
    shutil.copytree(journal_folder(memory / "other.hdf5"), journal_folder(copy))
    before = sha256(copy)
    with pytest.raises(DatabaseError, match=r"COMPLETE is of another plan: [\s\S]*seed: 9 then"):
        repair(copy)
    (journal_folder(copy) / MARKER).unlink()
    with pytest.raises(DatabaseError, match="are not those of"):
        repair(copy)
    assert sha256(copy) == before


def repair_and_die(path: Path, at: int) -> bool:
    """Repair in a process that dies before its call number `at`; True if it did."""
    return run_and_die(lambda: repair(path), at)


def test_death_before_every_system_call_of_a_repair(copy: Path, whole: Path, memory: Path) -> None:
    """Whatever is left says of itself what is wrong with it, and the same command mends it."""
    flip_row(copy)
    flip_outside(copy)
    expected, unfinished, at = sha256(whole), 0, 0
    while True:
        at += 1
        path = Path(shutil.copy(copy, memory / "dying.hdf5"))
        shutil.copytree(journal_folder(copy), journal_folder(path))
        died = repair_and_die(path, at)
        found = verify(path)
        assert found.intact == (not found.damaged)
        if found.intact and found.complete:
            assert sha256(path) == expected
        elif not found.damaged:  # what is bad is known as not committed
            unfinished += 1
            with open_database(path) as database:
                assert (database.status[4:6] == PENDING).all()
                assert database.committed.sum() == 6
            fill(path, LAYOUT, IDENTITY, COMPUTE)
        repair_and_die(path, 7)
        repair(path)
        assert sha256(path) == expected and verify(path).intact
        path.unlink()
        shutil.rmtree(journal_folder(path))
        if not died:
            break
    assert at > 30 and unfinished > 3


def test_what_is_bad_is_found_by_the_journal_too(copy: Path) -> None:
    """A segment in whose place another was written agrees with itself, not with its commit."""
    commits = read_journals(journal_folder(copy), plan_key(PLAN)).commits
    commits[0], commits[1] = commits[1], commits[0]
    offsets = read_offsets(copy, LAYOUT)
    bad = find_bad_rows(copy, LAYOUT, offsets, range(LAYOUT.segments), commits)
    assert bad == {
        0: [("structures", 0), ("structures", 1)],
        1: [("structures", 2), ("structures", 3)],
    }
