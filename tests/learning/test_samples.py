"""Which images are learnt from: rows, parts, squares, their order, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from drawn_images import Drawn, make_images

from hpctem.collection.collection import open_collection
from hpctem.database.rows import OpenFile
from hpctem.errors import ConfigError, DatabaseError
from hpctem.learning.data.order import number_positions, order, steps_per_epoch
from hpctem.learning.data.preparation import Prepare, prepare, prepare_row
from hpctem.learning.data.samples import Samples, open_sources
from hpctem.learning.data.windows import find_window

DRAWN = Drawn(shape=(20, 24), structures=12, each=4)
Write = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases: one; large, of other images of another shape; translated, a third rejected."""
    folder = tmp_path_factory.mktemp("samples")
    make_images(folder / "one.hdf5", DRAWN)
    make_images(folder / "large.hdf5", Drawn(shape=(40, 32), seed=2, pixel_size=0.3))
    make_images(folder / "translated.hdf5", Drawn(shape=(20, 24), seed=3, accepted=True))
    make_images(folder / "median.hdf5", Drawn(shape=(20, 24), seed=4, median="view"))
    return folder


@pytest.fixture
def training(folder: Path, write_training: Write) -> Callable[..., tuple[Samples, Samples | None]]:
    """`training("one", "large", patch=16)`: the samples of a training file on these databases."""

    def open_named(*names: str, **data: Any) -> tuple[Samples, Samples | None]:
        databases = [str(folder / f"{name}.hdf5") for name in names]
        return open_sources(write_training(data={"databases": databases} | data))

    return open_named


def rows_of(samples: Samples) -> set[tuple[str, int]]:
    images = samples.collection
    return {
        (images.databases[source].path.name, int(row))
        for source, row in zip(images.sources, images.rows, strict=True)
    }


def structures_of(samples: Samples, each: int = DRAWN.each) -> set[tuple[str, int]]:
    return {(name, row // each) for name, row in rows_of(samples)}


def test_parts_share_no_structure_and_hold_every_image(training: Callable) -> None:
    learnt, held = training("one", validation=0.25)
    assert not structures_of(learnt) & structures_of(held)
    assert len(rows_of(learnt) | rows_of(held)) == len(learnt) + len(held) == 48
    assert len(held) == 12
    assert learnt.classes.names == ("particle",) and held.prepare == learnt.prepare


def test_nothing_is_held_out_when_asked(training: Callable) -> None:
    learnt, held = training("one", validation=0)
    assert held is None and len(learnt) == 48


def test_a_condition_and_a_number_choose_images(training: Callable) -> None:
    learnt, held = training("one", "large", where="row < 8", patch=16)
    assert {row for _, row in rows_of(learnt) | rows_of(held)} == set(range(8))
    learnt, held = training("one", most=20)
    assert len(learnt) + len(held) == 20 and not structures_of(learnt) & structures_of(held)
    assert training("one", most=20)[0].digest == learnt.digest


def test_another_seed_draws_other_images(folder: Path, write_training: Write) -> None:
    data = {"databases": [str(folder / "one.hdf5")], "most": 20}
    drawn = []
    for seed in (1, 2, 1):
        about = {"name": "small", "kind": "segmentation", "seed": seed}
        drawn.append(rows_of(open_sources(write_training(data=data, training=about))[0]))
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_subset_gives_its_parts(folder: Path, training: Callable) -> None:
    with open_collection(folder / "one.hdf5") as images:
        subset = images.subset(split="train=0.5,validation=0.25,test=0.25", draws=2, seed=3)
        subset.write(folder / "parts.json")
        expected = {part: set(subset.rows(part, 1)[0].tolist()) for part in subset.parts}
    named = {"subset": str(folder / "parts.json"), "draw": 1}
    learnt, held = training(**named)
    assert {row for _, row in rows_of(learnt)} == expected["train"]
    assert {row for _, row in rows_of(held)} == expected["validation"]
    _, held = training("one", **named, validation_part="test")
    assert {row for _, row in rows_of(held)} == expected["test"]
    learnt, held = training(**named, most=10)
    assert {row for _, row in rows_of(learnt)} < expected["train"]
    assert {row for _, row in rows_of(held)} < expected["validation"]
    assert len(learnt) + len(held) == 10
    with pytest.raises(ConfigError, match="there is no part 'tests', perhaps 'test'"):
        training(**named, validation_part="tests")
    with pytest.raises(ConfigError, match="are both 'train'"):
        training(**named, validation_part="train")
    with pytest.raises(ConfigError, match="there is no draw 2"):
        training(subset=str(folder / "parts.json"), draw=2)


def test_a_subset_of_another_database_is_refused(folder: Path, training: Callable) -> None:
    with open_collection(folder / "one.hdf5") as images:
        images.subset(split="train=0.75,validation=0.25").write(folder / "of_one.json")
    with pytest.raises(DatabaseError, match=r"was drawn from another database than .*large\.hdf5"):
        training("large", subset=str(folder / "of_one.json"))


def test_rows_that_are_gone_are_refused(
    tmp_path: Path, folder: Path, write_training: Write
) -> None:
    """The subset names rows that the database, computed anew, holds no longer or otherwise."""
    path = make_images(tmp_path / "gone.hdf5", DRAWN)
    with open_collection(path) as images:
        images.subset(split="train=0.75,validation=0.25").write(tmp_path / "gone.json")
    file = write_training(data={"subset": str(tmp_path / "gone.json")})
    assert len(open_sources(file)[0]) == 36
    shutil.move(path, tmp_path / "kept.hdf5")
    with pytest.raises(DatabaseError, match="which is not at"):
        open_sources(file)
    shutil.rmtree(next(p for p in tmp_path.iterdir() if p.is_dir() and "gone" in p.name))
    make_images(path, replace(DRAWN, bad=(7,)))
    with pytest.raises(DatabaseError, match=r"structure 7.*quarantined: structure 7 is bad"):
        open_sources(file)
    shutil.copy(tmp_path / "kept.hdf5", path)
    with h5py.File(path, "r+") as damaged:
        damaged["/entry/digests/images"][5] += 1
    with pytest.raises(DatabaseError, match="are not what they were"):
        open_sources(file)


def test_rejected_images_of_a_translated_database_are_left_out(training: Callable) -> None:
    learnt, held = training("translated", "one", validation=0.5)
    rows = rows_of(learnt) | rows_of(held)
    kept = {row for name, row in rows if name == "translated.hdf5"}
    assert kept == {row for row in range(18) if row % 3}
    assert len(rows) == 12 + 48
    assert learnt.rejected == 6 and training("one")[0].rejected == 0
    with pytest.raises(ConfigError, match="none of 6 translated images was accepted"):
        training("translated", where="row % 3 = 0")


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        (("one", "large"), {}, r"20 x 24 .* and 40 x 32 px .*give data\.patch, .* at most 20 px"),
        (("one", "large"), {"patch": 24}, r"data\.patch: 24 px do not fit in .*one\.hdf5.*most 20"),
        (("one",), {"patches_per_image": 3}, r"data\.patches_per_image: 3 of whole images"),
        (("one",), {"where": "row > 1000"}, "where: no image fulfils"),
        (("one",), {"where": "rov > 1"}, r"'?rov'?.*nearest: row"),
        (("one",), {"validation": 1}, "leaves nothing to learn from"),
        (("one",), {"where": "row < 3"}, r"1 structures cannot be .*'validation: 0'"),
        (("one",), {"most": 1, "patch": 16}, "cannot be divided"),
        (("one", "median"), {}, r"median\.hdf5 are looked at through.*'median: true'"),
        (("one", "one"), {}, "named twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused(
    training: Callable, names: tuple[str, ...], data: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        training(*names, **data)


def test_missing_labels_are_refused(folder: Path, write_training: Write) -> None:
    data = {"databases": [str(folder / "one.hdf5")]}
    target = {"classes": {"vacancy": "Se_vacancy"}}
    with pytest.raises(ConfigError, match=r"holds no label 'Se_vacancy'.*instances, atoms"):
        open_sources(write_training(data=data, target=target))


def test_a_missing_database_is_an_error_of_one_sentence(write_training: Write) -> None:
    with pytest.raises(DatabaseError, match=r"gone\.hdf5"):
        open_sources(write_training(data={"databases": ["gone.hdf5"]}))


def test_a_view_of_the_campaign_is_what_networks_see(training: Callable) -> None:
    assert training("median")[0].prepare.median
    assert not training("one")[0].prepare.median
    mixed, _ = training("one", "median", preparation={"median": True})
    assert mixed.prepare.median


def test_a_group_is_measured_on_what_is_learnt_from(training: Callable) -> None:
    learnt, held = training("one", preparation={"scale": "group", "saturation": 2})
    pixels = np.concatenate([learnt.collection.images[:].ravel()]).astype(float)
    assert learnt.prepare.low == pytest.approx(pixels.mean() - 2 * pixels.std(), rel=1e-12)
    assert held.prepare == learnt.prepare


def test_samples_tell_sizes_and_digest(training: Callable) -> None:
    learnt, held = training("one", "large", patch=16, patches_per_image=5)
    assert learnt.pixel_sizes == (0.2, 0.3)
    assert learnt.shape == (16, 16) and learnt.room == (20, 24)
    assert len(learnt) == 5 * len(learnt.collection)
    digests = {learnt.digest, held.digest, training("one")[0].digest}
    assert len(digests) == 3 and all(len(bytes.fromhex(d)) == 16 for d in digests)


def test_the_digest_tells_rows_that_were_computed_otherwise(tmp_path: Path) -> None:
    path = make_images(tmp_path / "one.hdf5", DRAWN)
    found = []
    for _ in range(2):
        with open_collection(path) as images:
            some = images.take([3, 9]), images.take([3, 10])
            found += [Samples(rows, None, Prepare(False, "image"), 8, 1, 0).digest for rows in some]
        with h5py.File(path, "r+") as changed:
            changed["/entry/digests/images"][9] += 1
    assert found[0] != found[1] == found[3] != found[2] != found[0]


def test_a_cyclegan_learns_from_images_alone(folder: Path, write_training: Write) -> None:
    simulation = {"databases": [str(folder / "large.hdf5")], "patch": 16}
    file = write_training(
        "cyclegan",
        simulation=simulation | {"preparation": {"scale": "group"}},
        experiment={"images": ["a.npy"]},
        generator={"levels": 3},
    )
    learnt, held = open_sources(file)
    assert learnt.classes is None and len(learnt) + len(held) == 18
    images, classes = learnt.cut(np.array([0]), np.zeros((1, 2), np.uint64), (16, 16))
    assert classes is None and images.min() >= -1 and images.max() <= 1


def test_squares_are_cut_from_image_and_label_at_one_place(training: Callable) -> None:
    """Scaled by the whole image; the pixels of a drawn image say where they lie."""
    learnt, _ = training("one", patch=8, patches_per_image=3)
    bits = np.random.default_rng(1).integers(0, 2**63, (6, 2), np.uint64) * np.uint64(2)
    numbers = np.array([7, 0, 8, 100, 2, 0])
    images, classes = learnt.cut(numbers, bits, (8, 8))
    assert images.dtype == np.float32 and classes.dtype == np.uint8
    for number, (y, x), image, truth in zip(numbers, bits.tolist(), images, classes, strict=True):
        whole = DRAWN.numbers(int(learnt.collection.rows[number // 3]))
        window = whole[y % 13 : y % 13 + 8, x % 17 : x % 17 + 8]
        assert np.allclose(image, (window - whole.min()) / (whole.max() - whole.min()), atol=2e-7)
        assert np.array_equal(truth, window % 3 > 0)


def test_an_image_is_read_once_for_all_its_squares(
    training: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpctem.learning.data import samples

    learnt, _ = training("one", patch=8, patches_per_image=4)
    read, asked = samples.filter_row, []
    monkeypatch.setattr(samples, "filter_row", lambda c, p, how: asked.append(p) or read(c, p, how))
    learnt.cut(np.array([1, 8, 3, 0, 9]), np.zeros((5, 2), np.uint64), (8, 8))
    assert asked == [0, 2]


@pytest.mark.parametrize("scale", ["image", "group"])
@pytest.mark.parametrize("name", ["one", "median"])
def test_squares_are_read_by_their_windows_alone(
    training: Callable, monkeypatch: pytest.MonkeyPatch, name: str, scale: str
) -> None:
    """They are those of the whole prepared images, in corners, within, also two of an image."""
    learnt, _ = training(name, patch=8, patches_per_image=2, preparation={"scale": scale})
    reach = 2**64 - 2**64 % (13 * 17) - 1  # the last place along both axes
    bits = np.array([[0, 0], [reach, reach], [6, 9], [5, 3], [7, 100]], np.uint64)
    numbers = np.array([0, 1, 4, 9, 20])
    read, asked = OpenFile.read, []

    def note(self: OpenFile, values: np.ndarray, place: int) -> None:
        asked.append(values.nbytes)
        read(self, values, place)

    monkeypatch.setattr(OpenFile, "read", note)
    for turn in (1, 2):
        asked.clear()
        images, classes = learnt.cut(numbers, bits, (8, 8))
        # Of the image with squares in opposite corners all 20 lines, of the others 8, and for a
        # median one more on each side; labels as many, of one byte a pixel.
        lines = np.array([20, 8, 8, 8])
        more = 2 * np.array([0, 1, 1, 1]) if learnt.prepare.median else 0
        if scale == "group" or turn == 2:
            assert sum(asked) == 24 * (2 * (lines + more) + lines).sum()
        for k, (number, image) in enumerate(zip(numbers // 2, images, strict=True)):
            window = find_window((20, 24), (8, 8), bits[k])
            whole = prepare_row(learnt.collection, int(number), learnt.prepare)
            assert np.array_equal(image, whole[window])
            truth = learnt.classes.read(learnt.collection, [int(number)])[0]
            assert np.array_equal(classes[k], truth[window])


def test_an_image_that_holds_no_number_is_not_taken_for_an_empty_one() -> None:
    """So that it ends a training instead of being learnt from as background."""
    image = np.arange(12.0).reshape(3, 4)
    for lost in (np.nan, np.inf):
        image[1, 2] = lost
        assert not np.isfinite(prepare(image, Prepare(False, "image"))).all()
    image[1, 2] = np.nan
    assert np.isnan(prepare(image, Prepare(False, "group", 0.0, 11.0))).sum() == 1
    assert (prepare(np.full((3, 4), 7), Prepare(False, "image")) == 0).all()


def test_windows_reach_every_place_equally() -> None:
    random = np.random.default_rng(5)
    found = np.zeros((6, 4))
    for _ in range(2400):
        y, x = find_window((15, 13), (10, 10), random.integers(0, 2**64, 2, np.uint64))
        assert y.stop - y.start == x.stop - x.start == 10
        found[y.start, x.start] += 1
    expected = 2400 / found.size
    chi = ((found - expected) ** 2 / expected).sum()
    assert chi < 23 + 5 * np.sqrt(2 * 23)  # 23 degrees of freedom


def test_an_order_has_every_sample_once_and_differs_each_time() -> None:
    orders = [order(1000, *key) for key in ((1, 0), (1, 1), (2, 0), (1, 0, 1))]
    for one in orders:
        assert one.dtype == np.int64 and np.array_equal(np.sort(one), np.arange(1000))
    assert np.array_equal(order(1000, 1, 0), orders[0])
    for k, one in enumerate(orders):
        for other in orders[k + 1 :]:
            # Of two random permutations a thousandth agrees: one on average.
            assert (one == other).sum() < 10
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 0.15


def test_positions_beyond_the_samples_begin_again() -> None:
    numbers = number_positions(np.arange(25), 10, 3, 4)
    assert np.array_equal(numbers[:10], order(10, 3, 4))
    assert np.array_equal(numbers[10:20], order(10, 3, 4, 1))
    assert np.array_equal(numbers[20:], order(10, 3, 4, 2)[:5])
    some = np.array([23, 1, 12])
    assert np.array_equal(number_positions(some, 10, 3, 4), numbers[some])


def test_steps_are_equal_and_too_few_samples_are_refused(training: Callable) -> None:
    learnt, _ = training("one", validation=0)
    assert [steps_per_epoch(learnt, 5, size) for size in (1, 2, 3)] == [9, 4, 3]
    with pytest.raises(ConfigError, match=r"48 samples do not fill one step of 20 .* 3 ranks, 60"):
        steps_per_epoch(learnt, 20, 3)


def test_files_are_named_from_the_training_file(folder: Path, tmp_path: Path) -> None:
    from hpctem.learning.training_file import read_training

    content = {
        "training": {"name": "small", "kind": "segmentation"},
        "data": {"databases": ["one.hdf5"]},
        "target": {"classes": {"particle": "instances"}},
        "network": {"name": "residual_unet"},
        "schedule": {"epochs": 1, "batch": 1},
    }
    (folder / "here.yaml").write_text(json.dumps(content))
    assert len(open_sources(read_training(folder / "here.yaml", "segmentation"))[0]) == 36
