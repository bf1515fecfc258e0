"""Images as networks see them: scaled one by one or as a group, through the median once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from scipy import ndimage

sys.path.append(str(Path(__file__).parent))

from drawn_images import Drawn, make_images

from hpctem.collection.collection import open_collection
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import (
    Prepare,
    asks_for_median,
    from_dict,
    measure_preparation,
    prepare,
    prepare_row,
)
from hpctem.sections.training import Preparation


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(1).poisson(40.0, (33, 47)).astype(np.uint16)


def scale_exactly(image: np.ndarray, low: float, high: float, span: tuple) -> np.ndarray:
    """Linear from low...high to the span, in double precision."""
    return span[0] + (image.astype(float) - low) / (high - low) * (span[1] - span[0])


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8"])
def test_an_image_fills_0_to_1_by_its_own_limits(counts: np.ndarray, dtype: str) -> None:
    image = counts.astype(dtype)
    seen = prepare(image, Prepare(False, "image"))
    assert seen.dtype == np.float32 and seen.shape == image.shape
    assert np.allclose(seen, scale_exactly(image, image.min(), image.max(), (0, 1)), atol=2e-7)
    assert seen.min() == 0 and abs(seen.max() - 1) < 2e-7


def test_an_image_far_from_zero_keeps_its_digits() -> None:
    """Counts about 10^6 that differ by a few: float32 holds them and their differences exactly."""
    image = np.float32(1e6) + np.random.default_rng(2).integers(0, 8, (16, 16)).astype(np.float32)
    seen = prepare(image, Prepare(False, "image"))
    assert np.allclose(seen, scale_exactly(image, 1e6, 1e6 + 7, (0, 1)), atol=2e-7)


@pytest.mark.parametrize("scale", ["image", "group"])
def test_a_constant_image_is_finite(scale: str) -> None:
    seen = prepare(np.full((5, 6), 7, np.uint16), Prepare(False, scale, 3.0, 11.0))
    assert (seen == 0).all()  # of the group 7 is the middle


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_the_median_is_that_of_3_by_3_pixels(counts: np.ndarray, dtype: str) -> None:
    image = counts.astype(dtype)
    filtered = ndimage.median_filter(image, size=3, mode="nearest")
    assert np.array_equal(
        prepare(image, Prepare(True, "image")), prepare(filtered, Prepare(False, "image"))
    )


def test_a_group_is_saturated_and_scaled(counts: np.ndarray) -> None:
    seen = prepare(counts, Prepare(False, "group", 30.0, 50.0))
    expected = np.clip(scale_exactly(counts, 30, 50, (-1, 1)), -1, 1)
    assert np.allclose(seen, expected, atol=3e-7)
    assert seen.min() == -1 and seen.max() == 1


def test_the_limits_of_a_group_are_deviations_from_the_mean_of_all_pixels() -> None:
    """Of images of different sizes, means and spreads, together."""
    random = np.random.default_rng(3)
    images = [random.normal(1000 * k, 10.0 + k, (20 + k, 30)).astype(np.float32) for k in range(5)]
    pixels = np.concatenate([image.reshape(-1) for image in images]).astype(float)
    how = measure_preparation(iter(images), Preparation(scale="group", saturation=2.5))
    assert how.scale == "group" and not how.median
    assert how.low == pytest.approx(pixels.mean() - 2.5 * pixels.std(), rel=1e-12)
    assert how.high == pytest.approx(pixels.mean() + 2.5 * pixels.std(), rel=1e-12)


def test_the_deviation_of_large_values_is_exact() -> None:
    """Sums of squares of 10^7 in double precision would be wrong by more than the variance."""
    random = np.random.default_rng(4)
    images = [1e9 + random.integers(-1, 2, (50, 50)).astype(float) for _ in range(8)]
    how = measure_preparation(images, Preparation(scale="group", saturation=1.0))
    expected = np.std([image - 1e9 for image in images])
    assert (how.high - how.low) / 2 == pytest.approx(expected, rel=1e-6)


def test_3_5_sigma_saturate_the_share_of_a_normal_distribution() -> None:
    images = [np.random.default_rng(k).normal(5, 2, (512, 512)) for k in range(4)]
    how = measure_preparation(images, Preparation(scale="group"))
    cut = np.mean([np.abs(prepare(image, how)) == 1 for image in images])
    share = 2 * NormalDist().cdf(-3.5)
    assert cut == pytest.approx(share, abs=5 * np.sqrt(share / (4 * 512**2)))


def test_limits_are_measured_behind_the_median(counts: np.ndarray) -> None:
    how = measure_preparation([counts], Preparation(scale="group", median=True, saturation=1.0))
    filtered = ndimage.median_filter(counts, size=3, mode="nearest").astype(float)
    assert how.median
    assert (how.high - how.low) / 2 == pytest.approx(filtered.std(), rel=1e-12)


def test_images_scaled_one_by_one_are_not_read() -> None:
    def fail():
        raise AssertionError("an image was read")
        yield

    assert measure_preparation(fail(), Preparation()) == Prepare(False, "image")


@pytest.mark.parametrize(
    "images", [[], [np.full((4, 4), 3.0)], [np.array([[1.0, np.nan], [0, 1]])]]
)
def test_a_group_without_spread_is_refused(images: list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="preparation"):
        measure_preparation(images, Preparation(scale="group"))


def test_what_is_kept_with_a_model_is_read_back() -> None:
    how = Prepare(True, "group", -1 / 3, 2.0**0.5)
    assert from_dict(json.loads(json.dumps(how.as_dict()))) == how
    assert how.span == 2 and Prepare(False, "image").span == 1


@pytest.mark.parametrize(
    "change",
    [{"scale": "other"}, {"low": "x"}, {"low": 2.0}, {"high": float("nan")}, {"high": None}],
)
def test_a_damaged_preparation_is_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="preparation"):
        from_dict(Prepare(False, "group", 0.0, 1.0).as_dict() | change)
    with pytest.raises(ConfigError, match="preparation"):
        from_dict({})


@pytest.mark.parametrize("median", ["none", "view", "stored"])
def test_a_median_is_applied_once(tmp_path: Path, median: str) -> None:
    """Stored medians are not filtered again; recorded ones are, whoever asked for it."""
    path = make_images(tmp_path / f"{median}.hdf5", Drawn(median=median, shape=(9, 11)))
    with open_collection(path) as images:
        assert asks_for_median(images.databases[0]) == (median != "none")
        stored = images.images[4]
        filtered = ndimage.median_filter(stored, size=3, mode="nearest")
        assert not np.array_equal(stored, filtered)
        seen = prepare_row(images, 4, Prepare(True, "group", 0.0, 7000.0))
        expected = stored if median == "stored" else filtered
        assert np.allclose(seen, scale_exactly(expected, 0, 7000, (-1, 1)), atol=2e-7)
        raw = prepare_row(images, 4, Prepare(False, "group", 0.0, 7000.0))
        assert np.allclose(raw, scale_exactly(stored, 0, 7000, (-1, 1)), atol=2e-7)
