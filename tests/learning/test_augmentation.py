"""Images and classes varied alike: geometry, values, and that seeds alone decide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, stats

from hpctem.errors import ConfigError
from hpctem.learning.data.augmentation import DRAWN, add_noise, augment
from hpctem.sections.training import Augmentation

NONE = Augmentation(rotations=False, flips=False)


def make_seeds(count: int, first: int = 0) -> np.ndarray:
    """Seeds as random as those of a feed."""
    random = np.random.Generator(np.random.Philox(first))
    return random.integers(-(2**31), 2**31, (count, 2), np.int32)


def vary(
    images: np.ndarray, section: Augmentation, classes: np.ndarray | None = None, **how
) -> tuple[np.ndarray, np.ndarray | None]:
    """In a graph, as a feed does it."""
    varied, truth = tf.function(lambda *given: augment(*given, section, **how))(
        tf.constant(images[..., np.newaxis], tf.float32),
        None if classes is None else tf.constant(classes),
        tf.constant(make_seeds(len(images))),
    )
    return varied.numpy()[..., 0], None if truth is None else truth.numpy()


def name_symmetry(image: np.ndarray, varied: np.ndarray) -> int:
    """Which of the eight symmetries of a square it is: quarter turns, + 4 when mirrored."""
    both = itertools.product((image, image[:, ::-1]), range(4))
    return [np.array_equal(np.rot90(one, k), varied) for one, k in both].index(True)


@pytest.mark.parametrize(
    ("rotations", "flips", "allowed"),
    [
        (True, True, range(8)),
        (True, False, range(4)),
        # A mirror, another, both (half a turn), none.
        (False, True, (0, 2, 4, 6)),
        (False, False, (0,)),
    ],
)
def test_the_symmetries_allowed_are_equally_likely(
    rotations: bool, flips: bool, allowed: range
) -> None:
    image = np.arange(9.0).reshape(3, 3)
    count = 1600
    section = Augmentation(rotations=rotations, flips=flips)
    varied, _ = vary(np.repeat(image[np.newaxis], count, axis=0), section)
    found = np.bincount([name_symmetry(image, one) for one in varied], minlength=8)
    assert set(np.flatnonzero(found)) == set(allowed)
    if len(allowed) > 1:
        assert stats.chisquare(found[list(allowed)]).pvalue > 1e-3


def test_images_and_classes_turn_alike() -> None:
    random = np.random.default_rng(1)
    classes = random.integers(0, 251, (64, 7, 7), np.uint8)
    images, truth = vary(classes / 250.0, Augmentation(), classes)
    assert truth.dtype == np.uint8
    assert np.array_equal(np.round(images * 250), truth)
    assert not np.array_equal(truth, classes)


def smooth_images(count: int, side: int) -> np.ndarray:
    """Waves of at least 12 pixels, values about 0...1, slopes below 0.3 per pixel."""
    random = np.random.default_rng(2)
    noise = random.normal(size=(count, side, side))
    images = ndimage.gaussian_filter(noise, (0, 3, 3), mode="wrap")
    images = 0.5 + 0.2 * images / images.std()
    slopes = np.hypot(*np.gradient(images, axis=(1, 2)))
    assert slopes.max() < 0.3
    return images


def test_images_and_classes_keep_together_through_everything() -> None:
    """The classes of a varied image are where the varied image is above the threshold.

    Values between pixels are linear, classes those of the nearest pixel, at most 0.71 px away: they
    agree wherever the image differs from the threshold by more than 0.71 px of its slope.
    """
    images = smooth_images(40, 48)
    section = Augmentation(scaling=0.3)
    varied, truth = vary(images, section, (images > 0.5).astype(np.uint8), shape=(32, 32))
    far = np.abs(varied - 0.5) > 0.71 * 0.3
    assert far.mean() > 0.2
    assert np.array_equal(truth[far], (varied > 0.5)[far])
    # Nearer to it, a shift of the classes by one pixel would be seen.
    seen = varied > 0.5
    shifted = [np.roll(truth, shift, axis) != seen for shift in (-1, 1) for axis in (1, 2)]
    least = min(one[:, 1:-1, 1:-1].mean() for one in shifted)
    assert (truth != seen).mean() < 0.5 * least


def test_a_size_is_about_the_middle_and_as_drawn() -> None:
    """A straight slope stays straight, its steepness says the size: uniform within its bounds."""
    y, x = np.mgrid[:33, :41].astype(float)
    slope = np.repeat((y + 100 * x)[np.newaxis], 400, axis=0)
    section = Augmentation(rotations=False, flips=False, scaling=0.2)
    varied, _ = vary(slope, section, shape=(21, 25))
    steps = varied[:, 10, 13] - varied[:, 10, 12]
    assert np.allclose(varied[:, 10, 12], 16 + 100 * 20, atol=0.01)
    assert np.allclose(np.diff(varied, axis=2), steps[:, np.newaxis, np.newaxis], atol=0.02)
    rows = np.diff(varied, axis=1)
    assert np.allclose(rows, steps[:, np.newaxis, np.newaxis] / 100, atol=0.02)
    sizes = 100 / steps
    assert stats.kstest(sizes, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3


def test_beyond_its_edges_an_image_is_reflected() -> None:
    """Shown smaller than what is there: values continue mirrored at the outer pixels' edges."""
    row = np.arange(16.0)
    images = np.repeat(np.tile(row, (16, 1))[np.newaxis], 100, axis=0)
    section = Augmentation(rotations=False, flips=False, scaling=0.4)
    varied, _ = vary(images, section)
    sizes = 1 / (varied[:, 8, 8] - varied[:, 8, 7])
    for size, one in zip(sizes, varied, strict=True):
        place = (np.arange(16) - 7.5) / size + 7.5
        expected = ndimage.map_coordinates(row, [place], order=1, mode="reflect")
        assert np.allclose(one, np.tile(expected, (16, 1)), atol=1e-4)
    assert sizes.min() < 0.7


def test_without_scaling_the_middle_is_given_back() -> None:
    images = np.random.default_rng(3).random((2, 12, 14))
    varied, _ = vary(images, NONE, shape=(8, 8))
    assert np.array_equal(varied, images[:, 2:10, 3:11].astype(np.float32))


@pytest.mark.parametrize("span", [1.0, 2.0])
def test_brightness_is_added_in_shares_of_the_range(span: float) -> None:
    images = np.repeat(np.random.default_rng(4).random((1, 4, 4)), 500, axis=0)
    section = NONE.model_copy(update={"brightness": 0.3})
    varied, _ = vary(images, section, span=span)
    added = varied - images
    assert np.allclose(added, added[:, :1, :1], atol=1e-6)
    limits = stats.uniform(-0.3 * span, 0.6 * span)
    assert stats.kstest(added[:, 0, 0], limits.cdf).pvalue > 1e-3


def test_contrast_is_about_the_mean_of_each_image() -> None:
    images = (
        np.random.default_rng(5).random((500, 6, 6)) + np.arange(500)[:, np.newaxis, np.newaxis]
    )
    varied, _ = vary(images, NONE.model_copy(update={"contrast": 0.4}))
    means = images.mean(axis=(1, 2))
    assert np.allclose(varied.mean(axis=(1, 2)), means, atol=1e-4)
    factors = varied.std(axis=(1, 2)) / images.std(axis=(1, 2))
    parts = (varied - means[:, np.newaxis, np.newaxis]) / factors[:, np.newaxis, np.newaxis]
    assert np.allclose(parts, images - means[:, np.newaxis, np.newaxis], atol=2e-3)
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3


def test_noise_is_normal_and_of_each_pixel_alone() -> None:
    images = np.full((64, 32, 32), 0.5)
    varied, _ = vary(images, NONE.model_copy(update={"noise": 0.1}))
    noise = (varied - images) / 0.1
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    flat = noise.reshape(64, -1)
    correlation = np.corrcoef(flat)[np.triu_indices(64, 1)]
    assert np.abs(correlation).max() < 6 / np.sqrt(flat.shape[1])
    for shift in ((0, 1), (1, 0)):
        neighbours = np.roll(noise, shift, axis=(1, 2))
        assert abs((noise * neighbours).mean()) < 5 / np.sqrt(noise.size)


def test_what_is_drawn_for_a_sample_is_independent() -> None:
    """The numbers that decide and the noise, of the same two seeds."""

    @tf.function
    def draw(seeds: tf.Tensor) -> tf.Tensor:
        def one(seed: tf.Tensor) -> tf.Tensor:
            noise = add_noise(tf.zeros(6), seed, 1.0)
            return tf.concat([tf.random.stateless_uniform([DRAWN], seed), noise], 0)

        return tf.map_fn(one, seeds, fn_output_signature=tf.float32)

    drawn = draw(tf.constant(make_seeds(3000))).numpy()
    correlation = np.corrcoef(drawn.T)[np.triu_indices(DRAWN + 6, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(3000)


def test_seeds_alone_decide() -> None:
    """The same sample beside others, at another place, in a graph or not."""
    section = Augmentation(scaling=0.2, brightness=0.1, contrast=0.2, noise=0.1)
    images = tf.constant(np.random.default_rng(6).random((6, 16, 16, 1)), tf.float32)
    classes = tf.constant(np.random.default_rng(7).integers(0, 3, (6, 16, 16), np.uint8))
    seeds = tf.constant(make_seeds(6))

    @tf.function(reduce_retracing=True)
    def run(images, classes, seeds):
        return augment(images, classes, seeds, section, shape=(12, 12))

    together = run(images, classes, seeds)
    for k in range(6):
        place = [k, (k + 1) % 6]
        beside = run(*(tf.gather(v, place) for v in (images, classes, seeds)))
        for one, other in zip(together, beside, strict=True):
            assert np.array_equal(one[k], other[0])
    at_once = augment(images, classes, seeds, section, shape=(12, 12))
    # A graph may join a product and a sum to one operation.
    assert np.allclose(together[0], at_once[0], atol=3e-7)
    assert np.array_equal(together[1], at_once[1])
    others = run(images, classes, seeds + 1)
    assert not np.isclose(others[0], together[0]).all(axis=(1, 2, 3)).any()


def test_classes_are_untouched_by_values() -> None:
    section = NONE.model_copy(update={"brightness": 0.3, "contrast": 0.3, "noise": 0.3})
    classes = np.random.default_rng(8).integers(0, 3, (4, 8, 8), np.uint8)
    _, truth = vary(np.zeros((4, 8, 8)), section, classes)
    assert np.array_equal(truth, classes)


def test_what_cannot_be_done_is_refused() -> None:
    images = np.zeros((2, 8, 10))
    with pytest.raises(ConfigError, match=r"augmentation\.rotations: images of 8 x 10 px"):
        vary(images, Augmentation(flips=False))
    vary(images, Augmentation(rotations=False))
    with pytest.raises(ConfigError, match=r"augmentation\.scaling: 0\.95"):
        vary(images, NONE.model_copy(update={"scaling": 0.95}))
