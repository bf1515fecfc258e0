"""Batches in one global order: at any prefetch, thread setting, world size, and taken up again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from drawn_images import Drawn, make_images

from hpctem.collection.collection import open_collection
from hpctem.errors import ConfigError, DatabaseError
from hpctem.learning.data.feed import (
    count_readers,
    feed,
    feed_validation,
    reading,
    tell_failure,
    widen,
)
from hpctem.learning.data.order import order, steps_per_epoch
from hpctem.learning.data.patches import Patches, read_experiment
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.data.samples import Samples
from hpctem.learning.data.targets import Classes
from hpctem.parallel import Communicator
from hpctem.sections.training import Augmentation, Experiment

EVERYTHING = Augmentation(scaling=0.2, brightness=0.1, contrast=0.2, noise=0.05)
NOTHING = Augmentation(rotations=False, flips=False)
DRAWN = Drawn(shape=(24, 28), structures=10, each=4)
# Of one range for all, so that pixels still say which image they are of.
GROUP = Prepare(False, "group", 0.0, 2.0**16)
PARTICLES = Classes(("particle",), (("instances",),))
Batch = tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("feed") / "drawn.hdf5", DRAWN)


@pytest.fixture(scope="module")
def squares(path: Path) -> Iterator[Samples]:
    """80 samples of 16 x 16 px: two squares of each of 40 images."""
    with open_collection(path) as images:
        yield Samples(images, PARTICLES, GROUP, 16, 2, 9)


@pytest.fixture(scope="module")
def wholes(path: Path) -> Iterator[Samples]:
    """40 whole images as they are: the first pixel says which."""
    with open_collection(path) as images:
        yield Samples(images, PARTICLES, GROUP, None, 1, 9)


def run(samples: Samples | Patches, section: Augmentation = EVERYTHING, **options) -> list[Batch]:
    """All batches of one rank as arrays."""
    given = {"epoch": 3, "steps": 6, "batch": 4} | options
    batches = feed(samples, section, **given)
    return [tuple(v.numpy() for v in (b if isinstance(b, tuple) else (b,))) for b in batches]


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def image_numbers(batches: list[Batch]) -> list[int]:
    """Which images of the drawn database whole, unvaried batches hold."""
    first = np.concatenate([batch[0][:, 0, 0, 0] for batch in batches])
    return np.round((first + 1) * 2**15 / (24 * 28)).astype(int).tolist()


def test_batches_have_their_shapes_and_types(squares: Samples) -> None:
    dataset = feed(squares, EVERYTHING, epoch=0, steps=2, batch=4)
    images, classes = dataset.element_spec
    assert images == tf.TensorSpec((4, 16, 16, 1), tf.float32)
    assert classes == tf.TensorSpec((4, 16, 16), tf.uint8)


@pytest.mark.parametrize("prefetch", [0, 1, 7])
def test_the_sequence_is_the_same_at_any_prefetch(squares: Samples, prefetch: int) -> None:
    assert same(run(squares), run(squares, prefetch=prefetch))


def test_an_epoch_is_taken_up_at_any_step(squares: Samples) -> None:
    whole = run(squares)
    for first in (1, 4, 6):
        assert same(whole[first:], run(squares, first_step=first))


def test_epochs_follow_each_other_in_one_pipeline(squares: Samples, wholes: Samples) -> None:
    """The same batches as of pipelines of their own, at any number of readers."""
    apart = [batch for epoch in (3, 4, 5) for batch in run(squares, epoch=epoch)]
    assert same(apart[2:], run(squares, epochs=3, first_step=2, readers=7))
    assert same(apart, run(squares, epochs=3, prefetch=0))
    plain = run(wholes, NOTHING, batch=20, steps=2, epochs=2, shuffle=False)
    assert image_numbers(plain) == [*range(40), *range(40)]


def test_readers_are_as_many_as_a_rank_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks that may all use the same cores have a quarter of them each."""

    class Node(Communicator):
        def allgather(self, value: object) -> list[object]:
            return [value] * 4

    found = []
    for cores in (1, 2, 12, 32, 256):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        found.append((count_readers(Communicator()), count_readers(Node())))
    assert found == [(4, 4), (4, 4), (12, 4), (16, 8), (16, 16)]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_take_their_blocks_of_one_global_order(squares: Samples, size: int) -> None:
    """A step of several ranks has the samples of one rank with the batch of all, varied alike."""
    alone = run(squares, batch=12, steps=6)
    ranks = [run(squares, batch=12 // size, rank=r, size=size, steps=6) for r in range(size)]
    for step, batch in enumerate(alone):
        for part, whole in enumerate(batch):
            assert np.array_equal(np.concatenate([own[step][part] for own in ranks]), whole)


def test_an_epoch_has_every_sample_once_in_its_order(wholes: Samples) -> None:
    seen = [run(wholes, NOTHING, batch=5, rank=r, size=2, steps=4) for r in range(2)]
    found = [image_numbers(own) for own in seen]
    steps = [found[r][5 * s : 5 * s + 5] for s in range(4) for r in range(2)]
    assert np.concatenate(steps).tolist() == order(40, 9, 3).tolist()
    unshuffled = run(wholes, NOTHING, batch=5, steps=8, shuffle=False)
    assert image_numbers(unshuffled) == list(range(40))


def test_what_fills_no_step_is_left_for_another_epoch(wholes: Samples) -> None:
    """Equal steps on every rank; which samples are left differs between epochs."""
    steps = steps_per_epoch(wholes, 3, 4)
    assert steps == 3
    left = []
    for epoch in range(3):
        seen: set[int] = set()
        for rank in range(4):
            batches = run(wholes, NOTHING, batch=3, rank=rank, size=4, steps=steps, epoch=epoch)
            assert len(batches) == steps
            seen |= set(image_numbers(batches))
        assert len(seen) == 36
        left.append(frozenset(range(40)) - seen)
    assert len(set(left)) == 3


def test_epochs_and_seeds_differ(squares: Samples) -> None:
    first = run(squares, steps=2)
    assert not same(first, run(squares, steps=2, epoch=4))
    other = Samples(squares.collection, PARTICLES, squares.prepare, 16, 2, seed=10)
    assert not same(first, run(other, steps=2))


def test_more_steps_than_samples_begin_again(wholes: Samples) -> None:
    found = image_numbers(run(wholes, NOTHING, batch=8, steps=12))
    assert found == [*order(40, 9, 3), *order(40, 9, 3, 1), *order(40, 9, 3, 2)[:16]]


def test_images_and_classes_are_of_one_place(path: Path) -> None:
    """Through order, squares and symmetries: pixels say where they are and what they are."""
    with open_collection(path) as images:
        samples = Samples(images, PARTICLES, GROUP, 16, 2, 9)
        batches = run(samples, Augmentation(), batch=8, steps=10)
    for seen, truth in batches:
        numbers = np.round((seen[..., 0].astype(float) + 1) * 2**15)
        assert np.array_equal(truth, numbers % 3 > 0)
    least = [image.min() for seen, _ in batches for image in seen]
    assert len(set(least)) > 60  # of 80 squares: where they lie differs


def test_squares_shown_smaller_show_what_lies_around_them(path: Path) -> None:
    """A straight slope stays straight to the edges: nothing is reflected where there is room."""
    assert widen((16, 16), (24, 28), 0.2) == (20, 20)
    assert widen((16, 16), (17, 28), 0.2) == (16, 20)
    assert widen((16, 16), (16, 16), 0.9) == (16, 16)
    with open_collection(path) as images:
        samples = Samples(images, None, GROUP, 16, 1, 9)
        section = Augmentation(rotations=False, flips=False, scaling=0.2)
        for (seen,) in run(samples, section, batch=8, steps=3):
            steps = np.diff(seen[..., 0], axis=2)
            assert np.allclose(steps, steps[:, :1, :1], atol=2e-7)


def test_images_alone_are_fed_where_there_are_no_classes(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.random.default_rng(1).normal(size=(40, 64)))
    patches = read_experiment(
        Experiment(images=("one.npy",)), lambda name: tmp_path / name, 16, seed=9
    )
    alone = run(patches, EVERYTHING, batch=6, steps=4)
    assert [batch[0].shape for batch in alone] == [(6, 16, 16, 1)] * 4
    assert same(alone[2:], run(patches, EVERYTHING, batch=6, steps=4, first_step=2, prefetch=1))
    ranks = [run(patches, EVERYTHING, batch=3, steps=4, rank=r, size=2) for r in range(2)]
    for step, (images,) in enumerate(alone):
        assert np.array_equal(np.concatenate([own[step][0] for own in ranks]), images)
    # 24 squares of an image with room for 8: each is cut somewhere else.
    plain = np.concatenate([batch[0] for batch in run(patches, NOTHING, batch=6, steps=4)])
    assert len(np.unique(plain.reshape(24, -1), axis=0)) == 24


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("batch", [1, 16])
def test_validation_sees_each_sample_once(wholes: Samples, size: int, batch: int) -> None:
    found, lengths = [], []
    for rank in range(size):
        batches = list(feed_validation(wholes, batch, rank, size))
        arrays = [tuple(v.numpy() for v in pair) for pair in batches]
        found += image_numbers(arrays) if arrays else []
        lengths.append([len(pair[0]) for pair in arrays])
    assert sorted(found) == list(range(40))
    full = 40 // (batch * size)
    for own in lengths:
        assert own[:full] == [batch] * full and len(own) <= full + 1
        assert all(0 < n <= batch for n in own)
    rest = [sum(own[full:]) for own in lengths]
    assert max(rest) - min(rest) <= 1


def test_validation_is_the_same_every_time(squares: Samples) -> None:
    """Unvaried, its squares in their places; also at another number of ranks."""
    once = np.concatenate([images.numpy() for images, _ in feed_validation(squares, 8)])
    again = np.concatenate(
        [images.numpy() for images, _ in feed_validation(squares, 8, prefetch=0)]
    )
    assert np.array_equal(once, again)
    ranks = [[i.numpy() for i, _ in feed_validation(squares, 4, rank, 2)] for rank in range(2)]
    joined = np.concatenate([np.concatenate(pair) for pair in zip(*ranks, strict=True)])
    assert np.array_equal(once, joined)
    # Two squares of an image are not the same one.
    assert sum(not np.array_equal(a, b) for a, b in zip(once[::2], once[1::2], strict=True)) > 30


PRINT_DIGEST = """
import hashlib, sys
from pathlib import Path
sys.path += [sys.argv[1], sys.argv[2]]
import test_feed as t
with t.open_collection(Path(sys.argv[3])) as images:
    samples = t.Samples(images, t.PARTICLES, t.GROUP, 16, 2, 9)
    print("digest", t.digest(t.run(samples, prefetch=int(sys.argv[4]))))
"""


def digest(batches: list[Batch]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for values in batch:
            state.update(values.tobytes())
    return state.hexdigest()


def test_the_sequence_is_the_same_with_more_threads(squares: Samples, path: Path) -> None:
    here = Path(__file__).parent
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "4", "TF_NUM_INTEROP_THREADS": "4"}
    words = [here, here.parent / "unit", path, 6]
    done = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST, *map(str, words)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert f"digest {digest(run(squares))}" in done.stdout, done.stderr


def test_reading_that_fails_is_told(tmp_path: Path) -> None:
    path = make_images(tmp_path / "cut.hdf5", DRAWN)
    with open_collection(path) as images:
        samples = Samples(images, PARTICLES, Prepare(False, "image"), 16, 1, 9)
        batches = iter(feed(samples, NOTHING, epoch=0, steps=100, batch=4, prefetch=1))
        next(batches)
        with path.open("r+b") as file:
            file.truncate(4096)
        with pytest.raises(DatabaseError, match=r"cut\.hdf5 ends before byte") as caught, reading():
            for _ in range(99):
                next(batches)
        assert "\n" not in str(caught.value)
    assert tell_failure(ValueError("something else")) is None
    with pytest.raises(tf.errors.InvalidArgumentError), reading():
        tf.linalg.inv(tf.zeros((2, 2)))  # an error of TensorFlow's own stays what it is


def test_images_that_are_not_square_cannot_be_turned(wholes: Samples) -> None:
    """Said before anything is read, in one sentence."""
    with pytest.raises(ConfigError, match=r"^augmentation.*24 x 28 px cannot be turned.*false'$"):
        feed(wholes, Augmentation(), epoch=0, steps=1, batch=4)


def test_simulated_databases_are_fed(
    small_database: Path, small_scans: Path, write_training: Callable
) -> None:
    """Of both techniques, with their own labels: particles in the one, kinds in the other."""
    from hpctem.learning.data.samples import open_sources

    kinds = ("chalcogen_vacancy", "Mo_on_metal")
    cases = (
        ("segmentation", small_database, {"particle": "instances"}),
        ("defects", small_scans, {kind: kind for kind in kinds}),
    )
    for kind, database, classes in cases:
        file = write_training(
            kind, data={"databases": [str(database)]}, target={"classes": classes}
        )
        learnt, held = open_sources(file)
        assert len(learnt) + len(held) == 32
        seen = run(learnt, Augmentation(), batch=4, steps=len(learnt) // 4)
        images, truth = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        assert images.min() == 0 and images.max() == 1
        with open_collection(database) as stored:
            rows = np.isin(stored.rows, learnt.collection.rows)
            for number, name in enumerate(classes.values(), 1):
                marked = stored.take(rows).label(name)[:] > 0
                assert (truth == number).sum() == marked.sum() > 0
