"""How far each line of a scan is displaced along itself: jitter and flagging.

Every line is compared with the lattice image that it should show. It is cut into segments, the
even and the odd ones give two displacements whose noises have nothing to do with each other; so the
covariance of the two is that of the lines themselves,

    C(d) = jitter^2 [d = 0] + flagging^2 exp(-(d / L)^2 / 2)

at a distance of d lines, whatever the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hpctem.micrographs.pattern import (
    SEGMENT,
    Pattern,
    edges,
    evaluate,
    fit_amplitudes,
)

FARTHEST_LAG = 60
# A slow displacement is reported where it is this many times its error.
SIGNIFICANT = 2.5


@dataclass(frozen=True)
class LineMotion:
    """Displacement of lines along the rows, in pixels.

    jitter, flagging: standard deviations, flagging_lines its length of correlation; `errors` those
    of the three. displacements: (ny,) the best estimate for each line. covariance: (lags,) C(d).
    steadiness: the part of a line's displacement that is not noise of the measurement.
    """

    jitter: float
    flagging: float
    flagging_lines: float
    errors: tuple[float, float, float]
    displacements: np.ndarray
    covariance: np.ndarray
    steadiness: float


def measure_lines(
    image: np.ndarray, pattern: Pattern, period: float, noise: float, generator: np.random.Generator
) -> tuple[LineMotion, Pattern]:
    """Measure the lines' displacements, and the pattern's amplitudes without them.

    image: (ny, nx), slow variations removed. period: of the lattice, pixels. noise: variance per
    pixel. generator: for the bootstrap over groups of lines that gives the errors. The second
    round takes the lattice image from lines put back to their places, which jitter has blurred in
    the first.
    """
    for _ in range(2):
        halves, weights = _compare_lines(image, pattern, period)
        motion = _summarise(halves, weights, generator)
        warp = pattern.warp.copy()
        warp[0] += motion.displacements[:, None].astype(np.float32)
        amplitudes, error = fit_amplitudes(image, pattern.places, warp, pattern.usual, noise)
        pattern = replace(pattern, amplitudes=amplitudes, noise=error)
    return motion, pattern


def _compare_lines(
    image: np.ndarray, pattern: Pattern, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of each line by its even and by its odd segments, and their information.

    Both (2, ny), pixels and pixels^-2 times the noise. Newton's steps of the whole line, of which
    three are enough for a third of a period, then one of each half from where the line lies.
    """
    ny, nx = image.shape
    count = max(2, int(nx / max(8.0, SEGMENT * period)))
    side = (np.searchsorted(edges(nx, count), np.arange(nx), side="right") - 1) % 2
    whole = np.zeros(ny)
    for _ in range(3):
        warp = pattern.warp.copy()
        warp[0] += whole[:, None].astype(np.float32)
        value, slope, _ = evaluate(pattern.places, pattern.amplitudes, warp)
        slope *= pattern.usual
        rest = (image - value) * slope
        information = np.stack([(slope[:, side == k] ** 2).sum(axis=1) for k in range(2)])
        steps = np.stack([rest[:, side == k].sum(axis=1) for k in range(2)])
        floor = 0.02 * max(float(np.median(information)), 1e-300)
        before = whole
        both = steps.sum(axis=0) / (information.sum(axis=0) + 2 * floor)
        whole = whole + np.clip(both, -0.15 * period, 0.15 * period)
    return before + steps / (information + floor), information


def _summarise(
    halves: np.ndarray,
    weights: np.ndarray,
    generator: np.random.Generator,
) -> LineMotion:
    ny = halves.shape[1]
    flat = np.stack([_detrend(row, weight) for row, weight in zip(halves, weights, strict=True)])
    products, norms = _lag_products(flat, weights, min(FARTHEST_LAG, ny // 4))
    groups = max(4, min(16, ny // 16))
    parts = [
        (np.array([c.sum(axis=1) for c in np.array_split(a, groups, axis=1)]))
        for a in (products, norms)
    ]
    covariance = products.sum(axis=1) / norms.sum(axis=1)
    jitter, flagging, length = _split(covariance)
    draws = []
    for _ in range(60):
        chosen = generator.integers(groups, size=groups)
        drawn = parts[0][chosen].sum(axis=0) / parts[1][chosen].sum(axis=0)
        draws.append(_split(drawn))
    errors = np.std(draws, axis=0)
    spread = np.std([d[1] ** 2 for d in draws])
    if flagging**2 < SIGNIFICANT * max(float(spread), 1e-300):
        jitter, flagging = math.sqrt(max(float(covariance[0]), 0.0)), 0.0
    both = (flat * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-300)
    own = float(np.var(flat[0] - flat[1])) / 4
    total = float(np.var(both))
    steadiness = max(0.0, 1 - own / total) if total > 0 else 0.0
    return LineMotion(
        jitter,
        flagging,
        length,
        (float(errors[0]), float(errors[1]), float(errors[2])),
        steadiness * both,
        covariance,
        steadiness,
    )


def _detrend(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Minus a parabola: what the warp leaves of slow distortions."""
    place = np.linspace(-1, 1, len(values))
    factors = np.polynomial.polynomial.polyfit(place, values, 2, w=np.sqrt(weights))
    return values - np.polynomial.polynomial.polyval(place, factors)


def _lag_products(
    halves: np.ndarray, weights: np.ndarray, lags: int
) -> tuple[np.ndarray, np.ndarray]:
    """Products of the two halves at each lag, weighted, and the weights: (lags, ny) each."""
    ny = halves.shape[1]
    root = np.sqrt(weights)
    first, second = halves * root
    products, norms = np.zeros((lags, ny)), np.zeros((lags, ny))
    for lag in range(lags):
        stop = ny - lag
        products[lag, :stop] = (first[:stop] * second[lag:] + first[lag:] * second[:stop]) / 2
        norms[lag, :stop] = (root[0, :stop] * root[1, lag:] + root[0, lag:] * root[1, :stop]) / 2
    return products, norms


def _split(covariance: np.ndarray) -> tuple[float, float, float]:
    """Jitter, flagging and its lines that fit a covariance C(d) best.

    Near lags count most. What of C(0) is not white is what nearby lags extrapolate to, by the
    parabola that every smooth correlation begins with.
    """
    lags = np.arange(1, len(covariance))
    weights = 1.0 / lags
    best = (math.inf, 0.0, 1.0)
    for candidate in np.geomspace(2.0, len(covariance) / 2, 40):
        shape = np.exp(-0.5 * (lags / candidate) ** 2)
        power = float((weights * shape) @ covariance[1:] / ((weights * shape) @ shape))
        misfit = float((weights * (covariance[1:] - max(power, 0.0) * shape) ** 2).sum())
        if misfit < best[0]:
            best = (misfit, max(power, 0.0), float(candidate))
    _, power, length = best
    near = lags[: max(3, round(length / 2))]
    _, smooth = np.polyfit(near**2.0, covariance[near], 1, w=np.sqrt(1 / near))
    smooth = min(max(float(smooth), 0.0), float(max(covariance[0], 0.0)))
    return math.sqrt(max(float(covariance[0]) - smooth, 0.0)), math.sqrt(power), length
