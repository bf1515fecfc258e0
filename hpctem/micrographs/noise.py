"""The noise of an image and how it grows with the intensity.

Beyond the frequencies that the probe transfers there is noise alone. Only frequencies along the
rows are used: what the lines do to the image stays at low ones there.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

LEVELS = 12
PATCH = 64
EDGE = 8  # pixels
STREAK = 3  # pixels along a line up to which its noise is compared
BANDS = 16  # of lines, for the errors


@dataclass(frozen=True)
class Noise:
    """What is known of an image's noise.

    variance: per pixel, at the mean intensity, in the image's units squared, `error` its standard
    error. whiteness: power at the highest frequencies over that at the lowest used, 1 for white
    noise. gain: growth of the variance with the intensity, units per electron if all noise is that
    of counted electrons; `gain_error`. zero: intensity at which the variance would vanish;
    `zero_error`. means, variances: (n,) what gain and zero are fitted to.
    """

    variance: float
    error: float
    whiteness: float
    gain: float
    gain_error: float
    zero: float
    zero_error: float
    means: np.ndarray
    variances: np.ndarray

    @property
    def grows(self) -> bool:
        """Whether the variance is seen to grow with the intensity: gain above 3 errors."""
        return self.gain > 3 * self.gain_error


@dataclass(frozen=True)
class Streaks:
    """How alike the noise of neighbouring pixels of a line is, 1, 2 and 3 pixels apart.

    correlations, errors: (3,) covariance along the lines beyond that across them, which what is
    left of the specimen has too, over the noise's variance. White noise has 0.
    """

    correlations: np.ndarray
    errors: np.ndarray

    @property
    def seen(self) -> bool:
        """Whether any is above 5 errors and a fiftieth."""
        return bool((self.correlations > np.maximum(5 * self.errors, 0.02)).any())


def measure_streaks(rest: np.ndarray, noise: float, generator: np.random.Generator) -> Streaks:
    """Compare the pixels of lines in what is left of an image (ny, nx) without its lattice.

    noise: variance per pixel. generator: for the bootstrap over bands of lines.
    """
    rest = rest - rest.mean()
    ny = len(rest)
    bounds = np.linspace(0, ny - STREAK, min(BANDS, ny // 8) + 1).astype(np.int64)
    parts = []
    for first, last in itertools.pairwise(bounds):
        here = rest[first:last, :-STREAK]
        along = [
            float(
                (here * rest[first:last, lag : rest.shape[1] - STREAK + lag]).mean()
                - (here * rest[first + lag : last + lag, :-STREAK]).mean()
            )
            for lag in range(1, STREAK + 1)
        ]
        parts.append(along)
    values = np.array(parts) / noise
    chosen = generator.integers(len(values), size=(200, len(values)))
    return Streaks(values.mean(axis=0), values[chosen].mean(axis=1).std(axis=0))


def measure_noise(image: np.ndarray, transferred: float, generator: np.random.Generator) -> Noise:
    """Measure the noise of an image (ny, nx) in whatever units.

    transferred: the largest frequency that holds signal, cycles per pixel; beyond it and 0.25, up
    to 0.42 at most, lies noise. generator: for the bootstrap over patches.
    """
    from scipy.ndimage import gaussian_filter

    values = np.asarray(image, dtype=np.float64)
    nx = values.shape[1]
    edge = min(max(0.25, transferred), 0.42)
    fx = np.fft.rfftfreq(nx)
    spectrum = np.fft.rfft(_without_ramp(values), axis=1)
    rapid = np.fft.irfft(spectrum * (fx > edge), nx, axis=1)
    weights = np.where((fx > 0) & (fx < 0.5), 2.0, 1.0)
    share = float(weights[fx > edge].sum() / weights.sum())
    squares = rapid**2 / share
    power = np.median(np.abs(spectrum[:, fx > edge]) ** 2, axis=0) / math.log(2) / nx
    middle = len(power) // 2
    whiteness = float(np.mean(power[middle:]) / max(float(np.mean(power[:middle])), 1e-300))
    # Both are spread alike, so that what holds for each pixel still holds for them.
    spread = np.fft.rfft(np.fft.irfft((fx > edge).astype(float), nx) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(values, axis=1) * spread.real / spread[0].real, nx, axis=1)
    width = _find_width(min(transferred, edge))
    smooth, squares = (gaussian_filter(part, width, mode="mirror") for part in (smooth, squares))
    # At a row's ends the filter meets the other end.
    sums = _add_up(smooth[:, EDGE:-EDGE], squares[:, EDGE:-EDGE])
    fits = [_fit_growth(sums.sum(axis=0))]
    for _ in range(100):
        chosen = generator.integers(len(sums), size=len(sums))
        fits.append(_fit_growth(sums[chosen].sum(axis=0)))
    levels = sums.sum(axis=0)
    counts, means, variances = levels[:, levels[0] > 0]
    (variance, gain, zero), drawn = fits[0], np.array(fits[1:])
    error, gain_error = (float(x) for x in drawn[:, :2].std(axis=0))
    low, high = np.percentile(drawn[:, 2], (16, 84))
    return Noise(
        variance,
        error,
        whiteness,
        gain,
        gain_error,
        zero,
        float(high - low) / 2,
        means / counts,
        variances / counts,
    )


def _add_up(smooth: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Number, mean and variance summed over each patch and level: (patches, 3, LEVELS)."""
    ny, nx = smooth.shape
    rows, columns = max(2, ny // PATCH), max(2, nx // PATCH)
    patch = (np.arange(ny) * rows // ny)[:, None] * columns + np.arange(nx) * columns // nx
    bounds = np.quantile(smooth, np.linspace(0, 1, LEVELS + 1)[1:-1])
    place = patch.ravel() * LEVELS + np.searchsorted(bounds, smooth.ravel())
    sums = [
        np.bincount(place, weights=part, minlength=rows * columns * LEVELS)
        for part in (None, smooth.ravel(), squares.ravel())
    ]
    return np.stack([part.reshape(-1, LEVELS) for part in sums], axis=1)


def _fit_growth(sums: np.ndarray) -> tuple[float, float, float]:
    """Mean variance, its growth with the mean, and the mean at which it would vanish.

    Sums as of `_add_up`, (3, LEVELS). Each variance is known to itself times sqrt(2 / n). Noise
    that is left in the means flattens the line; that of counting is skew, which steepens it by as
    much.
    """
    counts = np.maximum(sums[0], 1)
    means, variances = sums[1] / counts, sums[2] / counts
    top = float(variances.max())
    if not top > 0:
        return 0.0, 0.0, math.nan
    weights = np.sqrt(counts) / np.maximum(variances / top, 1e-6)
    weights[sums[0] == 0] = 0.0
    centre = float(np.average(means, weights=weights))
    gain, level = (float(x) for x in np.polyfit(means - centre, variances, 1, w=weights))
    whole = float((variances * counts).sum() / counts.sum())
    return whole, gain, centre - level / gain if abs(gain) > 1e-300 else math.nan


def _without_ramp(values: np.ndarray) -> np.ndarray:
    """Each row minus the straight line between its ends, whose jump would ring."""
    ends = 6
    first, last = values[:, :ends].mean(axis=1), values[:, -ends:].mean(axis=1)
    return values - first[:, None] - np.outer(last - first, np.linspace(0, 1, values.shape[1]))


def _find_width(highest: float) -> float:
    """Standard deviation in pixels of a Gaussian whose transform is half at a frequency.

    A sharp cut there would ring beside bright columns.
    """
    return math.sqrt(math.log(2) / 2) / (math.pi * highest)
