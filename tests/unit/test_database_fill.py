"""Filling, reading, checking and resuming in one process."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.information import inform
from hpctem.database.journal import (
    COMMIT,
    RECORD_BYTES,
    journal_folder,
    read_journals,
    unpack_records,
)
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.reader import open_database
from hpctem.database.schema import GOOD, QUARANTINED
from hpctem.database.segment import StructureRows, convert_rows
from hpctem.database.verify import verify
from hpctem.database.writer import read_offsets
from hpctem.errors import DatabaseError, MachineError

IDENTITY = {"seed": "7"}
LAYOUT = lay_out(12, 2)
COMPUTE = Compute(bad=(3,), nan=(7,))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill_all(path: Path, compute=COMPUTE, **options):
    return fill(path, LAYOUT, IDENTITY, compute, **options)


def fill_some(path: Path, segments: int):
    """Stop after a number of segments."""
    asked = iter(range(10**6))
    return fill_all(path, stop=lambda: next(asked) >= segments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "gold.hdf5"
    summary = fill_all(path)
    assert (summary.good, summary.quarantined, summary.remaining, summary.complete) == (
        10,
        2,
        0,
        True,
    )
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(journal_folder(whole), tmp_path / "gold.hdf5.journal")
    return Path(shutil.copy(whole, tmp_path / "gold.hdf5"))


def damage(path: Path, place: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 4]))


def test_rows_are_what_was_computed(whole):
    compute = Compute()
    with open_database(whole) as database:
        assert database.complete
        good = [i for i in range(12) if i not in (3, 7)]
        images = np.concatenate([compute(i).rows["/entry/images/intensity"] for i in good])
        np.testing.assert_array_equal(database.images[:], images)
        np.testing.assert_array_equal(database.images[5], images[5])
        radii = [compute(i).rows["/entry/structures/radius"] for i in good]
        np.testing.assert_array_equal(database.column("radius"), radii)
        np.testing.assert_array_equal(database.column("radius", "images"), np.repeat(radii, IMAGES))
        positions = [compute(i).rows["/entry/particles/position"] for i in good]
        np.testing.assert_array_equal(database.column("position"), np.concatenate(positions))
        assert database.column("lattice").tolist() == [("fcc", "bcc", "hcp")[i % 3] for i in good]
        assert set(database.column("formula")) == {"Ångstr"}
        waves = database.column("exit_wave")
        np.testing.assert_allclose(waves[3], compute(4).rows["/entry/waves/exit_wave"], rtol=1e-6)
        row = database.row("images", 17)
        assert (row["structure"], row["row"], row["lattice"]) == (4, 17, "bcc")


def test_quarantined_structures_are_zero_and_say_why(whole):
    with open_database(whole) as database:
        assert database.quarantined == [
            (3, "CIF of structure 3 cannot be read: Å"),
            (7, "value that is not finite in /entry/structures/radius"),
        ]
        assert database.status.tolist() == [QUARANTINED if i in (3, 7) else GOOD for i in range(12)]
        for item in database.layout.fields[:-2]:
            each = database.layout.rows_per_structure[item.table]
            for structure in (3, 7):
                assert not np.any(
                    database.file[item.path][structure * each : (structure + 1) * each]
                )


def test_information(whole):
    found = inform(whole)
    assert found.complete
    assert found.counts["structures"] == 12 and found.counts["images"] == 10 * IMAGES
    assert found.counts["pending"] == 0 and found.size == whole.stat().st_size
    assert found.images == ((24, 24), "uint16")
    columns = {column.name: column for column in found.columns}
    assert columns["radius"].units == "angstrom"
    assert 20 < columns["radius"].smallest < columns["radius"].largest < 60
    assert sum(columns["lattice"].values.values()) == 10
    assert found.campaign["config"] == "seed: 7\n" and found.identity == IDENTITY
    assert found.quarantined[0][0] == 3


def test_volume_computes_its_own_structures(tmp_path):
    layout = lay_out(4, 2, first=5)
    fill(tmp_path / "v.hdf5", layout, IDENTITY, Compute(bad=(6,)))
    with open_database(tmp_path / "v.hdf5") as database:
        assert database.quarantined[0][0] == 6
        np.testing.assert_array_equal(
            database.images[:IMAGES], Compute()(5).rows["/entry/images/intensity"]
        )
        assert database.row("structures", 2)["structure"] == 7
        assert database.file["/entry/images/image"][0] == 5 * IMAGES


def test_complete_database_is_left_alone(copy):
    before = copy.stat().st_mtime_ns

    def refuse(index):
        raise AssertionError("nothing is left to compute")

    assert fill_all(copy, refuse).complete
    assert copy.stat().st_mtime_ns == before


@pytest.mark.parametrize("segments", [0, 1, 3, 5])
def test_unfinished_database_shows_committed_rows_only(whole, tmp_path, segments):
    path = tmp_path / "gold.hdf5"
    summary = fill_some(path, segments)
    assert summary.remaining == 12 - 2 * segments and not summary.complete
    # Rows that were written but not committed, as a death between the two leaves them.
    with open(path, "r+b") as stream:
        place = read_offsets(path, LAYOUT)["/entry/structures/status"]
        stream.seek(place + 2 * segments)
        stream.write(b"\1\1")
    with open_database(path) as database:
        assert not database.complete
        assert database.committed.sum() == 2 * segments
        assert database.counts["pending"] == 12 - 2 * segments
        assert len(database.images) == IMAGES * database.counts["good"]
    found = verify(path)
    assert not found.damaged and not found.complete
    assert found.rows == 9 * 2 * segments and found.intact == (segments > 0)
    assert fill_all(path).complete
    assert digest(path) == digest(whole)


def test_another_plan_is_refused_with_the_difference(copy):
    with pytest.raises(DatabaseError, match=r"begun with another plan[\s\S]*seed: 7 then, 8 now"):
        fill(copy, LAYOUT, {"seed": "8"}, COMPUTE)
    with pytest.raises(DatabaseError, match=r"layout.structures: 12 then, 14 now"):
        fill(copy, lay_out(14, 2), IDENTITY, COMPUTE)


def test_missing_journals_are_noticed(tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 3)
    shutil.rmtree(journal_folder(path))
    with pytest.raises(DatabaseError, match=r"journals are missing from gold\.hdf5\.journal"):
        with open_database(path):
            pass
    with pytest.raises(DatabaseError, match="its journals are missing"):
        fill_all(path)


def test_deleted_database_begins_anew(whole, tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_all(path)
    path.unlink()
    assert fill_all(path).complete
    assert digest(path) == digest(whole)


def test_journals_of_a_deleted_database_do_not_speak_for_a_new_one(tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 3)
    path.unlink()
    fill_some(path, 1)
    with open_database(path) as database:
        assert database.committed.sum() == 2 and len(database.images) == 2 * IMAGES


def test_finished_file_alone_is_readable_and_checked(whole, tmp_path):
    path = Path(shutil.copy(whole, tmp_path / "alone.hdf5"))
    with open_database(path) as database:
        assert database.counts["good"] == 10
    assert verify(path).intact and verify(path).outside is None
    damage(path, read_offsets(path, LAYOUT)["/entry/metadata/dose"] + 4 * 9)
    assert verify(path).bad == (("images", 9),)


def test_verification_finds_a_damaged_row(copy):
    assert verify(copy).intact and verify(copy).rows == 12 * (1 + IMAGES + 1 + 3)
    place = read_offsets(copy, LAYOUT)["/entry/images/intensity"] + (17 * 24 + 3) * 24 * 2
    damage(copy, place)
    found = verify(copy)
    assert found.bad == (("images", 17),) and found.outside and not found.intact


def test_verification_finds_rows_exchanged_with_their_digests(copy):
    """Rows swapped together with their digests agree in themselves; the journal knows better."""
    offsets = read_offsets(copy, LAYOUT)
    with open(copy, "r+b") as stream:
        for item in LAYOUT.datasets:
            if item.table == "images":
                stream.seek(offsets[item.path])
                first, second = stream.read(item.row_bytes), stream.read(item.row_bytes)
                stream.seek(offsets[item.path])
                stream.write(second + first)
    assert verify(copy).bad == (("structures", 0), ("structures", 1))


@pytest.mark.parametrize("where", ["units", "config", "superblock"])
def test_verification_finds_damage_outside_the_rows(copy, where):
    raw = copy.read_bytes()
    place = {"units": raw.find(b"angstrom"), "config": raw.find(b"seed: 7"), "superblock": 40}[
        where
    ]
    damage(copy, place + 1)
    found = verify(copy)
    assert found.outside is False and not found.intact
    assert not found.bad and found.rows == 12 * (1 + IMAGES + 1 + 3)


def test_damage_before_the_end_is_computed_again(whole, tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 3)
    damage(path, read_offsets(path, LAYOUT)["/entry/images/intensity"] + 100)
    computed = []

    def record(index):
        computed.append(index)
        return COMPUTE(index)

    assert fill_all(path, record).complete
    assert sorted(computed) == [0, 1, 6, 7, 8, 9, 10, 11]
    assert digest(path) == digest(whole)


@pytest.mark.parametrize("how", ["torn", "flipped", "empty", "foreign"])
def test_damaged_journal_costs_work_but_no_bytes(whole, tmp_path, how, caplog):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 4)
    journal = journal_folder(path) / "00000001.00000.journal"
    raw = bytearray(journal.read_bytes())
    assert len(raw) == 4 * 5 * RECORD_BYTES
    if how == "torn":
        raw = raw[:-7]
    elif how == "flipped":
        raw[len(raw) // 2 + 30] ^= 1
    elif how == "empty":
        raw = raw[:0]
    else:
        other = tmp_path / "other.hdf5"
        asked = iter(range(100))
        fill(other, LAYOUT, {"seed": "8"}, COMPUTE, stop=lambda: next(asked) >= 4)
        raw = (journal_folder(other) / journal.name).read_bytes()
    journal.write_bytes(raw)
    key = plan_key(write_plan(LAYOUT, IDENTITY))
    kinds = [kind for kind, *_ in unpack_records(key, bytes(raw))[0]]
    expected = kinds.count(COMMIT)
    assert expected in {"torn": (3,), "flipped": (1, 2), "empty": (0,), "foreign": (0,)}[how]
    assert len(read_journals(journal_folder(path), key).commits) == expected
    with open_database(path) as database:
        assert database.committed.sum() == 2 * expected
    assert fill_all(path).complete
    assert ("torn record" in caplog.text) == (how != "empty")
    assert digest(path) == digest(whole)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot open the database"),
        (b"", "is empty"),
        (b"II*\0 a picture", "is no HDF5 file"),
        ("truncated", "is truncated"),
        ("foreign", "hpctem did not write it"),
    ],
)
def test_files_that_are_no_database(whole, tmp_path, content, message):
    import h5py

    path = tmp_path / "gold.hdf5"
    if content == "truncated":
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif content == "foreign":
        with h5py.File(path, "w") as file:
            file["x"] = 1
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DatabaseError, match=message):
        with open_database(path):
            pass
    with pytest.raises(DatabaseError, match=message):
        verify(path)
    if content is not None:
        before = path.read_bytes()
        with pytest.raises(DatabaseError, match=message):
            fill_all(path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [path.name], "the refusal left something"


def test_error_of_the_machine_is_raised_and_never_quarantined(whole, tmp_path):
    path = tmp_path / "gold.hdf5"
    for _ in range(4):
        with pytest.raises(MachineError, match="the GPU is lost"):
            fill_all(path, Compute(bad=(3,), nan=(7,), failing=(5,)))
    with open_database(path) as database:
        assert database.committed.sum() == 4 and [i for i, _ in database.quarantined] == [3]
    assert fill_all(path).complete
    assert digest(path) == digest(whole)


def test_progress_can_end_a_job_with_too_many_bad_samples(tmp_path):
    seen = []

    def judge(progress):
        seen.append(progress)
        if progress.quarantined > 3:
            raise DatabaseError(f"{progress.quarantined} structures are bad")

    layout = lay_out(60, 1)
    with pytest.raises(DatabaseError, match="structures are bad"):
        fill(
            tmp_path / "gold.hdf5",
            layout,
            IDENTITY,
            Compute(slow=0.1, bad=tuple(range(60))),
            progress=judge,
            interval=0.05,
        )
    assert seen[-1].done < 60 and not (journal_folder(tmp_path / "gold.hdf5") / MARKER).exists()


def test_progress_counts_what_earlier_jobs_did(tmp_path):
    path = tmp_path / "gold.hdf5"
    fill_some(path, 2)
    seen = []
    fill_all(path, progress=seen.append)
    assert seen[-1].last and seen[-1].done == seen[-1].total == 12
    assert (seen[-1].before, seen[-1].computed, seen[-1].shares) == (4, (8,), (8,))
    assert seen[-1].quarantined == 2


@pytest.mark.parametrize(
    "path, values, message",
    [
        ("/entry/metadata/dose", np.zeros(5), "takes 4 rows a structure: .*5 rows, capacity 4"),
        ("/entry/images/intensity", np.zeros((4, 24, 23), "u2"), "takes rows of shape"),
        ("/entry/particles/position", np.zeros((9, 2)), "takes rows of shape"),
        ("/entry/images/intensity", np.full((4, 24, 24), 70000), "holds 0 ... 65535, not 70000"),
        ("/entry/images/intensity", np.zeros((4, 24, 24)), "cannot hold float64"),
        ("/entry/structures/lattice", "diamond", "has the categories fcc, bcc, hcp, not 'diamond'"),
        ("/entry/structures/lattice", 3, "has 3 categories"),
        ("/entry/nothing", 1, "is no field of the layout"),
    ],
)
def test_rows_that_do_not_fit_end_the_job(tmp_path, path, values, message):
    with pytest.raises(DatabaseError, match=message):
        fill_all(tmp_path / "gold.hdf5", lambda index: StructureRows({path: values}))


def test_a_structure_with_more_rows_than_its_table_is_quarantined(whole, tmp_path):
    def overflow(index):
        result = COMPUTE(index)
        if index == 5:
            positions = np.zeros((5, 3))
            return StructureRows({**result.rows, "/entry/particles/position": positions})
        return result

    path = tmp_path / "gold.hdf5"
    summary = fill_all(path, overflow)
    assert (summary.good, summary.quarantined, summary.complete) == (9, 3, True)
    with open_database(path) as database, open_database(whole) as other:
        assert dict(database.quarantined)[5] == "overflow of table 'particles': 5 rows, capacity 3"
        for item in LAYOUT.fields[:-2]:
            each = LAYOUT.rows_per_structure[item.table]
            values = database.file[item.path][()]
            assert not np.any(values[5 * each : 6 * each]), item.path
            np.testing.assert_array_equal(
                np.delete(values, np.s_[5 * each : 6 * each], 0),
                np.delete(other.file[item.path][()], np.s_[5 * each : 6 * each], 0),
            )
    assert verify(path).intact


def test_rows_are_converted_only_without_loss():
    fields = {item.name: item for item in LAYOUT.fields}
    assert convert_rows(fields["radius"], 3).tolist() == [3.0]
    assert convert_rows(fields["dose"], [1.5, 2.5]).dtype == np.float32
    assert convert_rows(fields["lattice"], "hcp").tolist() == [2]
    assert convert_rows(fields["formula"], "Ångström").tolist() == ["Ångstr".encode()]
