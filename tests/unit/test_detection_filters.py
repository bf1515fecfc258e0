"""The median filter and the crop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats

from hpctem.detection.filters import crop, draw_crop, filter_median, integrate_pixels
from hpctem.errors import ConfigError


@given(
    arrays(
        strategies.sampled_from([np.uint8, np.uint16, np.uint32, np.float32]),
        strategies.tuples(strategies.integers(1, 9), strategies.integers(1, 9)),
        elements=strategies.integers(0, 20),
    )
)
def test_median_equals_scipy_on_any_image(image):
    """Also of one row, one column, one pixel, and with many equal values."""
    expected = ndimage.median_filter(image, size=3, mode="nearest")
    filtered = filter_median(image)
    assert filtered.dtype == image.dtype
    np.testing.assert_array_equal(filtered, expected)


def test_median_of_a_stack_is_the_median_of_each_image():
    stack = np.random.default_rng(0).integers(0, 99, (2, 3, 20, 31)).astype(np.uint16)
    expected = ndimage.median_filter(stack, size=(1, 1, 3, 3), mode="nearest")
    np.testing.assert_array_equal(filter_median(stack), expected)
    window = stack[0, 0, 3:15, 4:20]
    np.testing.assert_array_equal(filter_median(window), filter_median(window.copy()))


def expect_median_of_nine(mean: float) -> float:
    """Exact mean of the median of nine Poisson counts: sum over k of P(five or more above k)."""
    k = np.arange(0, int(mean + 40 * np.sqrt(mean) + 40))
    return float(stats.binom.sf(4, 9, stats.poisson.sf(k, mean)).sum())


@pytest.mark.parametrize(("mean", "bias"), [(4.0, -0.036), (16.0, -0.009), (48.0, -0.003)])
def test_median_of_low_counts_is_biased_as_documented(mean, bias):
    """Documented to half of its last digit; measured within 5 sigma of the exact value.

    Filtered pixels share neighbours: at most 25 are correlated, so sqrt(25 / n) bounds the error.
    """
    exact = expect_median_of_nine(mean)
    assert exact / mean - 1 == pytest.approx(bias, abs=0.0006)
    counts = np.random.default_rng(1).poisson(mean, (1000, 1000)).astype(np.uint16)
    filtered = filter_median(counts)[1:-1, 1:-1]
    error = filtered.std() * np.sqrt(25 / filtered.size)
    assert abs(filtered.mean() - exact) < 5 * error
    assert abs(filtered.mean() - mean) > 5 * error


def test_median_refuses_other_types():
    with pytest.raises(ConfigError, match="complex64"):
        filter_median(np.zeros((4, 4), dtype=np.complex64))


def test_crops_are_uniform_over_all_places():
    """Chi-square over the 5 x 3 places of a window, p above 1e-5."""
    generator = np.random.default_rng(2)
    places = [draw_crop((12, 10), (8, 8), generator) for _ in range(3000)]
    assert min(places) == (0, 0)
    assert max(places) == (4, 2)
    observed = [places.count((row, column)) for row in range(5) for column in range(3)]
    assert stats.chisquare(observed).pvalue > 1e-5


def test_crop_cuts_the_same_window_from_image_and_label():
    image = np.arange(70).reshape(7, 10)
    stack = np.stack([image, -image])
    window = crop(image, (2, 3), (4, 5))
    np.testing.assert_array_equal(window, image[2:6, 3:8])
    np.testing.assert_array_equal(crop(stack, (2, 3), (4, 5))[1], -window)
    assert window.base is None
    assert draw_crop((7, 10), (7, 10), np.random.default_rng(0)) == (0, 0)


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="512 x 512 px does not fit"):
        draw_crop((500, 640), (512, 512), np.random.default_rng(0))
    for first in ((-1, 0), (0, 4)):
        with pytest.raises(ConfigError, match="leaves the image"):
            crop(np.zeros((8, 8)), first, (5, 5))


@pytest.mark.parametrize("binning", [1, 2, 3, 4])
def test_pixels_integrate_about_their_centres(binning: int) -> None:
    """A point of light is seen by its own pixel; all light is seen once, none is negative."""
    size = 12 * binning
    image = np.random.default_rng(0).random((size, size)).astype(np.float32)
    binned = integrate_pixels(image, binning)
    assert binned.shape == (12, 12) and binned.dtype == np.float32 and binned.min() >= 0
    assert binned.mean() == pytest.approx(image.mean(), rel=1e-5)
    point = np.zeros((size, size), np.float32)
    point[5 * binning, 7 * binning] = 1
    assert integrate_pixels(point, binning)[5, 7] == pytest.approx(1 / binning**2)
    moved = integrate_pixels(np.roll(image, binning, axis=1), binning)
    assert np.array_equal(moved, np.roll(binned, 1, axis=1))
    if binning == 3:
        block = np.roll(image, (1, 1), (0, 1)).reshape(12, 3, 12, 3).mean(axis=(1, 3))
        assert binned == pytest.approx(block, rel=1e-5)
