"""The counts of a pixel are Poisson, exactly, and a function of their own pixel alone."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy import stats

from hpctem.detection import counter_random, counting
from hpctem.detection.detector import add_readout_noise
from hpctem.detection.dose import count_electrons, expect_counts
from hpctem.errors import ConfigError, SampleError

PIXELS = 250_000
# Around 10 the method changes; 4, 16 and 48 are 100, 400 and 1200 e/A^2 at 0.2 A per pixel.
MEANS = (0.02, 0.7, 4.0, 9.99, 10.01, 16.0, 48.0, 300.0)
PINNED_COUNTS = [0, 47, 72, 113, 165, 191, 232, 276]
PINNED = "1b6564ce9a1e3a0a"


def count(mean: float, seed: int = 0, pixels: int = PIXELS) -> np.ndarray:
    uniform = np.ones((pixels // 500, 500), dtype=np.float32)
    return count_electrons(uniform, mean, 1.0, np.random.default_rng([seed, int(mean * 1000)]))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        # Known-answer vectors published with Random123 (Salmon et al., SC11).
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_published_words(counter, key, words):
    assert counter_random.philox4x32(*map(np.uint64, counter + key)) == words


def test_uniforms_stay_inside_the_open_interval():
    ends = [counter_random.uniform(np.uint64(w), np.uint64(w)) for w in (0, 2**32 - 1)]
    assert 0 < ends[0] < 1e-15
    assert 0 < 1 - ends[1] < 1e-15


def test_elementary_functions_are_accurate_to_a_few_last_digits():
    x = np.concatenate([np.geomspace(1e-300, 1e300, 4001), np.linspace(0.4, 2.5, 4001)])
    mine = np.array([counter_random.natural_log(v) for v in x])
    np.testing.assert_allclose(mine, np.log(x), rtol=4e-16, atol=2e-16)
    x = np.linspace(0, 10, 2001)
    mine = np.array([counting.exponential(v) for v in x])
    np.testing.assert_allclose(mine, np.exp(-x), rtol=1e-14)


@pytest.mark.parametrize("mean", [10.0, 48.0, 1e3, 1e6])
def test_log_probability_matches_scipy(mean):
    k = np.unique(np.clip(np.round(mean + math.sqrt(mean) * np.linspace(-6, 6, 200)), 0, None))
    mine = np.array([counting.log_poisson(v, mean) for v in k])
    # scipy's own difference of numbers near 1.4e7 is good to about 1e-8 at a mean of 1e6.
    np.testing.assert_allclose(mine, stats.poisson.logpmf(k, mean), atol=1e-13 * mean + 1e-7)


@pytest.mark.parametrize("mean", [*MEANS, 1e4, 1e6])
def test_mean_and_variance_equal_the_expected_count(mean):
    """Within 5 standard errors: sqrt(mean / n) and sqrt((mean + 2 mean^2) / n)."""
    counts = count(mean).astype(float)
    assert abs(counts.mean() - mean) < 5 * math.sqrt(mean / PIXELS)
    assert abs(counts.var() - mean) < 5 * math.sqrt((mean + 2 * mean**2) / PIXELS)


@pytest.mark.parametrize("mean", MEANS)
def test_distribution_is_poisson(mean):
    """Chi-square over all counts expected 20 times or more, tails joined; p above 1e-5."""
    counts = count(mean, seed=1).ravel()
    low, high = stats.poisson.isf([1 - 20 / PIXELS, 20 / PIXELS], mean).astype(int)
    edges = np.arange(low, high + 1)
    cumulative = stats.poisson.cdf(edges, mean)
    expected = PIXELS * np.diff(cumulative, prepend=0.0, append=1.0)
    observed = np.bincount(np.searchsorted(edges, counts), minlength=expected.size)
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-5


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_distribution_is_poisson_in_a_hundred_quantiles_of_large_means(mean):
    """Chi-square, p above 1e-5; edges lie between integers, so their probabilities are exact."""
    counts = count(mean, seed=2).ravel()
    edges = stats.poisson.ppf(np.linspace(0.01, 0.99, 99), mean)
    expected = PIXELS * np.diff(stats.poisson.cdf(edges, mean), prepend=0.0, append=1.0)
    observed = np.bincount(np.searchsorted(edges, counts), minlength=100)
    assert stats.chisquare(observed, expected).pvalue > 1e-5


@pytest.mark.parametrize("mean", [4.0, 48.0])
def test_noise_of_neighbouring_pixels_is_uncorrelated(mean):
    """Correlation at lags 1..3 in x and y below 5 standard errors, 1 / sqrt(n)."""
    noise = (count(mean, seed=3) - mean) / math.sqrt(mean)
    for lag in (1, 2, 3):
        for shifted in (np.roll(noise, lag, axis=0), np.roll(noise, lag, axis=1)):
            assert abs((noise * shifted).mean()) < 5 / math.sqrt(noise.size)


def test_images_of_two_streams_are_independent_and_of_one_stream_equal():
    first, again, other = count(16.0, seed=4), count(16.0, seed=4), count(16.0, seed=5)
    np.testing.assert_array_equal(first, again)
    correlation = np.corrcoef(first.ravel(), other.ravel())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(PIXELS)


def test_a_pixel_depends_on_no_other_pixel():
    intensity = np.random.default_rng(0).gamma(4, 0.25, (64, 64)).astype(np.float32)
    changed = intensity.copy()
    changed[10:20] *= 3
    counts = count_electrons(intensity, 400, 0.04, np.random.default_rng(7))
    counts_changed = count_electrons(changed, 400, 0.04, np.random.default_rng(7))
    same = changed == intensity
    np.testing.assert_array_equal(counts[same], counts_changed[same])
    assert (counts[~same] != counts_changed[~same]).mean() > 0.9


def test_counts_are_pinned():
    """A golden test: databases of other versions hold these numbers, means 0 to 300."""
    intensity = np.linspace(0, 2, 4096, dtype=np.float32).reshape(64, 64)
    counts = count_electrons(intensity, 3750, 0.04, np.random.Generator(np.random.Philox(1)))
    assert counts.dtype == np.uint32
    assert counts.flat[::512].tolist() == PINNED_COUNTS
    assert hashlib.blake2b(counts.astype("<u4").tobytes(), digest_size=8).hexdigest() == PINNED


def test_mean_follows_intensity_dose_area_and_quantum_efficiency():
    """Within 5 standard errors of each half; where intensity is zero or rounding, nothing."""
    intensity = np.zeros((400, 500), dtype=np.float32)
    intensity[:, 100:300] = 1.5
    intensity[:, 300:] = 0.25
    intensity[:, 50:100] = -1e-6
    counts = count_electrons(intensity, 900, 0.04, np.random.default_rng(8), 0.5)
    assert counts[:, :100].max() == 0
    for part, mean in ((counts[:, 100:300], 27.0), (counts[:, 300:], 4.5)):
        assert abs(part.mean() - mean) < 5 * math.sqrt(mean / part.size)


def test_readout_noise_is_normal():
    """Mean and standard deviation within 5 standard errors; Kolmogorov-Smirnov, p above 1e-5."""
    signal = np.full((1000, 1000), 100, dtype=np.float32)
    noisy = add_readout_noise(signal, 2.5, np.random.default_rng(9))
    assert noisy.dtype == np.float32
    assert abs(noisy.mean(dtype=float) - 100) < 5 * 2.5 / math.sqrt(noisy.size)
    assert abs(noisy.std(dtype=float) - 2.5) < 5 * 2.5 / math.sqrt(2 * noisy.size)
    assert stats.kstest((noisy.astype(float) - 100).ravel() / 2.5, "norm").pvalue > 1e-5


def test_what_cannot_be_counted_is_refused():
    flat = np.ones((8, 8), dtype=np.float32)
    generator = np.random.default_rng(0)
    for bad, message in ((np.nan, "NaN"), (np.inf, "infinity"), (-0.01, "negative")):
        image = flat.copy()
        image[3, 4] = bad
        with pytest.raises(SampleError, match=message):
            count_electrons(image, 400, 0.04, generator)
    with pytest.raises(SampleError, match="lower the dose"):
        count_electrons(flat, 1e12, 0.04, generator)
    for arguments, name in (
        ((-1.0, 0.04), "dose"),
        ((math.nan, 0.04), "dose"),
        ((400, 0.0), "pixel area"),
        ((400, 0.04, 1.5), "quantum_efficiency"),
        ((400, 0.04, 0.0), "quantum_efficiency"),
    ):
        with pytest.raises(ConfigError, match=name):
            expect_counts(*arguments)
