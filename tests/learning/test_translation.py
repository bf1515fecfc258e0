"""Translated databases: tiles and labels where they belong, verdicts known, same bytes always."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import hpctem
from hpctem.campaign_file import read_campaign
from hpctem.database.reader import open_database
from hpctem.database.verify import verify
from hpctem.errors import ConfigError, DatabaseError
from hpctem.learning.data.preparation import Prepare, prepare
from hpctem.learning.data.samples import open_sources
from hpctem.learning.training_file import read_training
from hpctem.learning.translation.fidelity import find_vectors
from hpctem.learning.translation.outcome import format_outcome, survey
from hpctem.learning.translation.rows import Recipe
from hpctem.learning.translation.tiles import cut_images
from hpctem.learning.translation.translate import measure_own, plan_translation, translate
from hpctem.parallel import Communicator
from hpctem.sampling import Streams
from hpctem.sections.training import Preparation
from hpctem.simulate import Options, simulate

PATCH = 64
CAMPAIGN = """
campaign: {name: clean, technique: stem, seed: 11, structures: 4}
structure:
  material: {prototype: 1H, elements: [W, Se]}
  displacement: 0.01 A
  defects:
    - {kind: vacancy, site: chalcogen, rate: 0.05, name: se_vacancy}
    - {kind: vacancy, site: metal, rate: 0.03, name: w_vacancy}
simulation: {method: incoherent, energy: 80 keV}
imaging:
  pixels: 150
  sampling: 0.2 A
  foci: 2
  probe: {semiangle_cutoff: 25 mrad, source_size: 0.8 A}
  detectors: {adf: {inner: 63 mrad, outer: 200 mrad}}
labels: {columns: true}
storage: {store_atoms: true}
"""
SCALE = Prepare(False, "group", 0.0, 0.025)


def same(tiles: np.ndarray) -> np.ndarray:
    return tiles


def move(tiles: np.ndarray, columns: int) -> np.ndarray:
    return np.roll(tiles, columns, axis=2)


def heal(tiles: np.ndarray, lattices: dict[bytes, np.ndarray]) -> np.ndarray:
    """Every pixel becomes the median of those a lattice vector away, as if no site were damaged."""
    from scipy.ndimage import map_coordinates

    y, x = np.mgrid[: tiles.shape[1], : tiles.shape[2]].astype(float)
    healed = []
    for tile in tiles:
        one, two = lattices.get(tile.tobytes(), np.zeros((2, 2)))
        around = [
            map_coordinates(tile.astype(float), (y + dy, x + dx), order=3, cval=np.nan)
            for dx, dy in (one, two, -one, -two, one - two, two - one, 0 * one)
        ]
        healed.append(np.nanmedian(around, axis=0))
    return np.array(healed, np.float32)


def give(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return function


def write_recipe(function: Callable[..., np.ndarray], noise: float = 0.0, seed: int = 3) -> Recipe:
    return Recipe(
        "0" * 32, "by_hand", "translate", PATCH, (0.2, 0.2), SCALE,
        Prepare(False, "group", 10.0, 50.0), noise, seed, partial(give, function),
    )  # fmt: skip


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sheets of WSe2 with vacancies, two images each of 150 x 150 px, without noise."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "clean.yaml").write_text(CAMPAIGN)
    campaign = read_campaign(folder / "clean.yaml")
    simulate(campaign, folder / "clean.hdf5", Options(device="cpu"), Communicator())
    return folder / "clean.hdf5"


def fill(recipe: Recipe, parent: Path, path: Path, limit: int | None = None, **options) -> Path:
    planned = plan_translation(recipe, parent, path, Communicator(), limit)
    assert translate(planned, path, Communicator(), **options).complete
    return path


@pytest.fixture(scope="module")
def kept(clean: Path) -> Path:
    """The tiles as they are, but for faint noise."""
    return fill(write_recipe(same, noise=0.05), clean, clean.with_name("kept.hdf5"))


@pytest.fixture(scope="module")
def moved(clean: Path) -> Path:
    return fill(write_recipe(partial(move, columns=1)), clean, clean.with_name("moved.hdf5"))


def test_tiles_are_cut_row_by_row() -> None:
    images = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    tiles = cut_images(images, 2)
    assert tiles.shape == (2 * 2 * 3, 2, 2)
    for number, tile in enumerate(tiles):
        image, row, column = number // 6, number % 6 // 3, number % 3
        part = images[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert (tile == part).all()


def test_each_tile_is_the_part_of_its_image_with_its_labels(clean: Path, tmp_path: Path) -> None:
    whole = hpctem.open(clean)
    cut = hpctem.open(fill(write_recipe(same), clean, tmp_path / "same.hdf5"))
    assert len(cut) == 4 * len(whole)
    names = ("parent_row", "tile_y", "tile_x", "structure_id", "defocus", "pixel_size")
    columns = {name: cut.column(name) for name in names}
    parents = dict(zip(whole.rows.tolist(), range(len(whole)), strict=True))
    for k in range(len(cut)):
        parent = parents[int(columns["parent_row"][k])]
        top, left = PATCH * columns["tile_y"][k], PATCH * columns["tile_x"][k]
        part = slice(top, top + PATCH), slice(left, left + PATCH)
        assert (cut.images[k] == prepare(whole.images[parent], SCALE)[part]).all()
        for label in whole.label_names:
            assert (cut.label(label)[k] == whole.label(label)[parent][part]).all()
        for name in ("structure_id", "defocus", "pixel_size"):
            assert columns[name][k] == whole.column(name)[parent]
        assert cut.column("mean")[k] == pytest.approx(cut.images[k].mean(), rel=1e-6)
    assert (cut.column("saturated") == 0).all()


@pytest.mark.parametrize("table", ["defects", "columns"])
def test_objects_go_to_the_tile_that_shows_them(clean: Path, kept: Path, table: str) -> None:
    whole, cut = hpctem.open(clean), hpctem.open(kept)
    expected, found = set(), set()
    for row in whole.objects(table).to_pylist():
        x, y = row["pixel_x"], row["pixel_y"]
        if -0.5 <= x < 2 * PATCH - 0.5 and -0.5 <= y < 2 * PATCH - 0.5:
            expected.add((row["row"], round(x, 6), round(y, 6), round(row["x"], 6)))
    names = ("parent_row", "tile_x", "tile_y")
    tiles = dict(
        zip(cut.rows.tolist(), zip(*(cut.column(n) for n in names), strict=True), strict=True)
    )
    for row in cut.objects(table).to_pylist():
        parent, tx, ty = tiles[row["row"]]
        assert -0.5 <= row["pixel_x"] < PATCH - 0.5 and -0.5 <= row["pixel_y"] < PATCH - 0.5
        x, y = row["pixel_x"] + PATCH * tx, row["pixel_y"] + PATCH * ty
        found.add((int(parent), round(x, 6), round(y, 6), round(row["x"], 6)))
    assert len(expected) > 20
    assert found == expected


def test_what_images_count_is_counted_in_tiles(kept: Path) -> None:
    cut = hpctem.open(kept)
    defects, columns = cut.objects("defects").to_pylist(), cut.objects("columns").to_pylist()
    for kind in ("se_vacancy", "w_vacancy"):
        of = [sum(d["row"] == row and d["kind"] == kind for d in defects) for row in cut.rows]
        assert cut.column(f"n_{kind}").tolist() == of
    assert cut.column("n_columns").tolist() == [
        sum(c["row"] == row for c in columns) for row in cut.rows
    ]
    with open_database(kept) as database:
        assert database.column("defects_listed").sum() == len(defects)


def test_at_least_95_percent_of_vacancies_survive_where_a_generator_keeps_them(kept: Path) -> None:
    found = survey(kept)
    assert found.accepted == found.tiles == 32
    assert found.largest_offset < 0.2
    listed, judged, survived = (sum(kind[k] for kind in found.defects.values()) for k in range(3))
    assert judged >= 0.75 * listed > 25
    assert survived >= 0.95 * judged
    assert "32 of 32 tiles accepted (100.0%)" in format_outcome(found)


def test_tiles_moved_by_a_pixel_are_rejected(moved: Path) -> None:
    found = survey(moved)
    assert found.accepted == 0
    assert set(found.reasons) == {"offset"}
    tiles = hpctem.open(moved)
    assert tiles.column("offset_x") == pytest.approx(1.0, abs=0.05)
    assert tiles.column("offset_y") == pytest.approx(0.0, abs=0.05)


def test_tiles_whose_vacancies_are_healed_are_rejected(clean: Path, tmp_path: Path) -> None:
    lattices = {}
    for image in hpctem.open(clean).images[:]:
        seen = prepare(image, SCALE)
        lattices |= {tile.tobytes(): find_vectors(seen) for tile in cut_images(seen[None], PATCH)}
    recipe = write_recipe(partial(heal, lattices=lattices))
    path = fill(recipe, clean, tmp_path / "healed.hdf5", limit=2)
    tiles = hpctem.open(path)
    judged = tiles.column("defects_judged") > 0
    assert judged.sum() >= 6
    assert (tiles.column("accepted")[judged] == 0).all()
    whole = tiles.column("n_se_vacancy") + tiles.column("n_w_vacancy") == 0
    assert (tiles.column("accepted")[whole] == 1).all()
    assert all(kind[2] <= 0.1 * kind[1] for kind in survey(path).defects.values())
    fates = tiles.objects("defects").to_pydict()
    assert set(fates["fate"]) <= {"lost", "not judged"}
    assert [c is None or np.isnan(c) for c in fates["contrast"]] == [
        fate == "not judged" for fate in fates["fate"]
    ]


def test_training_leaves_out_what_is_rejected(kept: Path, moved: Path, tmp_path: Path) -> None:
    text = """
training: {{name: t, kind: defects}}
data: {{databases: [{}], validation: 0.25}}
target: {{classes: {{vacancy: [se_vacancy, w_vacancy]}}}}
network: {{name: residual_unet, width: 4}}
schedule: {{epochs: 1, batch: 2}}
"""
    file = tmp_path / "t.yaml"
    file.write_text(text.format(f"{kept}, {moved}"))
    training, validation = open_sources(read_training(file, "defects"))
    assert validation is not None and len(training) + len(validation) == 32
    assert training.shape == (PATCH, PATCH)
    file.write_text(text.format(moved))
    with pytest.raises(ConfigError, match="none of 32 translated images was accepted"):
        open_sources(read_training(file, "defects"))


def test_noise_is_of_each_tile_and_of_the_seed(clean: Path, kept: Path, tmp_path: Path) -> None:
    again = fill(write_recipe(same, noise=0.05), clean, tmp_path / "few.hdf5", limit=2)
    other = fill(write_recipe(same, noise=0.05, seed=4), clean, tmp_path / "other.hdf5", limit=1)
    one, few, seeded = (hpctem.open(path).images[:8] for path in (kept, again, other))
    assert (one == few).all()
    pure = hpctem.open(fill(write_recipe(same), clean, tmp_path / "pure.hdf5", limit=1)).images[:8]
    noise = one - pure
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert abs(np.corrcoef(noise.reshape(8, -1))[np.triu_indices(8, 1)]).max() < 0.08
    assert abs(np.corrcoef(noise.ravel(), (seeded - pure).ravel())[0, 1]) < 0.03
    drawn = Streams(3)("translate/noise", 5).normal(0.0, 0.05, (PATCH, PATCH)).astype(np.float32)
    assert (one[5] == pure[5] + drawn).all()


def test_a_translated_database_is_one_like_any(clean: Path, kept: Path, tmp_path: Path) -> None:
    checked = verify(kept)
    assert checked.complete and checked.outside and not checked.bad
    tiles = hpctem.open(kept)
    few = tiles.where("accepted = 1 and n_w_vacancy > 0 and parent_row < 4")
    assert 0 < len(few) < len(tiles)
    subset = tiles.subset(split={"train": 0.75, "test": 0.25}, seed=1)
    assert len(subset.select("train")) == 24
    tiles.show([0])
    for command in (
        ["info", "kept.hdf5"],
        ["atoms", "kept.hdf5", "3", "-o", str(tmp_path / "atoms.xyz")],
        ["export", "kept.hdf5", "--format", "tiff", "-o", str(tmp_path / "tiff")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "hpctem", *command],
            cwd=kept.parent, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "tiff").rglob("*.tif*"))) >= 32


def test_it_tells_where_it_comes_from(clean: Path, kept: Path) -> None:
    with open_database(clean) as parent, open_database(kept) as database:
        told = json.loads(database.campaign["parent"])
        assert told["plan"] == parent.key.hex()
        assert told["config_hash"] == parent.campaign["config_hash"]
        assert database.campaign["config_hash"] != parent.campaign["config_hash"]
        assert database.campaign["config"] == parent.campaign["config"]
        assert json.loads(database.campaign["translation"])["model"] == "0" * 32
        signal = database.field(database.image_path)
        assert (signal.attributes["low"], signal.attributes["high"]) == (10.0, 50.0)


def interrupted(clean: Path, path: Path, work: Callable[[], object]) -> None:
    """Work in a forked process that kills itself in the middle of its second structure."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_killed_and_run_again_it_is_the_same_file(clean: Path, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.hdf5"
    calls = 0

    def die(tiles: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first is of the plan
            os.kill(os.getpid(), signal.SIGKILL)
        return tiles

    interrupted(clean, path, lambda: fill(write_recipe(die, noise=0.05), clean, path))
    with open_database(path) as database:
        assert database.counts["good"] <= 1 and not database.complete
    fill(write_recipe(same, noise=0.05), clean, path)
    assert path.read_bytes() == kept.read_bytes()


def test_another_recipe_does_not_go_on_with_a_database(clean: Path, kept: Path) -> None:
    before = kept.read_bytes()
    with pytest.raises(DatabaseError, match="noise"):
        fill(write_recipe(same, noise=0.06), clean, kept)
    assert kept.read_bytes() == before


def test_a_generator_that_fails_quarantines_the_structure(clean: Path, tmp_path: Path) -> None:
    calls = 0

    def break_down(tiles: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return tiles * np.float32(np.nan) if calls == 2 else tiles

    path = fill(write_recipe(break_down), clean, tmp_path / "broken.hdf5", limit=2)
    with open_database(path) as database:
        assert [index for index, _ in database.quarantined] == [0]
        assert "NaN" in database.quarantined[0][1]
        assert database.counts["good"] == 1


def test_images_that_do_not_suit_the_model_are_refused(clean: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    recipe, target = write_recipe(same), tmp_path / "new.hdf5"
    with pytest.raises(ConfigError, match="the parent itself"):
        fill(recipe, clean, clean)
    with pytest.raises(ConfigError, match="smaller than the 256 x 256"):
        fill(replace(recipe, patch=256), clean, target)
    with pytest.raises(ConfigError, match="lattices would not be alike"):
        fill(replace(recipe, pixel_sizes=(0.13, 0.14)), clean, target)
    assert not target.exists()


def test_their_own_limits_can_scale_images(clean: Path) -> None:
    images = hpctem.open(clean).images[:]
    how = measure_own(clean, Preparation(scale="group", saturation=2.0))
    assert how.low == pytest.approx(images.mean() - 2 * images.std(), rel=1e-5)
    assert how.high == pytest.approx(images.mean() + 2 * images.std(), rel=1e-5)


def test_no_tensorflow_is_needed_to_plan_and_check() -> None:
    code = (
        "import sys; from hpctem.learning.translation import fidelity, tiles, translate, outcome;"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
