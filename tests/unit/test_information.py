"""What `info` says of a database is what its tables hold."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.database import information
from hpctem.database.fill import fill
from hpctem.database.information import Information, inform, unite
from hpctem.database.reader import open_database
from hpctem.database.schema import Field, Layout
from hpctem.database.segment import StructureRows, quarantine
from hpctem.summaries import describe, format_information, format_union

FEW = st.sampled_from([0.0, -1.5, 3.0, 1e300, math.nan])
MANY = st.floats(allow_nan=True, allow_infinity=False)


def table(path: Path, columns: dict[str, np.ndarray], bad: tuple[int, ...] = ()) -> Path:
    """A database whose structures hold these columns."""
    fields = tuple(
        Field(f"/entry/structures/{name}", "structures", values.dtype, nan=True)
        for name, values in columns.items()
    )
    count = len(next(iter(columns.values())))

    def compute(index: int) -> StructureRows:
        rows = {f"/entry/structures/{name}": v[index] for name, v in columns.items()}
        return quarantine("bad") if index in bad else StructureRows(rows)

    layout = Layout(count, {"structures": 1}, count, fields)
    path.unlink(missing_ok=True)
    fill(path, layout, {"code": "1"}, compute)
    return path


@given(st.lists(st.one_of(FEW, MANY), min_size=1, max_size=60), st.integers(1, 40))
def test_ranges_and_counts_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], step: int
) -> None:
    column = np.array(values)
    pieces = (column[start : start + step] for start in range(0, len(column), step))
    found = information._survey(pieces, counted=True)
    known = column[~np.isnan(column)]
    assert found.absent == len(column) - len(known)
    if known.size:
        assert (found.smallest, found.largest) == (known.min(), known.max())
    else:
        assert found.smallest is None and found.largest is None
    names, numbers = np.unique(known, return_counts=True)
    if len(names) > 12:
        assert found.values is None
    else:
        assert found.values == dict(zip(names.tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize("distinct", [1, 2, 12, 13, 40])
@pytest.mark.parametrize("kind", ["f8", "i4", "u1", "S6"])
def test_twelve_values_are_counted_and_more_are_not(
    tmp_path: Path, distinct: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the thirteenth comes late, and in pieces of a few rows."""
    monkeypatch.setattr(information, "PIECE_BYTES", 64)
    values = np.sort(np.arange(200) % distinct).astype(kind)
    path = table(tmp_path / "t.hdf5", {"column": values})
    [column] = [c for c in inform(path).columns if c.name == "column"]
    if distinct > 12:
        assert column.distinct is None and column.values is None
    else:
        names, numbers = np.unique(values, return_counts=True)
        names = [n.decode() if kind == "S6" else n for n in names.tolist()]
        assert column.distinct == distinct
        assert column.values == dict(zip(names, numbers.tolist(), strict=True))
    if kind == "S6":
        assert column.smallest is None and column.dtype == "text"
    else:
        assert (column.smallest, column.largest) == (0, distinct - 1)


def test_rows_of_quarantined_structures_do_not_count(tmp_path: Path) -> None:
    path = table(tmp_path / "t.hdf5", {"column": np.array([5.0, 1e9, 6.0])}, bad=(1,))
    found = inform(path)
    [column] = [c for c in found.columns if c.name == "column"]
    assert column.values == {5.0: 1, 6.0: 1} and column.largest == 6.0
    assert found.quarantined == ((1, "bad"),)
    assert "structure 1: bad" in format_information(found, False)


def test_a_database_without_a_good_structure_is_described(tmp_path: Path) -> None:
    found = inform(table(tmp_path / "t.hdf5", {"column": np.array([5.0, 1.0])}, bad=(0, 1)))
    text = format_information(found, True)
    assert "2 structures: 2 quarantined" in text and "no value" in text
    assert json.loads(json.dumps(describe(found)))["counts"]["good"] == 0


def test_large_columns_are_read_only_when_all_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(information, "MOST_BYTES", 20)
    path = table(
        tmp_path / "t.hdf5", {"large": np.array([5.0, 1.0, 2.0]), "little": np.zeros(3, "u1")}
    )
    columns = {c.name: c for c in inform(path).columns}
    assert not columns["large"].read and columns["little"].values == {0: 3}
    assert "large                        too large to be read here" in format_information(
        inform(path), False
    )
    columns = {c.name: c for c in inform(path, thorough=True).columns}
    assert columns["large"].read and columns["large"].largest == 5.0


def test_a_finished_database(tmp_path: Path) -> None:
    path = tmp_path / "gold.hdf5"
    fill(path, lay_out(6, 2, first=3), {"seed": "7", "code": "1", "numpy": "2"}, Compute(bad=(4,)))
    found = inform(path)
    with open_database(path) as database:
        dose = database.column("dose")
    columns = {c.path: c for c in found.columns}
    assert columns["/entry/metadata/dose"].smallest == dose.min()
    assert columns["/entry/metadata/dose"].units == "1/angstrom^2"
    assert columns["/entry/structures/formula"].values == {"Ångstr": 5}
    assert columns["/entry/structures/lattice"].values == {"bcc": 1, "fcc": 2, "hcp": 2}
    position = columns["/entry/particles/position"]
    assert position.shape == (3,) and position.smallest < 0 < position.largest
    assert "/entry/images/intensity" not in columns
    text = format_information(found, True)
    for part in (
        "complete and verified",
        f"{5 * IMAGES} images of 24 x 24 pixels, uint16",
        "6 structures: 5 good, 1 quarantined",
        "volume: begins with structure 3",
        "campaign hpctem campaign, config hash unknown",
        "computed by hpctem 1",
        "libraries: numpy 2, seed 7",
        "bcc (1), fcc (2), hcp (2)",
        "structure 4: CIF of structure 4 cannot be read: Å",
    ):
        assert part in text, part


def test_an_unfinished_database_shows_what_is_committed(tmp_path: Path) -> None:
    path, asked = tmp_path / "gold.hdf5", iter(range(9))
    fill(path, lay_out(6, 2), {"seed": "7"}, Compute(), stop=lambda: next(asked) >= 1)
    found = inform(path)
    assert not found.complete and found.counts["pending"] == 4
    [dose] = [c for c in found.columns if c.name == "dose"]
    expected = np.concatenate([Compute()(i).rows["/entry/metadata/dose"] for i in (0, 1)])
    assert (dose.smallest, dose.largest) == (
        expected.astype("f4").min(),
        expected.astype("f4").max(),
    )
    assert "unfinished" in format_information(found, False)


def two(tmp_path: Path, **columns: tuple[np.ndarray, np.ndarray]) -> list[Information]:
    return [
        inform(table(tmp_path / f"{k}.hdf5", {name: v[k] for name, v in columns.items()}))
        for k in (0, 1)
    ]


def test_a_union_is_what_one_database_of_all_rows_would_be(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    columns = {
        "few": (random.integers(0, 5, 30), random.integers(3, 9, 20)),
        "together_many": (np.arange(30) % 7, 10 + np.arange(20) % 7),
        "real": (random.normal(size=30), random.normal(size=20)),
        "absent": (np.full(30, np.nan), np.array([np.nan] * 5 + [1.0] * 15)),
        "text": (np.array([b"Au", b"C"] * 15), np.array([b"Pt"] * 20)),
    }
    found = unite(two(tmp_path, **columns))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    whole = inform(table(tmp_path / "whole.hdf5", joined))
    expected = {c.name: c for c in whole.columns}
    for column in found.columns:
        if column.name in columns:
            assert column == expected[column.name]
    assert found.counts["good"] == 50 and found.complete and found.distinct is None
    text = format_union(found, True)
    assert "50 structures: 50 good" in text and "Au (15), C (15), Pt (20)" in text


def test_columns_that_cannot_be_one_are_named(tmp_path: Path) -> None:
    paths = []
    for number, (units, dtype) in enumerate((("eV", "f8"), ("rad", "f8"))):
        fields = (
            Field("/entry/structures/energy", "structures", np.dtype(dtype), units=units),
            Field("/entry/structures/size", "structures", np.dtype(f"i{4 << number}")),
            Field("/entry/structures/kind", "structures", np.dtype(("S4", "u1")[number])),
        )
        paths.append(tmp_path / f"{units}.hdf5")
        fill(paths[-1], Layout(2, {}, 1, fields), {}, lambda index: StructureRows({}))
    found = unite([inform(path) for path in paths])
    assert found.differing == ("structures.energy", "structures.kind")
    assert {c.name: c.dtype for c in found.columns}["size"] == "int32, int64"
    assert "so not shown: structures.energy, structures.kind" in format_union(found, False)


def test_structures_that_two_campaigns_share_are_counted_once(tmp_path: Path) -> None:
    digests = np.arange(96, dtype=np.uint8).reshape(6, 16)
    found = []
    for number, chosen in enumerate(([0, 1, 2, 3], [2, 3, 4, 5])):
        path = tmp_path / f"{number}.hdf5"
        layout = Layout(
            4, {}, 1, (Field(information.ATOMS_DIGEST, "structures", np.dtype("u1"), (16,)),)
        )
        fill(
            path,
            layout,
            {},
            lambda i, chosen=chosen: StructureRows({information.ATOMS_DIGEST: digests[chosen[i]]}),
        )
        found.append(inform(path))
    together = unite(found)
    assert together.distinct == 6 and together.counts["good"] == 8
    assert "6 of the good structures are different atoms" in format_union(together, False)
