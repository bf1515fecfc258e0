"""Slow variations of an image below the lattice's first spots: contamination on the surface.

Their power spectrum is flat up to a frequency, falls with a power of it, and is lost in what lies
between the spots. It is measured from rings of the power spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.detection.contamination import FilmSettings, power_density
from hpctem.micrographs.spectra import frequencies, power_spectrum

HIGHEST = 0.8  # of the first spot's frequency: beyond, the window spreads its power
EXPONENTS = (0.5, 6.0)
SMALLEST_EXCESS = 1.5  # of the power beside the spots, for something to be measured


@dataclass(frozen=True)
class Background:
    """Slow variations of an image; lengths in pixels, amplitudes in the image's units.

    deviation: standard deviation of what varies over longer distances than `shortest`. exponent:
    the power falls as frequency^-exponent, from wavelength `longest` (with its spectrum flat above;
    `longest_bounded` where the image is too small to say) to `shortest`, where it is lost. skewness
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
    rings, powers, counts = ring_means(power_spectrum(image), HIGHEST * first_spot)
    if len(rings) < 5:
        return None
    fitted = _fit(rings, powers, counts, noise)
    if fitted is None:
        return None
    height, exponent, knee, end, floor = fitted
    span = np.linspace(0, HIGHEST * first_spot, 1000)
    above = span[height * density(span, exponent, knee, end) > floor]
    if height < SMALLEST_EXCESS * floor or len(above) == 0 or above[-1] < rings[1]:
        return None
    # Where its spectrum ends, or sooner, where it is lost in what lies between the spots.
    highest = float(min(above[-1], end))
    deviation = _deviation(fitted, highest)
    draws = []
    for _ in range(40):
        # The mean power of a ring of n frequencies is known to 1 / sqrt(n).
        again = powers * generator.gamma(counts / 2, 2 / counts)
        if (other := _fit(rings, again, counts, noise, fitted)) is not None:
            draws.append((_deviation(other, highest), other[1], 1 / other[2]))
    errors = np.std(draws, axis=0) if len(draws) > 1 else np.array([deviation, exponent, 1 / knee])
    skewness, skew_error = _skewness(image, highest, generator)
    return Background(
        deviation,
        exponent,
        1 / highest,
        1 / knee,
        bool(knee <= 1.01 * rings[0]),
        skewness,
        (float(errors[0]), float(errors[1]), float(errors[2]), skew_error),
        floor,
        rings,
        powers,
    )


def ring_means(power: np.ndarray, highest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean power in rings up to a frequency: radii, powers and numbers of frequencies, (n,) each.

    Rings are 1.5 steps wide. Geometric means, which single spots hardly move, made to those of an
    exponential distribution; frequencies under 1.5 steps, that the window fills, are left out.
    """
    fx, fy = frequencies(power.shape)
    ny, nx = power.shape
    radius = np.hypot(fx, fy)
    near = (np.hypot(fx * nx, fy * ny) >= 1.5) & (radius <= highest)
    width = 1.5 / min(ny, nx)
    ring = (radius[near] / width).astype(np.int64)
    counts = np.bincount(ring)
    sums = np.bincount(ring, weights=np.log(power[near] + 1e-300))
    radii = np.bincount(ring, weights=radius[near])
    full = counts >= 4
    means = np.exp(sums[full] / counts[full] + np.euler_gamma)
    return radii[full] / counts[full], means, counts[full].astype(np.float64)


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
    rings: np.ndarray,
    powers: np.ndarray,
    counts: np.ndarray,
    noise: float,
    near: tuple[float, float, float, float, float] | None = None,
) -> tuple[float, float, float, float, float] | None:
    """Height, exponent, knee, end and floor: floor + height min(1, (f / knee)^-exponent) cut(f).

    The cut is that of a campaign's film: half a cosine from 0.8 to 1.2 times the end. near: where
    to begin; without, from several places.
    """
    from scipy.optimize import least_squares

    low, high = float(rings[0]), float(rings[-1])
    weights = np.sqrt(np.minimum(counts, 400.0))
    target = np.log(powers)

    def misfit(parameters: np.ndarray) -> np.ndarray:
        height, exponent, knee, end, floor = parameters
        slow = np.exp(height) * density(rings, exponent, math.exp(knee), math.exp(end))
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
