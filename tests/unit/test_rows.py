"""Rows are read as they were stored: by any index, thread and process, and none that must not."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.database import rows as rows_module
from hpctem.database.fill import fill
from hpctem.database.reader import Database, open_database
from hpctem.database.rows import OpenFile, StoredRows
from hpctem.errors import DatabaseError

STRUCTURES = 12
BAD = 3
STORED = np.random.default_rng(1).integers(0, 2**16, (50, 6, 5)).astype(np.uint16)
OFFSET = 37


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STORED somewhere inside a file."""
    path = tmp_path_factory.mktemp("raw") / "raw"
    path.write_bytes(bytes(OFFSET) + STORED.tobytes())
    return path


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished database, structure 3 of 12 quarantined."""
    path = tmp_path_factory.mktemp("filled") / "gold.hdf5"
    assert fill(path, lay_out(STRUCTURES, 2), {"seed": "7"}, Compute(bad=(BAD,))).complete
    return path


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Two segments of two structures are committed."""
    path, asked = tmp_path / "gold.hdf5", iter(range(99))
    fill(path, lay_out(STRUCTURES, 2), {"seed": "7"}, Compute(), stop=lambda: next(asked) >= 2)
    return path


def stored(raw: Path, rows: np.ndarray) -> StoredRows:
    return StoredRows(raw, OFFSET, STORED.dtype, STORED.shape[1:], rows)


def indices(length: int) -> st.SearchStrategy:
    numbers = st.integers(-length, length - 1)
    return st.one_of(
        numbers,
        st.slices(length),
        st.lists(numbers, max_size=12),
        st.lists(st.booleans(), min_size=length, max_size=length).map(lambda m: np.array(m, bool)),
    )


@given(st.data())
def test_every_index_gives_what_numpy_gives(raw: Path, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, 49), min_size=1, max_size=30)))
    index = data.draw(indices(len(rows)))
    numbers = np.array(index, int) if isinstance(index, list) else index
    found, expected = stored(raw, rows)[index], STORED[rows][numbers]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    chosen = stored(raw, rows).select(index)
    np.testing.assert_array_equal(chosen[:], expected.reshape(chosen.shape))


def test_it_is_a_sequence(raw: Path) -> None:
    rows = stored(raw, np.arange(7, 12))
    assert len(rows) == 5 and rows.shape == (5, 6, 5) and rows.dtype == np.uint16
    np.testing.assert_array_equal(np.stack(list(rows)), STORED[7:12])
    np.testing.assert_array_equal(np.asarray(rows), STORED[7:12])
    assert np.asarray(rows, np.float32).dtype == np.float32
    scalars = StoredRows(raw, OFFSET, np.dtype("u2"), (), np.array([4, 2]))
    assert scalars[1] == STORED.reshape(-1)[2] and scalars[:].tolist() == [
        STORED.reshape(-1)[4],
        STORED.reshape(-1)[2],
    ]


@pytest.mark.parametrize("index", [5, -6, [0, 5], np.zeros(4, bool)])
def test_rows_beyond_the_end_are_an_index_error(raw: Path, index: object) -> None:
    with pytest.raises(IndexError):
        stored(raw, np.arange(5))[index]


@pytest.mark.parametrize("index", ["a", 1.5, [0.5], True, (1, 2, 3, "x"), [[0, 1]], None])
def test_what_chooses_no_rows_is_refused(raw: Path, index: object) -> None:
    with pytest.raises(IndexError, match="rows are chosen by number, slice, numbers or a mask"):
        stored(raw, np.arange(5))[index]


def test_neighbours_are_read_in_one_call(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, read = [], os.preadv

    def count(*arguments):
        calls.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", count)
    rows = stored(raw, np.arange(50))
    assert len(rows[10:30]) == 20 and len(calls) == 1
    rows[[3, 4, 5, 20, 8, 9]]
    assert len(calls) == 1 + 3


def test_reads_cut_short_are_completed(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.preadv
    monkeypatch.setattr(
        os,
        "preadv",
        lambda fd, parts, place: read(fd, [parts[0].view("u1").reshape(-1)[:7]], place),
    )
    np.testing.assert_array_equal(stored(raw, np.arange(50))[4:9], STORED[4:9])
    monkeypatch.undo()
    monkeypatch.setattr(rows_module, "CALL_BYTES", 100)
    np.testing.assert_array_equal(stored(raw, np.arange(50))[4:9], STORED[4:9])


def test_a_file_that_ends_too_early_is_named(raw: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(raw.read_bytes()[:-3])
    rows = StoredRows(cut, OFFSET, STORED.dtype, STORED.shape[1:], np.arange(50))
    np.testing.assert_array_equal(rows[48], STORED[48])
    with pytest.raises(DatabaseError, match=r"cut ends before byte \d+: truncated"):
        rows[49]
    with pytest.raises(DatabaseError, match="cannot open"):
        StoredRows(tmp_path / "none", 0, STORED.dtype, (), np.arange(1))


def test_bytes_are_mapped_from_any_place(tmp_path: Path) -> None:
    content = np.random.default_rng(3).bytes(10_000)
    (tmp_path / "bytes").write_bytes(content)
    file = OpenFile(tmp_path / "bytes")
    for place in (0, 1, 4095, 4097, len(content) - 6):
        values = file.map(np.dtype("u2"), (3, 1), place)
        assert values.tobytes() == content[place : place + 6] and values.shape == (3, 1)
        assert not values.flags.writeable
    assert file.map(np.dtype("u2"), (0, 4), len(content)).shape == (0, 4)
    with pytest.raises(DatabaseError, match=r"ends before byte \d+: truncated"):
        file.map(np.dtype("u2"), (4,), len(content) - 6)


def check_random_reads(rows: StoredRows, expected: np.ndarray, seed: int) -> int:
    random = np.random.default_rng(seed)
    for _ in range(200):
        wanted = random.integers(0, len(rows), random.integers(1, 9))
        if not np.array_equal(rows[wanted], expected[wanted]):
            return 1
    return 0


def test_threads_read_at_the_same_time(filled: Path) -> None:
    with open_database(filled) as database, ThreadPoolExecutor(8) as pool:
        images, expected = database.images, database.images[:]
        assert not any(pool.map(lambda seed: check_random_reads(images, expected, seed), range(16)))


def test_forked_processes_read_at_the_same_time_as_their_parent(filled: Path) -> None:
    context = multiprocessing.get_context("fork")
    with open_database(filled) as database:
        images, expected = database.images, database.images[:]
        dose = database.column("dose")

        def work(seed: int) -> None:
            wrong = check_random_reads(images, expected, seed)
            os._exit(wrong or not np.array_equal(database.column("dose"), dose))

        children = [context.Process(target=work, args=(seed,)) for seed in range(4)]
        for child in children:
            child.start()
        assert check_random_reads(images, expected, 99) == 0
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 4


def test_what_was_opened_stays_readable_after_close_and_pickled(filled: Path) -> None:
    with open_database(filled) as database:
        images, expected = database.images, database.images[:]
        assert database.file["/entry/metadata/dose"].shape == (STRUCTURES * IMAGES,)
    np.testing.assert_array_equal(images[:], expected)
    assert len(database.column("dose")) == len(expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[3:5], expected[3:5])
    again = pickle.loads(pickle.dumps(database))
    assert isinstance(again, Database) and again.counts == database.counts
    np.testing.assert_array_equal(again.images[7], expected[7])


def test_close_ends_the_hdf5_file(filled: Path) -> None:
    database = open_database(filled)
    file = database.file
    database.close()
    assert not file


def test_images_labels_and_waves_are_those_of_good_structures(filled: Path) -> None:
    good = [i for i in range(STRUCTURES) if i != BAD]
    with open_database(filled) as database:
        for rows, path in (
            (database.images, "/entry/images/intensity"),
            (database.labels, "/entry/labels/particle"),
        ):
            expected = np.concatenate([Compute()(i).rows[path] for i in good])
            np.testing.assert_array_equal(rows[:], expected)
        waves = [Compute()(i).rows["/entry/waves/exit_wave"] for i in good]
        np.testing.assert_allclose(database.waves[:], waves, rtol=1e-6)
        assert database.images.rows.tolist() == [4 * i + k for i in good for k in range(IMAGES)]


def test_rows_keep_their_numbers_while_a_database_fills(unfinished: Path) -> None:
    with open_database(unfinished) as database:
        known = sorted(set(database.rows("images").tolist()))
        before = {row: database.row("images", row) for row in known}
        first = {row: database.stored("intensity", np.array([row]))[0] for row in known}
    assert len(known) == 4 * IMAGES
    fill(unfinished, lay_out(STRUCTURES, 2), {"seed": "7"}, Compute())
    with open_database(unfinished) as database:
        for row in known:
            assert database.row("images", row) == before[row]
            np.testing.assert_array_equal(
                database.stored("intensity", np.array([row]))[0], first[row]
            )


def test_a_row_that_is_not_good_is_refused_with_its_reason(filled: Path, unfinished: Path) -> None:
    row = np.array([BAD * IMAGES + 1])
    with open_database(filled) as database:
        why = r"row 13 of images belongs to structure 3, which is quarantined: CIF of structure 3"
        for read in (
            lambda: database.row("images", 13),
            lambda: database.column("dose", rows=row),
            lambda: database.column("radius", "images", row),
            lambda: database.stored("intensity", row),
        ):
            with pytest.raises(DatabaseError, match=why):
                read()
        for row in (-1, STRUCTURES * IMAGES):
            with pytest.raises(DatabaseError, match=f"no row {row} of images: 0 to 47"):
                database.row("images", row)
        counts = database.column("number_of_particles", rows=np.array([0]))
        with pytest.raises(DatabaseError, match="which does not use it"):
            database.stored("position", np.arange(counts[0] + 1))
    with open_database(unfinished) as database:
        pending = int(np.flatnonzero(~database.committed)[0]) * IMAGES
        with pytest.raises(
            DatabaseError, match=r"belongs to structure \d+, which is not committed"
        ):
            database.stored("intensity", np.array([pending]))


def test_columns_of_chosen_rows(filled: Path) -> None:
    with open_database(filled) as database:
        rows = np.array([40, 0, 21, 20])
        whole = dict(zip(database.rows("images").tolist(), database.column("dose"), strict=True))
        assert database.column("dose", rows=rows).tolist() == [whole[r] for r in rows]
        radius = database.column("radius", "images", rows)
        assert radius.tolist() == [
            Compute()(i).rows["/entry/structures/radius"] for i in (10, 0, 5, 5)
        ]
        assert database.mapped("dose")[rows].tolist() == [whole[r] for r in rows]
        with pytest.raises(ValueError):
            database.mapped("dose")[0] = 1


def test_damaged_categories_and_texts_are_told_or_shown(filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gold.hdf5"
    copy.write_bytes(filled.read_bytes())
    with open_database(copy) as database:
        offsets = database.offsets
    with open(copy, "r+b") as stream:
        stream.seek(offsets["/entry/structures/lattice"] + 4)
        stream.write(b"\xee")
        stream.seek(offsets["/entry/structures/formula"])
        stream.write(b"\xff\xfeA")
    with open_database(copy) as database:
        with pytest.raises(DatabaseError, match="holds 238, which is none of its 3 categories"):
            database.column("lattice")
        assert database.column("formula")[0].startswith("\ufffd\ufffdA")
