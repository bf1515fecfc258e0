"""Subsets of databases: what the curation of published data sets asked for, and the file."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import operator
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from series_of_structures import DOSES, EACH, ELEMENTS, FOCI, make_series

import hpctem
from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError, DatabaseError, MachineError
from hpctem.subsets.file import read_runs, read_subset, write_runs, write_subset
from hpctem.subsets.subset import Subset, draw_subset
from hpctem.subsets.table import format_subset

THICKNESS = "substrate_thickness:2,3.5,5,6.5,8 nm"
SPLIT = "train=0.75,validation=0.25"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("subset")


@pytest.fixture(scope="module")
def gold(folder: Path) -> Iterator[Collection]:
    """64 structures, of which one is quarantined."""
    with open_collection(make_series(folder / "gold.hdf5", bad=(9,))) as opened:
        yield opened


@pytest.fixture(scope="module")
def mixed(folder: Path, gold: Collection) -> Iterator[Collection]:
    """Two campaigns of 64 and 24 structures that have no structure in common."""
    cdse = make_series(folder / "cdse.hdf5", 24, seed=2, name="cdse")
    with open_collection([folder / "gold.hdf5", cdse]) as opened:
        yield opened


def values(subset: Subset, name: str, part: str | None = None, draw: int = 0) -> np.ndarray:
    return subset.select(part, draw).column(name)


def thickness_bins(collection: Collection) -> np.ndarray:
    edges = [20, 35, 50, 65, 80]
    return np.bincount(np.digitize(collection.column("substrate_thickness"), edges) - 1)


def require_no_leak(subset: Subset, column: str = "structure_id") -> None:
    for draw in range(len(subset)):
        sides = [set(values(subset, column, part, draw).tolist()) for part in subset.parts]
        for one, other in itertools.combinations(sides, 2):
            assert not one & other


# What S2's curation asked for


def test_by_dose_and_number_of_structures(gold: Collection) -> None:
    """512 images of 128 structures at one dose, five networks, 3:1 - here in the small."""
    subset = draw_subset(
        gold, where="dose = 400", sample=["16:structure_id", 64], split=SPLIT, draws=5
    )
    assert len(subset) == 5
    for draw in range(5):
        assert set(values(subset, "dose", draw=draw)) == {400.0}
        assert len(subset.select(draw=draw)) == 64
        assert len(set(values(subset, "structure_id", draw=draw))) <= 16
        assert 44 <= len(subset.select("train", draw)) <= 52
    require_no_leak(subset)
    assert len({tuple(subset.rows(draw=draw)[0]) for draw in range(5)}) == 5


def test_thickness_bins_in_all_their_combinations(gold: Collection) -> None:
    subset = draw_subset(
        gold, stratify=THICKNESS, combinations="substrate_thickness", sample=240, split=SPLIT
    )
    assert len(subset) == 15
    chosen = [c for size in (1, 2, 3, 4) for c in itertools.combinations(range(4), size)]
    for draw, bins in enumerate(chosen):
        counts = np.zeros(4, int)
        counts[list(bins)] = 240 // len(bins)
        assert thickness_bins(subset.select(draw=draw)).tolist() == counts[: bins[-1] + 1].tolist()
        names = [f"substrate_thickness {2 + 1.5 * b:g} nm to {3.5 + 1.5 * b:g} nm" for b in bins]
        assert subset.drawn[draw].combination == tuple(names)
    require_no_leak(subset)


@pytest.mark.parametrize(("structures", "foci"), [(8, 3), (16, 5), (32, 11)])
def test_structures_times_foci_that_all_share(gold: Collection, structures: int, foci: int) -> None:
    subset = draw_subset(
        gold, sample=[f"{structures}:structure_id", f"{foci}:focus_index"], draws=3, seed=5
    )
    for draw in range(3):
        pairs = np.stack(
            [values(subset, name, draw=draw) for name in ("structure_id", "focus_index")]
        )
        assert len(np.unique(pairs, axis=1).T) == structures * foci
        assert len(np.unique(pairs[0])) == structures and len(np.unique(pairs[1])) == foci
        assert len(pairs.T) == structures * foci * len(DOSES)


def test_foci_of_each_structure_with_all_their_doses(gold: Collection) -> None:
    subset = draw_subset(gold, per="structure_id:3:focus_index")
    ids, foci = values(subset, "structure_id"), values(subset, "focus_index")
    chosen = set()
    for structure in np.unique(gold.column("structure_id")):
        mine, doses = np.unique(foci[ids == structure], return_counts=True)
        assert len(mine) == 3 and (doses == len(DOSES)).all()
        chosen.add(tuple(mine))
    assert len(chosen) > 30


def test_foci_from_under_in_and_over_focus(gold: Collection) -> None:
    """One focus that all structures share from each of three ranges, as index or as defocus."""
    by_index = draw_subset(
        gold,
        sample=["12:structure_id", "3:focus_index"],
        stratify="focus_index:0,4,7,11",
        draws=8,
    )
    for draw in range(8):
        foci = np.unique(values(by_index, "focus_index", draw=draw))
        assert np.searchsorted([4, 7, 11], foci, side="right").tolist() == [0, 1, 2]
    by_defocus = draw_subset(
        gold, per="structure_id:3:focus_index", stratify="defocus:-65,-15,15,65 nm"
    )
    ids, defocus = values(by_defocus, "structure_id"), values(by_defocus, "defocus")
    for structure in np.unique(ids):
        mine = np.unique(defocus[ids == structure])
        assert np.searchsorted([-150, 150], mine).tolist() == [0, 1, 2]


def test_five_foci_from_halves_of_under_and_over_focus(gold: Collection) -> None:
    subset = draw_subset(gold, sample="5:focus_index", stratify="focus_index:0,2,4,7,9,11", draws=9)
    for draw in range(9):
        foci = np.unique(values(subset, "focus_index", draw=draw))
        assert np.digitize(foci, [0, 2, 4, 7, 9]).tolist() == [1, 2, 3, 4, 5]


def test_random_images_from_all_databases(mixed: Collection) -> None:
    subset = draw_subset(mixed, sample=500)
    chosen = subset.select()
    assert len(chosen) == 500
    share = (chosen.column("campaign") == "gold").mean()
    assert abs(share - 63 / 87) < 0.06


def test_mixtures_of_equal_halves(mixed: Collection) -> None:
    subset = draw_subset(mixed, balance="campaign", sample=[20, "12:structure_id"], split=SPLIT)
    for part, count in (("train", 15), ("validation", 5)):
        campaigns = values(subset, "campaign", part)
        assert abs(len(campaigns) - count) <= 3
    campaigns = values(subset, "campaign")
    assert [(campaigns == name).sum() for name in ("gold", "cdse")] == [10, 10]
    ids = values(subset, "structure_id")
    assert [len(set(ids[campaigns == name])) <= 6 for name in ("gold", "cdse")] == [True, True]
    whole = draw_subset(mixed, balance="campaign")
    campaigns = values(whole, "campaign")
    assert [(campaigns == name).sum() for name in ("gold", "cdse")] == [24 * EACH, 24 * EACH]


def test_folds_validate_every_structure_once(gold: Collection) -> None:
    subset = draw_subset(gold, folds=5, draws=2)
    assert len(subset) == 10 and subset.parts == ("train", "validation")
    require_no_leak(subset)
    for repeat in range(2):
        validated = [subset.rows("validation", 5 * repeat + k)[0] for k in range(5)]
        assert sorted(np.concatenate(validated)) == gold.rows.tolist()
        for k in range(5):
            both = np.concatenate([subset.rows("train", 5 * repeat + k)[0], validated[k]])
            assert sorted(both) == gold.rows.tolist()
            assert abs(len(validated[k]) - len(gold) / 5) < EACH


def test_sets_of_elements_stay_on_one_side(gold: Collection) -> None:
    subset = draw_subset(gold, split="train=2/3,test=1/3", group="elements", draws=6)
    require_no_leak(subset)
    require_no_leak(subset, "elements")
    for draw in range(6):
        both = {
            *values(subset, "elements", "train", draw),
            *values(subset, "elements", "test", draw),
        }
        assert both == set(ELEMENTS)
        # As near as five sets of uneven size allow: no set alone is nearer.
        assert abs(len(subset.select("train", draw)) / len(gold) - 2 / 3) < 0.15


# What draws promise


def test_a_split_hits_its_fractions_and_its_strata(gold: Collection) -> None:
    subset = draw_subset(gold, stratify=THICKNESS, sample="32:structure_id", split=SPLIT)
    assert [len(subset.select(part)) for part in subset.parts] == [24 * EACH, 8 * EACH]
    assert thickness_bins(subset.select("validation")).tolist() == [2 * EACH] * 4
    assert subset.spread == {"sample 32:structure_id": ("substrate_thickness",)}


def test_the_same_atoms_in_two_campaigns_are_one_structure(folder: Path, gold: Collection) -> None:
    """The same seed: twins under other conditions, which a split by number would tear apart."""
    make_series(folder / "twin.hdf5", 80, name="gold again")
    with open_collection([folder / "gold.hdf5", folder / "twin.hdf5"]) as both:
        subset = draw_subset(both, split=SPLIT)
        require_no_leak(subset)
        drawn = draw_subset(both, sample="5:structure_id")
        assert len(set(values(drawn, "structure_id"))) == 5
        for structure in set(values(drawn, "structure_id")):
            held = both.where(f"structure_id = {structure}")
            assert (values(drawn, "structure_id") == structure).sum() == len(held)
        assert drawn.drawn[0].pieces["all"].structures == 5


def test_structures_of_equal_number_in_two_campaigns_are_two(mixed: Collection) -> None:
    subset = draw_subset(mixed, per="structure_id:1")
    assert len(subset.select()) == 63 + 24


def test_volumes_draw_as_the_whole_campaign_does(folder: Path, gold: Collection) -> None:
    names = [folder / "v1.hdf5", folder / "v2.hdf5"]
    make_series(names[0], 30, bad=(9,))
    make_series(names[1], 34, first=30)
    options: dict[str, Any] = {
        "where": "dose = 400",
        "stratify": THICKNESS,
        "sample": ["20:structure_id", 50],
        "split": SPLIT,
        "seed": 3,
    }
    with open_collection(names) as volumes:
        for part in ("train", "validation"):
            whole = draw_subset(gold, **options).select(part)
            parts = draw_subset(volumes, **options).select(part)
            assert (whole.rows == parts.rows + 30 * EACH * parts.sources).all()


def test_draws_do_not_depend_on_how_many_are_made(gold: Collection) -> None:
    many, one = (draw_subset(gold, sample=50, draws=draws) for draws in (4, 1))
    assert (many.rows(draw=0)[0] == one.rows(draw=0)[0]).all()
    assert (many.rows(draw=1)[0] != one.rows(draw=0)[0]).any()
    assert (draw_subset(gold, sample=50, seed=1).rows()[0] != one.rows()[0]).any()


def test_other_rows_leave_a_stratums_draw_as_it_is(gold: Collection) -> None:
    whole = draw_subset(gold, stratify=THICKNESS, sample="8:structure_id")
    thin = gold.where("substrate_thickness < 35 OR structure_id % 3 = 0")
    part = draw_subset(thin, stratify=THICKNESS, sample="8:structure_id")
    both = [s.select().where("substrate_thickness < 35").rows.tolist() for s in (whole, part)]
    assert both[0] == both[1] and len(both[0]) == 2 * EACH


def test_draws_never_change(gold: Collection, tmp_path: Path) -> None:
    """Pinned: what was drawn once is drawn again by every later release."""
    subset = draw_subset(
        gold,
        where="dose = 400",
        stratify=[THICKNESS, "defocus:-65,-15,15,65 nm"],
        sample=["16:structure_id", "100"],
        per="structure_id:4:focus_index",
        split=SPLIT,
        draws=2,
        seed=11,
        allow_fewer=True,
    )
    state = hashlib.blake2b(digest_size=8)
    for draw in range(2):
        for part in subset.parts:
            state.update(subset.rows(part, draw)[0].astype("<i8").tobytes())
    assert state.hexdigest() == "7bb2714276d9b1d3"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    structures=st.integers(8, 40),
    foci=st.integers(1, FOCI),
    seed=st.integers(0, 1000),
    stratify=st.sampled_from([[], [THICKNESS]]),
    parts=st.sampled_from([{"split": SPLIT}, {"folds": 4}, {"split": "a=1/3,b=1/3,c=1/3"}]),
)
def test_any_draw_has_exact_numbers_and_no_leak(
    gold: Collection,
    structures: int,
    foci: int,
    seed: int,
    stratify: list[str],
    parts: dict[str, Any],
) -> None:
    subset = draw_subset(
        gold,
        sample=f"{structures}:structure_id",
        per=f"structure_id:{foci}:focus_index",
        stratify=stratify,
        seed=seed,
        **parts,
    )
    require_no_leak(subset)
    rows = subset.select()
    assert len(rows) == structures * foci * len(DOSES) == len(np.unique(rows.rows))
    if stratify:
        counts = thickness_bins(rows) / (foci * len(DOSES))
        assert counts.max() - counts.min() <= 1


def test_what_is_in_no_stratum_is_left_out_and_counted(gold: Collection) -> None:
    subset = draw_subset(gold, stratify="substrate_thickness:3.5,5,8 nm", sample=20)
    thin = len(gold.where("substrate_thickness < 35"))
    assert subset.outside == thin > 0
    assert values(subset, "substrate_thickness").min() >= 35
    assert f"left out, in no stratum: {thin} images" in format_subset(subset)


def test_a_step_is_spread_over_what_its_units_lie_in(gold: Collection) -> None:
    subset = draw_subset(
        gold,
        stratify=[THICKNESS, "focus_index:0,4,7,11"],
        sample=["12:structure_id", "6:focus_index", "48"],
    )
    assert subset.spread == {
        "sample 12:structure_id": ("substrate_thickness",),
        "sample 6:focus_index": ("focus_index",),
        "sample 48": ("substrate_thickness", "focus_index"),
    }
    assert thickness_bins(subset.select()).tolist() == [12] * 4
    foci = np.digitize(values(subset, "focus_index"), [4, 7])
    assert np.bincount(foci).tolist() == [16] * 3


def test_fewer_are_taken_only_when_allowed_and_told(gold: Collection) -> None:
    where = "substrate_thickness > 35 OR structure_id < 4"
    with pytest.raises(ConfigError, match=r"2 nm to 3.5 nm has 22 images, 100 are wanted"):
        draw_subset(gold, where=where, stratify=THICKNESS, sample=400)
    subset = draw_subset(gold, where=where, stratify=THICKNESS, sample=400, allow_fewer=True)
    assert thickness_bins(subset.select()).tolist() == [22, 100, 100, 100]
    assert "fewer than asked for: repeat 0: substrate_thickness 2 nm to 3.5 nm has 22" in (
        format_subset(subset)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 5000}, "the selection has 1386 images, 5000 are wanted; ask for fewer"),
        ({"sample": "64:structure_id"}, "has 63 structures, 64 are wanted"),
        ({"sample": "many"}, "sample: 'many' is neither N rows nor N:COLUMN"),
        ({"sample": 0}, "sample: '0' is neither"),
        ({"sample": [1, 2]}, "a number of rows is given twice"),
        ({"sample": "3:focus_idx"}, "no column 'focus_idx'; nearest: focus_index"),
        ({"sample": "3:atoms_digest"}, "atoms_digest has 16 values for each image"),
        ({"per": "structure_id"}, "per: 'structure_id' is no COLUMN:K"),
        ({"per": "structure_id:23"}, r"structure_id 0 \(one of 63 such\).* has 22 images, 23"),
        ({"stratify": "dose:400,100"}, "edges of dose: 100 e/A.2 does not exceed"),
        ({"stratify": "dose:1 nm,2 nm"}, "edges of dose: .*not a unit of dose"),
        ({"stratify": "elements:1,2"}, "edges of elements: its values are texts"),
        ({"stratify": "defocus"}, "defocus has 693 different values.*give edges"),
        ({"stratify": "dosage"}, "no column 'dosage'; nearest: dose"),
        ({"stratify": ["dose", "dose:0,500"]}, "stratify: column dose is named twice"),
        ({"stratify": "dose:1,2"}, "no image is inside the edges"),
        ({"stratify": ":1,2"}, "is no COLUMN or COLUMN:EDGES"),
        ({"stratify": "defocus:-65,0,65 nm", "sample": "4:structure_id"}, "nothing can be spread"),
        ({"balance": "dose:0,200,300"}, "no row is in dose 200 e/A.2 to 300 e/A.2"),
        ({"combinations": "dose"}, "combinations of 'dose': give the column its strata"),
        ({"stratify": "structure_id", "combinations": "structure_id"}, "10 strata are the most"),
        ({"split": "train=0.8,validation=0.3"}, "sum to 1.1, not to 1"),
        ({"split": SPLIT, "folds": 3}, "either a split or folds"),
        ({"split": SPLIT, "group": "focus_index"}, "would put one structure on both sides"),
        (
            {"split": SPLIT, "sample": "1:structure_id"},
            "1 structures cannot be divided",
        ),
        ({"group": "elements"}, "kept together by a split or folds"),
        ({"folds": 64}, "63 structures cannot be divided into 64 parts"),
        ({"folds": 1}, "folds is 1; it is a whole number from 2 on"),
        ({"draws": 0}, "draws is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"where": "dose > 1e9"}, "no image fulfils the condition"),
        ({"where": "dosis > 1"}, "dosis.*nearest.*dose"),
    ],
)
def test_what_cannot_be_drawn_is_explained(
    gold: Collection, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        draw_subset(gold, **options)


def test_numbers_may_be_of_any_kind(gold: Collection) -> None:
    """In Python as on the command line, and as a file keeps them."""
    options: dict[str, Any] = {"sample": np.int64(40), "seed": np.int64(3), "draws": np.int32(2)}
    subset = draw_subset(gold, split={"train": 2 / 3, "test": 1 / 3}, **options)
    texts = draw_subset(gold, split="train=2/3,test=1/3", sample="40", seed=3, draws=2)
    assert subset.request == texts.request
    assert json.dumps(subset.request.seed) == "3"
    with pytest.raises(ConfigError, match=r"sample: '3\.5' is neither"):
        draw_subset(gold, sample=3.5)
    with pytest.raises(ConfigError, match=r"draws is 2\.5"):
        draw_subset(gold, draws=2.5)


def test_the_same_images_twice_are_refused(folder: Path, gold: Collection) -> None:
    part = make_series(folder / "part.hdf5", 8, first=4)
    with (
        open_collection([folder / "gold.hdf5", part]) as both,
        pytest.raises(ConfigError, match=r"gold.hdf5 and .*part.hdf5 hold the same images"),
    ):
        draw_subset(both, sample=3)


# The file


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> tuple[Path, Path, Subset]:
    """A subset file beside its database, and what was written."""
    database = tmp_path / "gold.hdf5"
    shutil.copy(folder / "gold.hdf5", database)
    shutil.copytree(folder / "gold.hdf5.journal", tmp_path / "gold.hdf5.journal")
    with open_collection(database) as collection:
        subset = draw_subset(
            collection, stratify=THICKNESS, sample=200, split=SPLIT, draws=2, where="dose = 400"
        )
        write_subset(subset, tmp_path / "subset.json")
    return tmp_path / "subset.json", database, subset


def test_a_file_holds_what_was_drawn(written: tuple[Path, Path, Subset]) -> None:
    path, _, subset = written
    read = read_subset(path)
    assert read.request == subset.request and read.spread == subset.spread
    assert len(read) == 2 and read.parts == ("train", "validation")
    for part, draw in itertools.product((None, "train", "validation"), range(2)):
        assert (read.rows(part, draw)[0] == subset.rows(part, draw)[0]).all()
    assert format_subset(read) == format_subset(subset)
    opened = hpctem.open(subset=path, part="train", draw=1)
    assert (opened.rows == subset.rows("train", 1)[0]).all()
    assert (opened.images[3] == subset.select("train", 1).images[3]).all()


def test_folds_and_several_databases_survive_the_file(mixed: Collection, tmp_path: Path) -> None:
    subset = draw_subset(mixed, sample="20:structure_id", folds=3, draws=2)
    write_subset(subset, tmp_path / "folds.json")
    read = read_subset(tmp_path / "folds.json")
    assert len(read) == 6
    for part, draw in itertools.product(("train", "validation"), range(6)):
        for one, other in zip(read.rows(part, draw), subset.rows(part, draw), strict=True):
            assert (one == other).all()
    # Named in another order, they are still those of the file.
    paths = [database.path for database in reversed(mixed.databases)]
    turned = hpctem.open(paths, subset=tmp_path / "folds.json", part="validation", draw=4)
    assert (turned.column("row") == subset.select("validation", 4).column("row")).all()


def test_the_same_request_gives_the_same_bytes(gold: Collection, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_subset(draw_subset(gold, sample=90, folds=3, stratify=THICKNESS), tmp_path / name)
    text = (tmp_path / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    content = json.loads(text)
    assert text.decode() == json.dumps(content, indent=1, sort_keys=True) + "\n"
    assert content["databases"][0]["campaign"] == "gold"


@given(st.lists(st.integers(0, 300), unique=True))
def test_runs_of_rows_are_read_back(rows: list[int]) -> None:
    rows.sort()
    text = write_runs(np.array(rows, np.int64))
    assert read_runs(text).tolist() == rows
    assert text.count(",") < max(1, len(rows))


def test_runs_are_short() -> None:
    assert write_runs(np.array([0, 1, 2, 3, 7, 9, 10])) == "0-3,7,9-10"


@pytest.mark.parametrize("text", ["3-1", "1,1", "5,3", "x", "-1", "1--3", "1,,2", "3-5,5"])
def test_other_texts_are_no_runs(text: str) -> None:
    with pytest.raises(ValueError):
        read_runs(text)


def test_rows_beyond_those_counted_take_no_memory() -> None:
    with pytest.raises(ValueError, match="more than 5 rows"):
        read_runs("0-99999999999", most=5)
    assert read_runs("1-5", most=5).tolist() == [1, 2, 3, 4, 5]


def test_databases_are_found_beside_the_file(written: tuple[Path, Path, Subset]) -> None:
    path, database, subset = written
    folder = path.parent / "elsewhere"
    folder.mkdir()
    moved = path.rename(folder / path.name)
    with pytest.raises(DatabaseError, match=r"gold.hdf5 \(campaign gold\), which is not at .*else"):
        read_subset(moved)
    for name in (database.name, f"{database.name}.journal"):
        shutil.move(database.parent / name, folder / name)
    assert (read_subset(moved).rows()[0] == subset.rows()[0]).all()


def test_another_database_is_refused(written: tuple[Path, Path, Subset], folder: Path) -> None:
    path, database, _ = written
    other = make_series(path.parent / "other.hdf5", bad=(9,), code="2")
    with pytest.raises(DatabaseError, match=r"drawn from another database than .*other.hdf5"):
        hpctem.open(other, subset=path)
    shutil.copy(other, database)
    shutil.copytree(f"{other}.journal", f"{database}.journal", dirs_exist_ok=True)
    with pytest.raises(DatabaseError, match="drawn from another database"):
        read_subset(path)


def test_rows_that_changed_are_noticed(written: tuple[Path, Path, Subset]) -> None:
    import h5py

    path, database, subset = written
    named = np.unique(np.concatenate([subset.rows(draw=d)[0] for d in range(2)]))
    others = np.setdiff1d(np.arange(63 * EACH), named)
    with h5py.File(database, "r+", locking=False) as file:
        file["entry/digests/images"][others[0], 0] ^= 1
    read_subset(path)
    with h5py.File(database, "r+", locking=False) as file:
        file["entry/digests/images"][named[-1], 15] ^= 1
    with pytest.raises(DatabaseError, match="are not what they were when it was drawn"):
        read_subset(path)


def test_rows_that_are_bad_now_are_noticed(written: tuple[Path, Path, Subset]) -> None:
    import h5py

    path, database, subset = written
    structure = int(subset.rows()[0][0]) // EACH
    with h5py.File(database, "r+", locking=False) as file:
        file["entry/structures/status"][structure] = 2
    with pytest.raises(DatabaseError, match=f"belongs to structure {structure}, which is quarant"):
        read_subset(path)


def test_an_edited_file_that_leaks_is_noticed(written: tuple[Path, Path, Subset]) -> None:
    path, _, _ = written
    content = json.loads(path.read_text())
    train, validation = content["draws"][1]["pieces"]
    moved, *kept = read_runs(train["rows"][0]).tolist()
    leaked = sorted([moved, *read_runs(validation["rows"][0]).tolist()])
    for piece, rows in ((train, kept), (validation, leaked)):
        piece["rows"], piece["count"] = [write_runs(np.array(rows))], len(rows)
    path.write_text(json.dumps(content))
    with pytest.raises(DatabaseError, match=r"subset\.json leaks: 1 structures are in two parts"):
        read_subset(path)


def test_an_edited_file_whose_groups_leak_is_noticed(gold: Collection, tmp_path: Path) -> None:
    """A whole structure is moved, so that only its set of elements is on both sides."""
    path = tmp_path / "elements.json"
    draw_subset(gold, split="train=0.5,test=0.5", group="elements").write(path)
    read_subset(path)
    content = json.loads(path.read_text())
    train, test = content["draws"][0]["pieces"]
    rows = read_runs(train["rows"][0])
    moved = rows // EACH == rows[0] // EACH
    leaked = np.sort(np.concatenate([rows[moved], read_runs(test["rows"][0])]))
    for piece, named in ((train, rows[~moved]), (test, leaked)):
        piece["rows"], piece["count"] = [write_runs(named)], len(named)
    path.write_text(json.dumps(content))
    with pytest.raises(
        DatabaseError, match=r"elements\.json leaks: 1 values of elements are in two"
    ):
        read_subset(path)


def test_an_unfinished_database_can_be_drawn_from(tmp_path: Path) -> None:
    """Its rows keep their numbers while it fills."""
    path = make_series(tmp_path / "gold.hdf5", stop_after=3)
    with open_collection(path) as begun:
        assert 0 < len(begun) < 64 * EACH
        subset = draw_subset(begun, sample=100)
        images = subset.select().images[:]
        write_subset(subset, tmp_path / "subset.json")
    make_series(path)
    with open_collection(path) as done:
        assert len(done) == 64 * EACH
    again = hpctem.open(subset=tmp_path / "subset.json")
    assert (again.images[:] == images).all()


def test_only_subsets_are_replaced(gold: Collection, tmp_path: Path) -> None:
    subset = draw_subset(gold, sample=3)
    path = tmp_path / "subset.json"
    write_subset(subset, path)
    write_subset(draw_subset(gold, sample=4), path)
    assert len(read_subset(path).select()) == 4
    for text in ("{}", "precious", '{"format": "hpctem-subset-9"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="exists and is no subset file; it is not replaced"):
            write_subset(subset, path)
        assert path.read_text() == text
    large = tmp_path / "database.hdf5"
    with large.open("wb") as stream:
        stream.truncate(2**40)  # more than any memory: it is not read
    with pytest.raises(ConfigError, match="exists and is no subset file"):
        write_subset(subset, large)
    large.unlink()
    with pytest.raises(ConfigError, match="there is no folder"):
        write_subset(subset, tmp_path / "none" / "subset.json")
    with pytest.raises(ConfigError, match="is a folder"):
        write_subset(subset, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["subset.json"]


def test_a_write_that_fails_leaves_the_older_file(
    gold: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "subset.json"
    write_subset(draw_subset(gold, sample=3), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError, match="No space left"):
        write_subset(draw_subset(gold, sample=4), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["subset.json"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["databases"], []),
        (["databases"], [{"path": "gold.hdf5"}]),
        (["databases", 0, "plan"], [1]),
        (["draws"], []),
        (["draws"], [{"pieces": []}]),
        (["draws"], None),
        (["draws", 0, "pieces", 0, "name"], "validation"),
        (["draws", 0, "pieces", 0, "name"], ["train"]),
        (["draws", 0, "pieces", 0, "rows", 0], "99999999999999999999"),
        (["draws", 0, "pieces", 0, "rows", 0], "0-99999999999999"),
        (["draws", 0, "pieces", 0, "count"], 1),
        (["request"], {"sample": ["many"]}),
        (["request"], {"unknown": 1}),
        (["request", "group"], 1.5),
        (["request", "split"], None),
        (["outside"], "x"),
        (["spread"], []),
    ],
)
def test_a_damaged_file_is_named(
    written: tuple[Path, Path, Subset], place: list[Any], value: Any
) -> None:
    path, _, _ = written
    content = json.loads(path.read_text())
    functools.reduce(operator.getitem, place[:-1], content)[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"subset.json is damaged \(.*\); draw it again"):
        read_subset(path)


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    for text, message in (
        ('{"format": "hpctem-subset-2"}', "has the format 'hpctem-subset-2', not"),
        ("[1]", "is no subset file"),
        ("\x89HDF", "is no JSON text"),
        ("[" * 100_000, "is no JSON text"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_subset(path)
    with pytest.raises(ConfigError, match="cannot open the subset"):
        read_subset(tmp_path / "none.json")


def test_a_part_or_draw_that_is_not_there_is_named(gold: Collection) -> None:
    subset = draw_subset(gold, split=SPLIT, draws=3)
    with pytest.raises(ConfigError, match="no part 'trian', perhaps 'train'"):
        subset.select("trian")
    with pytest.raises(ConfigError, match="no draw 3: the subset has draws 0 to 2"):
        subset.select("train", 3)


def test_the_table_tells_parts_shares_and_strata(gold: Collection) -> None:
    text = format_subset(
        draw_subset(gold, stratify=THICKNESS, sample="32:structure_id", split=SPLIT)
    )
    assert "a: substrate_thickness 2 nm to 3.5 nm" in text
    lines = [line.split() for line in text.splitlines()[-3:]]
    assert lines[0] == ["draw", "part", "share", "images", "structures", *"abcd"]
    assert lines[1] == ["0", "train", "75.00", "%", "528", "24", *["132"] * 4]
    assert lines[2] == ["0", "validation", "25.00", "%", "176", "8", *["44"] * 4]


def test_a_collection_draws_by_itself(gold: Collection) -> None:
    direct = gold.subset(sample=30, seed=2)
    assert (direct.rows()[0] == draw_subset(gold, sample=30, seed=2).rows()[0]).all()
    assert direct.request == replace(direct.request, sample=("30",), seed=2)
