"""Distances between sets of images against closed forms, and band powers of images made here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.learning.realism.bands import compare_bands, list_shells, measure_bands
from hpctem.learning.realism.measures import (
    count_intensities,
    measure_closing,
    measure_divergence,
    measure_frechet,
    measure_sliced,
    measure_texture,
    split_scales,
    take_descriptors,
)
from hpctem.learning.realism.memorising import Learnt, find_highest_correlation, list_symmetries

PERIOD = 12.3  # pixels
SIDE = 192


def gaussian(mean: float, width: float, count: int = 400_000) -> np.ndarray:
    return mean + width * np.random.default_rng(0).normal(size=(1, 1, count))


@pytest.mark.parametrize(("shift", "factor"), [(0.1, 1.0), (0.0, 1.4), (-0.05, 0.8)])
def test_the_divergence_of_gaussians_is_known(shift: float, factor: float) -> None:
    one, other = gaussian(0, 0.2), gaussian(shift, 0.2 * factor)
    found = measure_divergence(count_intensities(one), count_intensities(other))
    width = 0.2 * factor
    known = math.log(width / 0.2) + (0.2**2 + shift**2) / (2 * width**2) - 0.5
    # The even thousandth takes from the tails, where Q is far below P: a few percent.
    assert found == pytest.approx(known, rel=0.06, abs=2e-4)


def test_the_divergence_is_of_the_second_from_the_first() -> None:
    """P log(P / Q) by hand on three bins, and not the other way round."""
    reference, other = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    assert measure_divergence(reference, other) == pytest.approx(0.25 * math.log(2))
    skewed = np.array([0.8, 0.1, 0.1])
    known = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert measure_divergence(skewed, reference) == pytest.approx(
        0.8 * math.log(1.6) + 0.1 * math.log(0.4) * 2
    )
    assert measure_divergence(reference, skewed) != pytest.approx(known, rel=0.05)


def test_histograms_are_smoothed_by_an_even_thousandth() -> None:
    shares = count_intensities(np.full((1, 10, 10), 0.999))
    assert shares.sum() == pytest.approx(1)
    assert shares[:-1] == pytest.approx(1e-3 / 256)
    clipped = count_intensities(np.array([[[-7.0, 9.0]]]))
    assert clipped[0] == clipped[-1] == pytest.approx(0.4995 + 1e-3 / 256)
    # The same, however many pixels there are: half a count a bin would not be.
    many = count_intensities(np.full((1, 100, 100), 0.999))
    np.testing.assert_allclose(shares, many)


@pytest.mark.parametrize("dimensions", [2, 7, 49])
def test_the_sliced_distance_of_a_shifted_cloud_is_known(dimensions: int) -> None:
    """Along each direction u it is |u . v|; its mean over the sphere is a quotient of gammas."""
    generator = np.random.default_rng(1)
    cloud = generator.normal(size=(3000, dimensions))
    shift = np.zeros(dimensions)
    shift[0] = 2.0
    ratio = math.gamma(dimensions / 2) / math.gamma((dimensions + 1) / 2) / math.sqrt(math.pi)
    found = np.mean([measure_sliced(cloud, cloud + shift, seed) for seed in range(8)])
    # |u . v| has a relative spread of 0.76 at most: 1024 directions give it to 2.4 %.
    assert found == pytest.approx(2 * ratio, rel=0.08)


def test_the_sliced_distance_needs_no_order_and_no_equal_numbers() -> None:
    generator = np.random.default_rng(2)
    cloud = generator.normal(size=(4000, 5)).astype(np.float32)
    assert measure_sliced(cloud, generator.permutation(cloud)) < 1e-6
    assert measure_sliced(cloud, 3 * cloud) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.05)
    assert measure_sliced(cloud, cloud[:1000]) < 0.06


def test_the_frechet_distance_of_gaussians_is_known() -> None:
    """Commuting covariances: |m|^2 + sum (s1 - s2)^2; samples with these very moments."""
    generator = np.random.default_rng(3)
    white = generator.normal(size=(500, 6))
    white = white - white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False)).T)
    turn = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    first, second = np.array([1, 2, 3, 4, 5, 6.0]), np.array([2, 2, 1, 4, 8, 0.5])
    shift = np.arange(6) / 3
    one, other = (white * first) @ turn.T, (white * second) @ turn.T + shift
    known = float((shift**2).sum() + ((first - second) ** 2).sum())
    assert measure_frechet(one, other) == pytest.approx(known, rel=1e-9)
    assert measure_frechet(other, one) == pytest.approx(known, rel=1e-9)
    assert measure_frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_covariances_that_do_not_commute() -> None:
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(4)
    one = generator.normal(size=(300, 5)) @ generator.normal(size=(5, 5))
    other = generator.normal(size=(200, 5)) @ generator.normal(size=(5, 5)) + 1
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    known = ((one.mean(0) - other.mean(0)) ** 2).sum()
    known += np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert measure_frechet(one, other) == pytest.approx(known, rel=1e-7)


def test_scales_add_up_to_the_image() -> None:
    """Each level is what the blur takes away: the first and the blurred image are the whole."""
    from scipy.ndimage import convolve

    patches = np.random.default_rng(5).normal(size=(2, 128, 128)).astype(np.float32)
    levels = split_scales(patches)
    assert [level.shape for level in levels] == [(2, 128, 128), (2, 64, 64), (2, 32, 32)]
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    blurred = convolve(patches[1], kernel, mode="mirror")
    np.testing.assert_allclose(patches[1] - levels[0][1], blurred, atol=1e-5)
    flat = split_scales(np.ones((1, 64, 64), np.float32))
    assert np.abs(flat[0]).max() < 1e-6 and np.allclose(flat[1], 1)


def test_descriptors_are_squares_of_the_image() -> None:
    ramp = (np.arange(40)[:, None] * 100 + np.arange(40)).astype(np.float32)
    squares = take_descriptors(np.stack([ramp, -ramp]), 0).reshape(2, 64, 7, 7)
    np.testing.assert_array_equal(np.diff(squares[0], axis=2), 1)
    np.testing.assert_array_equal(np.diff(squares[1], axis=1), -100)
    assert len(np.unique(squares[0, :, 0, 0])) > 50


def test_texture_tells_noise_of_another_width_at_the_fine_scale() -> None:
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(6)
    slow = gaussian_filter(generator.normal(size=(24, 64, 64)), (0, 8, 8))
    noise = generator.normal(size=(2, 24, 64, 64)).astype(np.float32)
    reference, same = slow + 0.01 * noise[0], slow + 0.01 * noise[1]
    other = slow + 0.03 * noise[1]
    levels = [split_scales(one.astype(np.float32)) for one in (reference, same, other)]
    near, far = (measure_texture(levels[0], one) for one in levels[1:])
    assert near[0] < 0.05
    # |3 - 1| standard deviations times the mean of |normal| along a direction.
    assert far[0] == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.1)
    assert far[1] < 0.3


def lattice_image(
    angle: float, generator: np.random.Generator, noise: float, scale: float = 1.0
) -> np.ndarray:
    """A hexagonal crystal of two shells, slow waves and white noise; variances known."""
    y, x = np.mgrid[:SIDE, :SIDE]
    length = 2 / math.sqrt(3) / PERIOD / scale
    image = noise * generator.normal(size=(SIDE, SIDE))
    for k in range(3):
        for factor, turn, amplitude in ((1, 0, 1.0), (math.sqrt(3), math.pi / 6, 0.4)):
            direction = angle + turn + k * math.pi / 3
            wave = x * math.cos(direction) + y * math.sin(direction)
            phase = generator.uniform(0, 2 * math.pi)
            image += amplitude * np.cos(2 * math.pi * factor * length * wave + phase)
    return image + 0.8 * np.cos(2 * math.pi * (3 * x + 2 * y) / SIDE)


def hexagonal(length: float) -> np.ndarray:
    return length * np.array([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])


RECIPROCAL = hexagonal(2 / math.sqrt(3) / PERIOD)


@pytest.mark.parametrize("noise", [0.3, 2.0])
@pytest.mark.parametrize("scale", [1.0, 1.03])
def test_band_powers_of_a_crystal_with_noise_are_known(noise: float, scale: float) -> None:
    """Sum of the variances of what was put there, whichever way each crystal lies."""
    generator = np.random.default_rng(7)
    angles = generator.uniform(0, math.pi, 12)
    patches = np.array([lattice_image(angle, generator, noise, scale) for angle in angles])
    shells = list_shells(RECIPROCAL)
    found = measure_bands(patches, shells)
    slow, first, second = 0.8**2 / 2, 3 / 2, 3 * 0.4**2 / 2
    low = math.pi * (0.5 * shells.shortest) ** 2  # of all frequencies, one square cycle per pixel
    disc = math.pi * (3 / SIDE) ** 2
    white = noise**2
    total = slow + first + second + white
    known = [
        (slow + low * white) / total,
        (first + second + sum(map(len, shells.indices)) * disc * white) / total,
    ]
    np.testing.assert_allclose(found[:2], known, rtol=0.06, atol=0.004)
    assert found[:3].sum() == pytest.approx(1)
    np.testing.assert_allclose(found[3], (first + 6 * disc * white) / total, rtol=0.06)
    np.testing.assert_allclose(found[4], (second + 6 * disc * white) / total, rtol=0.12)
    assert found[3:].sum() == pytest.approx(found[1])


def test_shells_of_a_hexagonal_lattice_hold_6_6_6_12_6_6_spots() -> None:
    shells = list_shells(hexagonal(0.09))
    assert [len(one) for one in shells.indices] == [6, 6, 6, 12, 6, 6]
    known = 0.09 * np.sqrt([1, 3, 4, 7, 9, 12])
    np.testing.assert_allclose(shells.radii, known, rtol=1e-9)


def test_a_slight_distortion_does_not_tear_shells_apart() -> None:
    bent = hexagonal(0.09) @ np.array([[1.0, 0.02], [0.0, 1.03]])
    for basis in (bent, np.array([[1, 0], [1, 1]]) @ bent, np.array([[1, 0], [-1, 1]]) @ bent):
        assert [len(one) for one in list_shells(basis).indices] == [6, 6, 6, 12, 6, 6]
    square = np.array([[0.1, 0.002], [0.0, 0.1]])
    assert [len(one) for one in list_shells(square).indices][:4] == [4, 4, 4, 8]
    oblique = np.array([[0.1, 0.0], [0.02, 0.13]])
    assert [len(one) for one in list_shells(oblique).indices][:2] == [2, 2]


def test_shells_beyond_what_pixels_resolve_are_left_out() -> None:
    assert [len(one) for one in list_shells(hexagonal(0.2)).indices] == [6, 6, 6]
    with pytest.raises(ConfigError, match="too big"):
        list_shells(hexagonal(0.47))


def test_patches_that_hold_too_few_periods_are_refused() -> None:
    with pytest.raises(ConfigError, match="periods of the lattice"):
        measure_bands(np.zeros((1, 32, 32)), list_shells(RECIPROCAL))


def test_distances_of_bands_are_the_same_both_ways() -> None:
    np.testing.assert_allclose(compare_bands(np.array([0.2, 0.1]), np.array([0.1, 0.2])), np.log(2))


@pytest.mark.parametrize("symmetry", range(8))
def test_a_copy_is_found_wherever_and_however_it_lies(symmetry: int) -> None:
    image = np.random.default_rng(8).normal(size=(70, 90))
    patch = 7 - 0.3 * -list_symmetries(image[31:55, 66:90])[symmetry]
    assert find_highest_correlation(patch, Learnt(image)) == pytest.approx(1, abs=1e-9)
    # A negative is no copy.
    assert find_highest_correlation(-patch, Learnt(image)) < 0.4


def test_the_highest_correlation_is_that_of_all_places() -> None:
    generator = np.random.default_rng(9)
    image, patch = 1000 + generator.normal(size=(20, 23)), generator.normal(size=(9, 9))
    known = max(
        np.corrcoef(one.ravel(), image[row : row + 9, column : column + 9].ravel())[0, 1]
        for one in list_symmetries(patch)
        for row in range(12)
        for column in range(15)
    )
    assert find_highest_correlation(patch, Learnt(image)) == pytest.approx(known, abs=1e-9)


def test_symmetries_are_eight_different_ones() -> None:
    found = {one.tobytes() for one in list_symmetries(np.arange(9.0).reshape(3, 3))}
    assert len(found) == 8


def test_a_patch_as_large_as_the_image_fits_and_a_larger_one_does_not() -> None:
    image = np.random.default_rng(10).normal(size=(16, 16))
    assert find_highest_correlation(np.rot90(image), Learnt(image)) == pytest.approx(1)
    with pytest.raises(ValueError, match="larger"):
        find_highest_correlation(np.zeros((17, 16)), Learnt(image))
    assert find_highest_correlation(np.ones((4, 4)), Learnt(image)) == -1


def test_the_gap_closed_counts_from_the_floor() -> None:
    assert measure_closing(raw=10, other=10, floor=2) == 0
    assert measure_closing(raw=10, other=2, floor=2) == 1
    assert measure_closing(raw=10, other=4, floor=2) == pytest.approx(0.75)
    assert measure_closing(raw=10, other=14, floor=2) == pytest.approx(-0.5)
    assert measure_closing(raw=10, other=1, floor=2) == pytest.approx(1.125)
    assert measure_closing(raw=2, other=1, floor=2) is None
