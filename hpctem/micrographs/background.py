"""Slow variations of an image below the lattice's first spots: contamination on the surface.

Their power spectrum is flat up to a frequency, falls with a power of it, and is lost in what lies
between the spots. It is measured from rings of the power spectrum. At the lowest frequencies, of
waves as long as the image, the spectrum of an image under a window, its slopes removed, is not that
of what is seen: there the window's view of each wave is compared instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpctem.detection.contamination import FilmSettings, power_density
from hpctem.micrographs.spectra import frequencies, power_spectrum

HIGHEST = 0.8  # of the first spot's frequency: beyond, the window spreads its power
EXPONENTS = (0.5, 6.0)
SMALLEST_EXCESS = 1.5  # of the power beside the spots, for something to be measured
LOWEST = 4  # steps of frequency below which the window's view is computed
WAVES = 16  # half steps of frequency up to which waves are seen there


@dataclass(frozen=True)
class Background:
    """Slow variations of an image; lengths in pixels, amplitudes in the image's units.

    deviation: standard deviation of what varies over longer distances than `shortest`. exponent:
    the power falls as frequency^-exponent, from wavelength `longest` (with its spectrum flat above;
    `longest_bounded` where that is the image's longer side, and the image is too small to say) to
    `shortest`, where it is lost. skewness
    of the slow variations; `errors` of deviation, exponent, longest and skewness. floor: power
    beside the spots. rings, powers: (n,) what was fitted, cycles per pixel and units squared.
    """

    deviation: float
    exponent: float
    shortest: float
    longest: float
    longest_bounded: bool
    skewness: float
    errors: tuple[float, float, float, float]
    floor: float
    rings: np.ndarray
    powers: np.ndarray


def measure_background(
    image: np.ndarray, first_spot: float, noise: float, generator: np.random.Generator
) -> Background | None:
    """Measure slow variations of an image (ny, nx) in whatever units.

    first_spot: frequency of the lattice's nearest spot, cycles per pixel. noise: variance per
    pixel, which nothing lies below. generator: for the bootstrap. None where nothing stands out of
    the noise.
    """
    rings = ring_means(power_spectrum(image), HIGHEST * first_spot)
    if len(rings.radii) < 5:
        return None
    fitted = _fit(rings, rings.powers, noise)
    if fitted is None:
        return None
    height, exponent, knee, end, floor = fitted
    span = np.linspace(0, HIGHEST * first_spot, 1000)
    above = span[height * density(span, exponent, knee, end) > floor]
    if height < SMALLEST_EXCESS * floor or len(above) == 0 or above[-1] < rings.radii[1]:
        return None
    # Where its spectrum ends, or sooner, where it is lost in what lies between the spots.
    highest = float(min(above[-1], end))
    deviation = _deviation(fitted, highest)
    draws = []
    for _ in range(24):
        # The mean power of a ring of n frequencies, in pairs, is known to sqrt(2 / n).
        again = rings.powers * generator.gamma(rings.counts / 2, 2 / rings.counts)
        if (other := _fit(rings, again, noise, fitted)) is not None:
            draws.append((_deviation(other, highest), other[1], 1 / other[2]))
    errors = np.std(draws, axis=0) if len(draws) > 1 else np.array([deviation, exponent, 1 / knee])
    skewness, skew_error = _skewness(image, highest, generator)
    return Background(
        deviation,
        exponent,
        1 / highest,
        1 / knee,
        bool(knee <= 1.01 * rings.lowest),
        skewness,
        (float(errors[0]), float(errors[1]), float(errors[2]), skew_error),
        floor,
        rings.radii,
        rings.powers,
    )


def ring_means(power: np.ndarray, highest: float) -> Rings:
    """Mean power of `power_spectrum`, (ny, nx), in rings up to a frequency, cycles per pixel.

    Rings are 1.5 steps wide, the lowest that of the image's sides. Geometric means, which single
    spots hardly move, made to those of an exponential distribution.
    """
    fx, fy = frequencies(power.shape)
    ny, nx = power.shape
    radius = np.hypot(fx, fy)
    row, column = (np.rint(np.abs(f * n)).astype(np.int64) for f, n in ((fy, ny), (fx, nx)))
    near = (radius <= highest) & (radius > 0)
    ring = np.where(row**2 + column**2 < 1.5**2, 0, 1 + radius * min(ny, nx) / 1.5)[near]
    ring = ring.astype(np.int64)
    counts = np.bincount(ring)
    full = counts >= 4
    sums = np.bincount(ring, weights=np.log(power[near] + 1e-300))
    radii = np.bincount(ring, weights=radius[near])
    means = np.exp(sums[full] / counts[full] + np.euler_gamma)
    low = np.maximum(row, column)[near] < LOWEST
    place = np.broadcast_to(row * LOWEST + column, power.shape)[near]
    within = np.zeros((len(counts), LOWEST**2))
    np.add.at(within, (ring[low], place[low]), 1.0)
    sides = np.arange(WAVES + 1) / 2
    waves = np.hypot(sides[:, None] / ny, sides / nx)
    return Rings(
        radii[full] / counts[full],
        means,
        counts[full].astype(np.float64),
        within[full] / counts[full, None],
        waves.ravel(),
        1 / max(ny, nx),
    )


@dataclass(frozen=True)
class Rings:
    """Mean powers of rings of frequencies, and how a spectrum is seen there.

    radii, powers, counts: (n,) mean frequency in cycles per pixel, mean power, number of
    frequencies. within: (n, LOWEST^2) share of each of the lowest frequencies in a ring. waves:
    frequencies in cycles per pixel of the waves whose view at the lowest is known. lowest: one step
    of the longer side, cycles per pixel.
    """

    radii: np.ndarray
    powers: np.ndarray
    counts: np.ndarray
    within: np.ndarray
    waves: np.ndarray
    lowest: float

    def see(self, exponent: float, knee: float, end: float) -> np.ndarray:
        """Geometric mean in each ring of what is seen of a spectrum `density`: (n,)."""
        seen = view_of_window() @ density(self.waves, exponent, knee, end)
        logs = np.log(np.maximum(density(self.radii, exponent, knee, end), 1e-30))
        logs = logs * (1 - self.within.sum(axis=1)) + self.within @ np.log(seen)
        return np.exp(logs)


@lru_cache(maxsize=1)
def view_of_window() -> np.ndarray:
    """Power that `power_spectrum` has at low frequencies, of waves of power 1 at every frequency.

    (LOWEST^2, (WAVES + 1)^2) float64: row by row, frequencies of 0 to LOWEST - 1 steps along y and
    x, and waves of 0 to WAVES half steps; a wave stands for all four directions, of which it is the
    mirror image, and a frequency for their mean. In steps of frequency it is the same for images of
    any size and shape, by sums over 64 points a side.
    """
    place = (np.arange(64) + 0.5) / 64
    window = np.sin(np.pi * place) ** 2
    window /= math.sqrt(np.mean(window**2))
    slope = 2 * place - 1
    wave = np.exp(2j * np.pi * np.outer(np.arange(-WAVES, WAVES + 1) / 2, place))
    tests = window * np.exp(-2j * np.pi * np.outer(np.arange(LOWEST), place)) / 64
    views, flats, slopes = tests @ wave.T, tests.sum(axis=1), tests @ slope
    means, leans = wave.mean(axis=1), wave @ slope / (slope @ slope)
    # The wave less its mean and its slopes, along y (y, its wave) and x (x, its wave).
    seen = np.einsum("ya,xb->yxab", views, views)
    seen -= np.einsum("y,x,a,b->yxab", flats, flats, means, means)
    seen -= np.einsum("y,x,a,b->yxab", slopes, flats, leans, means)
    seen -= np.einsum("y,x,a,b->yxab", flats, slopes, means, leans)
    # Less what the window lets through of a constant.
    seen -= seen[0, 0] * np.einsum("y,x->yx", flats, flats)[..., None, None] / flats[0] ** 2
    # Waves half a step apart are a quarter of the area of a frequency.
    power = np.abs(seen) ** 2 / 4
    for axis in (2, 3):
        power = np.moveaxis(power, axis, -1)
        middle = power[..., WAVES : WAVES + 1]
        pairs = power[..., WAVES + 1 :] + power[..., WAVES - 1 :: -1]
        power = np.moveaxis(np.concatenate([middle, pairs], axis=-1), -1, axis)
    return power.reshape(LOWEST**2, -1)


def solve_variation(skewness: float) -> float:
    """Of max(0, 1 + v s), s standard normal: the v of that skewness.

    Skewness grows with v from 0; v is kept within 0.3, below which the cut no longer matters, and
    2.
    """
    values = np.geomspace(0.3, 2.0, 60)
    return float(np.interp(skewness, [cut_moments(v)[2] for v in values], values))


def spread_variation(ratio: float) -> float:
    """Of max(0, 1 + v s): the v, 0.05 to 3, at which deviation over mean is `ratio`."""
    values = np.geomspace(0.05, 3.0, 80)
    moments = [cut_moments(v) for v in values]
    return float(np.interp(ratio, [deviation / mean for mean, deviation, _ in moments], values))


def cut_moments(v: float) -> tuple[float, float, float]:
    """Mean, standard deviation and skewness of max(0, 1 + v s), s standard normal."""
    s = np.linspace(-8, 8, 4001)
    weights = np.exp(-(s**2) / 2)
    weights /= weights.sum()
    x = np.maximum(1 + v * s, 0)
    mean = float(weights @ x)
    deviation = math.sqrt(float(weights @ (x - mean) ** 2))
    return mean, deviation, float(weights @ (x - mean) ** 3) / deviation**3


def _fit(
    rings: Rings,
    powers: np.ndarray,
    noise: float,
    near: tuple[float, float, float, float, float] | None = None,
) -> tuple[float, float, float, float, float] | None:
    """Height, exponent, knee, end and floor: floor + height min(1, (f / knee)^-exponent) cut(f).

    The cut is that of a campaign's film: half a cosine from 0.8 to 1.2 times the end. powers: (n,)
    of the rings. near: where to begin; without, from several places.
    """
    from scipy.optimize import least_squares

    low, high = rings.lowest, float(rings.radii[-1])
    weights = np.sqrt(np.minimum(rings.counts, 60.0))
    target = np.log(powers)

    def misfit(parameters: np.ndarray) -> np.ndarray:
        height, exponent, knee, end, floor = parameters
        slow = np.exp(height) * rings.see(exponent, math.exp(knee), math.exp(end))
        return weights * (np.log(slow + math.exp(floor)) - target)

    bottom = math.log(max(noise, 1e-300))
    top = max(float(target.max()), bottom) + 3
    start_floor = min(max(float(np.median(target[-max(3, len(target) // 4) :])), bottom), top)
    lower = [bottom - 10, EXPONENTS[0], math.log(low), math.log(1.5 * low), bottom - 0.05]
    upper = [top, EXPONENTS[1], math.log(0.8 * high), math.log(1.5 * high), top]
    starts = [
        [float(target[:3].mean()), 2.5, math.log(knee), math.log(end), start_floor]
        for knee in (1.5 * low, math.sqrt(low * high))
        for end in (0.5 * high, 1.3 * high)
    ]
    if near is not None:
        height, exponent, knee, end, floor = near
        starts = [[math.log(height), exponent, *(math.log(x) for x in (knee, end, floor))]]
    best = None
    for start in starts:
        found = least_squares(
            misfit, np.clip(start, lower, upper), bounds=(lower, upper), loss="soft_l1"
        )
        if best is None or found.cost < best.cost:
            best = found
    if best is None or not np.isfinite(best.x).all():
        return None
    height, exponent, knee, end, floor = best.x
    return math.exp(height), float(exponent), math.exp(knee), math.exp(end), math.exp(floor)


def density(f: np.ndarray, exponent: float, knee: float, end: float) -> np.ndarray:
    """Spectrum of a film of contamination, 1 on its flat part, at frequencies in any unit."""
    return power_density(f, FilmSettings(1.0, 1.0, exponent, 1 / end, 1 / knee))


def _deviation(fitted: tuple[float, float, float, float, float], highest: float) -> float:
    """Standard deviation that a spectrum gives between zero and a frequency."""
    height, exponent, knee, end, _ = fitted
    f = np.linspace(0, highest, 2000)
    powers = height * density(f, exponent, knee, end)
    # It vanishes at either end of the sum, or nearly.
    return math.sqrt(2 * math.pi * float((f * powers).sum()) * float(f[1]))


def _skewness(
    image: np.ndarray, highest: float, generator: np.random.Generator
) -> tuple[float, float]:
    """Skewness of the image's low frequencies, and its error by a bootstrap over patches."""
    from scipy.ndimage import gaussian_filter

    values = np.asarray(image, dtype=np.float64)
    slow = gaussian_filter(values, 0.19 / highest, mode="mirror")
    side = max(1, round(0.5 / highest))
    samples = slow[side // 2 :: side, side // 2 :: side]
    rows, columns = (max(2, min(4, n // 3)) for n in samples.shape)
    parts = [
        part.ravel()
        for band in np.array_split(samples, rows, axis=0)
        for part in np.array_split(band, columns, axis=1)
    ]
    draws = []
    for _ in range(100):
        chosen = generator.integers(len(parts), size=len(parts))
        draws.append(_skew(np.concatenate([parts[k] for k in chosen])))
    return _skew(samples.ravel()), float(np.std(draws))


def _skew(values: np.ndarray) -> float:
    deviation = float(values.std())
    return float(np.mean((values - values.mean()) ** 3)) / deviation**3 if deviation > 0 else 0.0
