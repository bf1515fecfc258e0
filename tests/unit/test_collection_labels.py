"""Labels by name, defects of an image, conditions on them: of one database and of several."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from defects_scanned import IMAGES, KINDS, SIZE, make_scans

from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError, DatabaseError


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("labels")
    return [
        make_scans(folder / "one.hdf5", bad=(3,)),
        make_scans(folder / "two.hdf5", seed=2, name="other"),
    ]


@pytest.fixture
def both(paths: list[Path]) -> Collection:
    return open_collection(paths)


@pytest.fixture
def mixed(both: Collection) -> Collection:
    order = np.random.default_rng(0).permutation(len(both))
    return both[order[:20]]


def stored(collection: Collection, path: str) -> np.ndarray:
    """Rows of a dataset as h5py finds them."""
    found = []
    for source, row in zip(collection.sources, collection.rows, strict=True):
        with h5py.File(collection.databases[source].path) as file:
            found.append(file[path][row])
    return np.array(found)


def expected_defects(collection: Collection) -> list[tuple]:
    """(database, row, defect, kind, pixel_x) of all defects of some images, by h5py alone."""
    found = []
    for source, row in sorted(zip(collection.sources, collection.rows, strict=True)):
        path = collection.databases[source].path
        with h5py.File(path) as file:
            group, structure = file["entry/defects"], row // IMAGES
            each = len(group["image"]) // len(file["entry/structures/n_atoms"])
            start = structure * each
            used = file["entry/structures/n_defects_listed"][structure]
            for place in range(start, start + used):
                if group["image"][place] == row % IMAGES:
                    kind = KINDS[group["kind"][place]]
                    number, x = group["defect"][place], group["pixel_x"][place]
                    found.append((path.name, row, number, kind, x))
    return found


def test_each_label_is_a_lazy_sequence_by_its_name(mixed: Collection) -> None:
    assert mixed.label_names == ("atoms", "Se_vacancy", "Mo_on_W", "distance")
    for name in mixed.label_names:
        expected = stored(mixed, f"/entry/labels/{name}")
        assert np.array_equal(mixed.label(name)[:], expected)
        assert mixed.label(name).dtype == expected.dtype
        assert np.array_equal(mixed[5].labels[name], expected[5])
    assert np.array_equal(mixed.labels[:], mixed.label("atoms")[:])
    assert np.array_equal(mixed[2].label, mixed.labels[2])
    assert list(mixed[5].labels) == list(mixed.label_names) and len(mixed[5].labels) == 4
    assert "atoms" in mixed[5].labels and "atom" not in mixed[5].labels
    assert mixed.detector_names == ("bf", "maadf")
    assert mixed.detector("bf").shape == (20, 2, SIZE, SIZE)
    assert np.array_equal(mixed[7].detectors["bf"], stored(mixed, "/entry/detectors/bf")[7])


def test_a_label_that_is_not_there_is_told_with_those_that_are(
    both: Collection, tmp_path: Path
) -> None:
    for read in (lambda: both.label("atom"), lambda: both[0].labels["atom"]):
        with pytest.raises(ConfigError, match=r"no label 'atom' \(nearest: atoms\); it has at"):
            read()
    with pytest.raises(ConfigError, match="no detector 'df'; it has bf"):
        both.detector("df")
    bare = open_collection(make_scans(tmp_path / "bare.hdf5", labels=(), name="bare"))
    assert bare.label_names == () and len(bare[0].labels) == 0
    with pytest.raises(DatabaseError, match=r"bare.hdf5 holds no labels"):
        bare.labels  # noqa: B018
    with pytest.raises(ConfigError, match=r"bare.hdf5 holds no labels, so no label 'atoms'"):
        bare.label("atoms")
    joined = open_collection([bare.databases[0].path, both.databases[0].path])
    assert joined.label_names == both.label_names
    with pytest.raises(ConfigError, match=r"bare.hdf5 holds no labels"):
        joined.label("atoms")
    # Rows of the file that has it are enough.
    assert len(joined[joined.sources == 1].label("atoms")) == 15


def test_the_defects_of_an_image_are_those_that_it_shows(mixed: Collection) -> None:
    for place in range(0, 20, 3):
        one = mixed.take([place])
        found = mixed[place].defects
        rows = list(zip(*(found[c].to_pylist() for c in COLUMNS), strict=True))
        assert rows == expected_defects(one)
        assert found.column_names[:4] == ["database", "campaign", "row", "structure_id"]
        assert set(found["structure_id"].to_pylist()) <= {one.column("structure_id")[0]}
    assert mixed.object_names == ["defects"]
    found = mixed.objects("defects")
    rows = list(zip(*(found[c].to_pylist() for c in COLUMNS), strict=True))
    assert sorted(rows) == sorted(expected_defects(mixed)) and len(rows) > 20
    with pytest.raises(ConfigError, match=r"'columns' is no table of objects in one.hdf5"):
        mixed.objects("columns")


COLUMNS = ("database", "row", "defect", "kind", "pixel_x")


def test_conditions_are_about_the_defects_of_the_image_itself(both: Collection) -> None:
    """The other images of its structure show the same defects at other places."""
    every = expected_defects(both)
    wanted = {(name, row) for name, row, _, kind, x in every if kind == "Se_vacancy" and x > 20}
    same_structure = {(name, row // IMAGES) for name, row in wanted}
    assert len(same_structure) * IMAGES > len(wanted) > 0
    inner = "SELECT 1 FROM defects WHERE kind = 'Se_vacancy' AND pixel_x > 20"
    for condition in (
        "defects.kind = 'Se_vacancy' AND defects.pixel_x > 20",
        f"EXISTS ({inner})",
    ):
        found = both.where(condition)
        names = [both.files[source] for source in found.sources]
        pairs = set(zip(names, found.rows.tolist(), strict=True))
        assert pairs == wanted, condition
    counts = {(name, row): 0 for name, row, *_ in every}
    for name, row, *_ in every:
        counts[name, row] += 1
    for number in range(6):
        found = both.where(f"(SELECT count(*) FROM defects) = {number}")
        names = [both.files[source] for source in found.sources]
        pairs = set(zip(names, found.rows.tolist(), strict=True))
        assert pairs == {pair for pair, count in counts.items() if count == number}


def test_the_columns_of_a_scan_are_compared_in_any_unit(both: Collection) -> None:
    for condition in ("current < '0.1 nA'", "current BETWEEN '34 pA' AND '36 pA'",
                      "dwell_time = '0.02 ms'", "dwell_time > '5000 ns'"):  # fmt: skip
        assert len(both.where(condition)) == len(both), condition
    assert len(both.where("dwell_time > '0.1 ms'")) == 0
    with pytest.raises(ConfigError, match="'20 pA'"):
        both.where("dwell_time > '20 pA'")
