"""A collection is what its files hold, in any order, in any process."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from columns_only import IMAGES, PIXELS, content, make_database

import hpctem
from hpctem.collection.collection import Collection, open_collection
from hpctem.database.reader import Database
from hpctem.errors import ConfigError, DatabaseError

BAD = (3,)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("collection")
    return [
        make_database(folder / "one.hdf5", 16, bad=BAD, name="first"),
        make_database(folder / "other.hdf5", 8, seed=2, name="second"),
    ]


@pytest.fixture(scope="module")
def both(paths: list[Path]) -> Iterator[Collection]:
    with hpctem.open(paths) as collection:
        yield collection


@pytest.fixture(scope="module")
def mixed(both: Collection) -> Collection:
    """Images of both files in no order, some of them twice."""
    return both.take(np.random.default_rng(1).integers(0, len(both), 50))


def stored(collection: Collection, path: str) -> np.ndarray:
    """A dataset's rows for the images of a collection, by plain h5py."""
    found = []
    for source, row in zip(collection.sources, collection.rows, strict=True):
        with h5py.File(collection.databases[source].path) as file:
            each = IMAGES if "structures" in path else 1
            found.append(file[path][row // each])
    return np.array(found)


def test_all_good_images_are_there_in_the_order_of_the_files(both: Collection) -> None:
    assert len(both) == (16 - len(BAD) + 8) * IMAGES
    good = [row for row in range(16 * IMAGES) if row // IMAGES not in BAD]
    assert both.rows.tolist() == good + list(range(8 * IMAGES))
    assert both.rows.dtype == np.int64 and both.sources.dtype == np.uint16
    assert np.bincount(both.sources).tolist() == [len(good), 8 * IMAGES]


@pytest.mark.parametrize("view", ["both", "mixed"])
def test_columns_are_those_of_the_files(view: str, request: pytest.FixtureRequest) -> None:
    collection = request.getfixturevalue(view)
    for name in ("dose", "defocus", "tilt", "focus_index"):
        expected = stored(collection, f"/entry/metadata/{name}")
        assert collection.column(name).tolist() == expected.tolist()
        assert collection.table(columns=[name])[name].to_pylist() == expected.tolist()
    thickness = stored(collection, "/entry/structures/thickness")
    assert collection.column("thickness").tolist() == thickness.tolist()
    lattice = np.array(["fcc", "bcc", "hcp"])[stored(collection, "/entry/structures/lattice")]
    assert collection.column("lattice").tolist() == lattice.tolist()
    names = [text.decode() for text in stored(collection, "/entry/structures/name").tolist()]
    assert collection.column("name").tolist() == names
    assert "Ångström" in names
    assert collection.column("height").tolist() == [1.0] * len(collection)
    height = stored(collection, "/entry/structures/height")
    assert collection.column("structures.height").tolist() == height.tolist()
    table = collection.table()
    assert table.column_names == list(collection.columns)
    assert table["lattice"].to_pylist() == lattice.tolist()
    assert table["name"].to_pylist() == names
    assert table["row"].to_pylist() == collection.rows.tolist()
    assert table["structures.height"].to_pylist() == height.tolist()


def test_standing_columns_say_where_an_image_is(mixed: Collection) -> None:
    files, campaigns = np.array(["one.hdf5", "other.hdf5"]), np.array(["first", "second"])
    assert mixed.column("database").tolist() == files[mixed.sources].tolist()
    assert mixed.column("campaign").tolist() == campaigns[mixed.sources].tolist()
    assert mixed.column("row").tolist() == mixed.rows.tolist()
    assert mixed.column("structure_id").tolist() == (mixed.rows // IMAGES).tolist()
    assert list(mixed.columns)[:3] == ["database", "campaign", "row"]


def test_columns_know_units_meaning_and_categories(both: Collection) -> None:
    dose = both.columns["dose"]
    assert (dose.name, dose.table, dose.units) == ("dose", "images", "electron/angstrom^2")
    assert dose.dtype == np.float64 and dose.numeric and dose.description
    lattice = both.columns["lattice"]
    assert (lattice.table, lattice.categories) == ("structures", ("fcc", "bcc", "hcp"))
    assert not lattice.numeric
    assert "radius" not in both.columns


@pytest.mark.parametrize("view", ["both", "mixed"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_images_and_labels_are_lazy_rows_of_the_files(
    view: str, kind: str, request: pytest.FixtureRequest
) -> None:
    collection = request.getfixturevalue(view)
    path = {"images": "/entry/images/intensity", "labels": "/entry/labels/instances"}[kind]
    rows, expected = getattr(collection, kind), stored(collection, path)
    assert rows.shape == expected.shape == (len(collection), PIXELS, PIXELS)
    assert rows.dtype == expected.dtype
    assert (rows[:] == expected).all() and (np.asarray(rows) == expected).all()
    for place in (0, 7, -1, np.int64(20)):
        assert (rows[place] == expected[place]).all()
    places = np.array([40, 3, 3, -2])
    assert (rows[places] == expected[places]).all()
    assert (rows[5:30:4] == expected[5:30:4]).all()
    mask = np.arange(len(collection)) % 3 == 0
    assert (rows[mask] == expected[mask]).all()
    assert rows[[]].shape == (0, PIXELS, PIXELS)
    with pytest.raises(IndexError):
        rows[len(collection)]


def test_views_choose_by_slice_numbers_and_mask(both: Collection) -> None:
    for index in (slice(3, 90, 5), [5, 70, 5], np.arange(len(both)) % 2 == 0, [], slice(0, 0)):
        view = both[index]
        assert view.rows.tolist() == np.asarray(both.rows)[np.asarray(index, int)
            if isinstance(index, list) else index].tolist()  # fmt: skip
        assert (view.column("dose") == both.column("dose")[index if len(view) else []]).all()
    assert both.where("dose > 200")[10:20].rows.tolist() == (
        both.rows[both.column("dose") > 200][10:20].tolist()
    )
    for wrong in ([1.5], "dose", np.zeros((2, 2), int), None):
        with pytest.raises(IndexError):
            both[wrong]
    with pytest.raises(IndexError):
        both[len(both)]


def test_conditions_choose_among_images_of_several_files_in_any_order(mixed: Collection) -> None:
    dose, thickness = mixed.column("dose"), mixed.column("thickness")
    names = mixed.column("campaign")
    for condition, expected in (
        ("dose > 200", dose > 200),
        ("thickness < 50 AND dose < 200", (thickness < 50) & (dose < 200)),
        ("campaign = 'second' OR thickness < 40", (names == "second") | (thickness < 40)),
    ):
        found, places = mixed.where(condition), np.flatnonzero(expected)
        assert 0 < len(places) < len(mixed)
        assert found.rows.tolist() == mixed.rows[places].tolist()
        assert found.sources.tolist() == mixed.sources[places].tolist()
    ordered = mixed.table("dose > 200", ["thickness"], "thickness")["thickness"].to_pylist()
    assert ordered == sorted(thickness[dose > 200])


def test_a_collection_cannot_be_changed(both: Collection) -> None:
    with pytest.raises(ValueError, match="read-only"):
        both.rows[0] = 5
    with pytest.raises(AttributeError):
        both.rows = both.rows[:3]


def test_a_file_that_gives_no_rows_is_not_asked(
    mixed: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = mixed[mixed.sources == 1]
    expected = stored(second, "/entry/labels/instances")
    asked: list[Database] = []
    read = Database.stored
    monkeypatch.setattr(
        Database, "stored", lambda self, *given: asked.append(self) or read(self, *given)
    )
    assert (second.labels[:] == expected).all()
    assert asked == [mixed.databases[1]]


def test_one_image_has_pixels_mask_and_columns(mixed: Collection) -> None:
    image = mixed[-3]
    place = len(mixed) - 3
    assert (image.image == mixed.images[place]).all()
    assert (image.label == mixed.labels[place]).all()
    assert image.row == mixed.rows[place]
    assert image.database is mixed.databases[mixed.sources[place]]
    assert image["lattice"] == mixed.column("lattice")[place]
    assert set(image.values) == set(mixed.columns)
    assert type(image["dose"]) is float and type(image["row"]) is int
    with pytest.raises(ConfigError, match="nearest: dose"):
        image["dosee"]


def test_an_empty_collection_has_columns_and_no_rows(both: Collection) -> None:
    nothing = both.where("dose < 0")
    assert len(nothing) == 0
    assert nothing.column("dose").shape == (0,) and nothing.images.shape == (0, PIXELS, PIXELS)
    assert nothing.table().num_rows == 0 and len(nothing.where("dose > 0")) == 0
    assert nothing.table(order="dose").num_rows == 0


def test_tables_become_pandas(both: Collection) -> None:
    pandas = pytest.importorskip("pandas")
    frame = both.table("dose > 200", ["row", "dose", "lattice"]).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["dose"].tolist() == both.where("dose > 200").column("dose").tolist()


def test_unknown_columns_are_refused_with_the_nearest(both: Collection) -> None:
    for use in (both.column, both.arrow, lambda name: both.table(columns=[name])):
        with pytest.raises(ConfigError, match=r"'thicknes'; nearest: thickness"):
            use("thicknes")
        with pytest.raises(ConfigError, match="several"):
            use("particles.radius")


def test_a_structures_text_is_that_of_each_of_its_images(both: Collection) -> None:
    """Also where images come in any order, repeatedly, and few of structures far apart."""
    random = np.random.default_rng(4)
    for places in (np.arange(len(both)), random.integers(0, len(both), 200), [0, len(both) - 1]):
        view = both.take(places)
        expected = [
            bytes(both.databases[source].mapped("name")[row // IMAGES]).decode()
            for source, row in zip(view.sources, view.rows, strict=True)
        ]
        assert view.column("name").tolist() == expected
        assert view.arrow("name").to_pylist() == expected
    assert len(both.take(slice(0)).arrow("name")) == 0


def test_damaged_categories_and_texts_are_told_or_shown(tmp_path: Path) -> None:
    path = make_database(tmp_path / "drawn.hdf5")
    with open_collection(path) as whole:
        offsets = whole.databases[0].offsets
    with path.open("r+b") as file:
        file.seek(offsets["/entry/structures/lattice"])
        file.write(b"\x77")
        file.seek(offsets["/entry/structures/name"])
        file.write(b"g\xffld")
    with open_collection(path) as damaged:
        assert damaged.column("name")[0] == damaged.arrow("name")[0].as_py() == "g\ufffdld"
        assert len(damaged.where("name = 'g\ufffdld'")) == IMAGES
        reads = (
            lambda: damaged.column("lattice"),
            lambda: damaged.table(columns=["lattice"]),
            lambda: damaged.where("lattice = 'fcc'"),
        )
        for read in reads:
            with pytest.raises(DatabaseError, match=r"drawn.hdf5: .*lattice holds 119, which is"):
                read()


def test_the_same_file_cannot_count_twice(paths: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link.hdf5"
    link.symlink_to(paths[0])
    for names in ([paths[0], paths[0]], [paths[0], link]):
        with pytest.raises(ConfigError, match="twice"):
            open_collection(names)
    with pytest.raises(ConfigError, match="no database"):
        open_collection([])
    with pytest.raises(DatabaseError, match="cannot open"):
        open_collection(tmp_path / "missing.hdf5")


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / name / "gold.hdf5" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        make_database(path, 8)
    with open_collection(paths) as both:
        assert both.columns["database"].categories == tuple(map(str, paths))
        assert len(both.where(f"database = '{paths[1]}'")) == 8 * IMAGES


def test_pickled_it_is_the_same_collection(mixed: Collection) -> None:
    again = pickle.loads(pickle.dumps(mixed))
    assert content(again) == content(mixed)
    assert (again.sources == mixed.sources).all() and (again.rows == mixed.rows).all()


def test_a_pickle_has_no_image_that_is_bad_by_now(tmp_path: Path) -> None:
    path = make_database(tmp_path / "drawn.hdf5", 16)
    with open_collection(path) as collection:
        packed = pickle.dumps(collection)
    with h5py.File(path, "r+", locking=False) as file:
        file["entry/structures/status"][4] = 2
    with pytest.raises(DatabaseError, match="belongs to structure 4, which is quarantined"):
        pickle.loads(packed)


def test_a_pickle_is_not_that_of_another_file(tmp_path: Path) -> None:
    path = make_database(tmp_path / "gold.hdf5", 8)
    with open_collection(path) as collection:
        pickled = pickle.dumps(collection)
    make_database(tmp_path / "other.hdf5", 16, seed=3)
    shutil.rmtree(tmp_path / "gold.hdf5.journal")
    os.replace(tmp_path / "other.hdf5", path)
    os.replace(tmp_path / "other.hdf5.journal", tmp_path / "gold.hdf5.journal")
    with pytest.raises(DatabaseError, match="another database"):
        pickle.loads(pickled)


def test_it_stays_that_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes the file's name afterwards, and wherever the process goes."""
    make_database(tmp_path / "one.hdf5", 16)
    monkeypatch.chdir(tmp_path)
    collection = open_collection("one.hdf5")
    before, packed = content(collection), pickle.dumps(collection)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert content(collection) == content(pickle.loads(packed)) == before
    assert (pickle.loads(pickle.dumps(collection.images))[:] == collection.images[:]).all()
    make_database(tmp_path / "two.hdf5", 16, seed=5)
    os.replace(tmp_path / "two.hdf5", tmp_path / "one.hdf5")
    assert content(collection) == before


def test_threads_share_it(mixed: Collection) -> None:
    expected = content(mixed)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(content, [mixed] * 32):
            assert found == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_it(mixed: Collection, method: str) -> None:
    """Also those forked after DuckDB and Arrow have been used here, as data loaders do."""
    expected = content(mixed)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.map_async(content, [mixed] * 4).get(timeout=240):
            assert found == expected


def test_open_is_light_and_subsets_need_a_file(paths: list[Path]) -> None:
    code = (
        "import sys, hpctem, json; c = hpctem.open(sys.argv[1]); len(c); c.column('dose');"
        "print(json.dumps([n for n in ('duckdb', 'pyarrow', 'pandas', 'matplotlib', 'numba', "
        "'mpi4py', 'pydantic') if n in sys.modules]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(paths[0])], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == []
    with pytest.raises(ConfigError, match="subset"):
        hpctem.open(paths, part="train")
    with pytest.raises(ConfigError, match="no database"):
        hpctem.open()


def test_a_subset_is_opened_by_part_and_draw(paths: list[Path], tmp_path: Path) -> None:
    with hpctem.open(paths) as collection:
        subset = collection.subset(where="dose > 200", split="train=0.75,validation=0.25", seed=3)
        subset.write(tmp_path / "subset.json")
        train = subset.select("train")
    opened = hpctem.open(subset=tmp_path / "subset.json", part="train")
    assert opened.rows.tolist() == train.rows.tolist()
    assert (opened.column("dose") > 200).all() and 0 < len(opened) < len(collection)
    elsewhere = hpctem.open(paths, tmp_path / "subset.json", "train")
    assert content(elsewhere) == content(opened)
    with pytest.raises(ConfigError, match="validation"):
        hpctem.open(subset=tmp_path / "subset.json", part="validate")
