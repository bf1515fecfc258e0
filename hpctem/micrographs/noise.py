"""The noise of an image and how it grows with the intensity.

Beyond the frequencies that the probe transfers there is noise alone. Only frequencies along the
rows are used: what the lines do to the image stays at low ones there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVELS = 12
PATCH = 64
EDGE = 8  # pixels


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


def measure_noise(image: np.ndarray, transferred: float, generator: np.random.Generator) -> Noise:
    """Measure the noise of an image (ny, nx) in whatever units.

    transferred: the largest frequency that holds signal, cycles per pixel; beyond it and 0.25, up
    to 0.42 at most, lies noise. generator: for the bootstrap over patches.
    """
    from scipy.ndimage import gaussian_filter

    values = np.asarray(image, dtype=np.float64)
    ny, nx = values.shape
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
    passes = _pass_noise(spread.real / spread[0].real, values.shape, width)
    rows, columns = max(2, ny // PATCH), max(2, nx // PATCH)
    patch = (np.arange(ny) * rows // ny)[:, None] * columns + np.arange(nx) * columns // nx
    bounds = np.quantile(smooth, np.linspace(0, 1, LEVELS + 1)[1:-1])
    level = np.searchsorted(bounds, smooth.ravel())
    place = patch.ravel() * LEVELS + level
    shape = (rows * columns, LEVELS)
    # At a row's ends the filter meets the other end.
    inside = np.zeros(values.shape, dtype=bool)
    inside[:, EDGE:-EDGE] = True
    counts, means, sums = (
        np.bincount(place, weights=w.ravel(), minlength=shape[0] * LEVELS).reshape(shape)
        for w in (inside, smooth * inside, squares * inside)
    )
    # Noise that is left in the means spreads them, and flattens the line by as much.
    total = float(smooth.var())
    steeper = total / max(total - passes * float(squares.mean()), 0.1 * total)
    fits = []
    for k in range(101):
        chosen = np.arange(shape[0]) if k == 0 else generator.integers(shape[0], size=shape[0])
        number = np.maximum(counts[chosen].sum(axis=0), 1)
        mean, square = means[chosen].sum(axis=0) / number, sums[chosen].sum(axis=0) / number
        if k == 0:
            levels = mean, square
        gain = steeper * _fit_slope(mean, square, number)
        whole = float((square * number).sum() / number.sum())
        middle = float((mean * number).sum() / number.sum())
        zero = middle - whole / gain if abs(gain) > 1e-300 else math.nan
        fits.append((whole, gain, zero))
    (variance, gain, zero), drawn = fits[0], np.array(fits[1:])
    error, gain_error = drawn[:, :2].std(axis=0)
    low, high = np.percentile(drawn[:, 2], (16, 84))
    return Noise(
        variance,
        float(error),
        whiteness,
        gain,
        float(gain_error),
        zero,
        float(high - low) / 2,
        *levels,
    )


def _fit_slope(means: np.ndarray, variances: np.ndarray, counts: np.ndarray) -> float:
    """Slope of variance against mean; each variance is known to itself times sqrt(2 / n)."""
    weights = np.sqrt(counts) / np.maximum(variances, 1e-300)
    centre = float(np.average(means, weights=weights))
    return float(np.polyfit(means - centre, variances, 1, w=weights)[0])


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


def _pass_noise(spread: np.ndarray, shape: tuple[int, ...], width: float) -> float:
    """Share of white noise's variance that a Gaussian and a transfer along x (nx // 2 + 1) leave."""
    ny, nx = shape
    fx, fy = np.fft.rfftfreq(nx), np.fft.fftfreq(ny)
    weights = np.where((fx > 0) & (fx < 0.5), 2.0, 1.0)
    along_x, along_y = (np.exp(-((2 * math.pi * width * f) ** 2)) for f in (fx, fy))
    return float((weights * along_x * spread**2).sum() / weights.sum() * along_y.mean())
