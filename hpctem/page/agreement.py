"""Whether drawn values agree with the distribution that the campaign asks for.

Continuous distributions are tested by Kolmogorov and Smirnov's statistic D with the distribution
known beforehand (no parameter is estimated), those with probabilities by Pearson's chi-square over
classes of at least five expected draws. A grid without spread is no matter of chance: every value
has to be the one of its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.sampling import Distribution, Value

LEAST_DRAWS = 5
LEAST_EXPECTED = 5.0
# Probability that a whole page of right draws calls any of them a departure.
FALSE_ALARM = 0.01


@dataclass(frozen=True)
class Fit:
    """How draws fit their distribution.

    draws       number of independent draws
    statistic   'D = 0.021', 'chi2 = 3.1, 3 degrees of freedom', or '' where nothing was computed
    probability of a statistic at least as large by chance; None where there is no test
    fault       what is wrong whatever the test says: values outside the support, grid points amiss
    """

    draws: int
    statistic: str = ""
    probability: float | None = None
    fault: str = ""

    def departs(self, tests: int) -> bool:
        """The draws are not of the distribution, with one per cent of false alarms in all tests."""
        if self.fault:
            return True
        return self.probability is not None and self.probability < FALSE_ALARM / max(tests, 1)


def is_discrete(distribution: Distribution) -> bool:
    """Whether single values have probabilities: whole numbers, categories, choices, grid points."""
    if distribution.kind in ("constant", "choice", "grid"):
        return distribution.std == 0
    return distribution.integer or distribution.support[0] == distribution.support[1]


def probabilities(distribution: Distribution) -> dict[Value, float]:
    """Value -> probability of a discrete distribution, in the order of the values."""
    if distribution.kind in ("constant", "choice", "grid"):
        weights = distribution.weights or (1.0,) * len(distribution.values)
        total = math.fsum(weights)
        found: dict[Value, float] = {}
        for value, weight in zip(distribution.values, weights, strict=True):
            found[value] = found.get(value, 0.0) + weight / total
        texts = any(isinstance(value, str) for value in found)
        return found if texts else dict(sorted(found.items()))
    low, high = distribution.support
    if not distribution.integer:
        return {low: 1.0}
    if distribution.kind == "uniform":
        numbers = range(int(low), int(high) + 1)
        return {number: 1 / len(numbers) for number in numbers}
    numbers = range(round(low), round(high) + 1)
    edges = cumulative(distribution, np.arange(numbers.start, numbers.stop + 1) - 0.5)
    return dict(zip(numbers, np.diff(edges).tolist(), strict=True))


def cumulative(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    """Probability of a value of at most x, for numbers: float64 of x's shape.

    A grid with spread counts its points alike.
    """
    from scipy.special import ndtr

    x = np.asarray(x, dtype=np.float64)
    low, high = distribution.parameters
    if distribution.kind in ("constant", "choice", "grid"):
        points = probabilities(distribution)
        if distribution.std > 0:
            parts = [p * ndtr((x - float(v)) / distribution.std) for v, p in points.items()]
        else:
            parts = [p * (x >= float(v)) for v, p in points.items()]
        return np.sum(parts, axis=0)
    if distribution.kind == "normal":
        return _cumulate_normal(distribution, x)
    if low == high:
        return (x >= low).astype(np.float64)
    inside = np.clip(x, low, high)
    if distribution.kind == "log_uniform":
        return np.log(inside / low) / math.log(high / low)
    return (inside - low) / (high - low)


def _cumulate_normal(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    mean, std = distribution.parameters
    low, high = distribution.bounds
    if std == 0:
        return (x >= mean).astype(np.float64)
    z = (x - mean) / std
    if distribution.clip:
        return np.where(x < low, 0.0, np.where(x >= high, 1.0, ndtr(z)))
    a, b = (low - mean) / std, (high - mean) / std
    z = np.clip(z, a, b)
    if a > 0:  # in the upper tail differences of the lower one have no digits left
        return (ndtr(-a) - ndtr(-z)) / (ndtr(-a) - ndtr(-b))
    return (ndtr(z) - ndtr(a)) / (ndtr(b) - ndtr(a))


def density(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    """Probability per unit of x of a continuous distribution: float64 of x's shape.

    What a clipped normal has on its bounds is left out.
    """
    x = np.asarray(x, dtype=np.float64)
    low, high = distribution.parameters
    if distribution.kind == "grid":
        points = probabilities(distribution)
        return np.sum([p * _bell(x, float(v), distribution.std) for v, p in points.items()], axis=0)
    if distribution.kind == "normal":
        mean, std = distribution.parameters
        least, most = distribution.bounds
        scale = 1.0
        if not distribution.clip:
            a, b = (np.array(bound) for bound in distribution.bounds)
            whole = Distribution("normal", parameters=distribution.parameters)
            scale = float(cumulative(whole, b) - cumulative(whole, a))
        return np.where((x >= least) & (x <= most), _bell(x, mean, std) / scale, 0.0)
    inside = (x >= low) & (x <= high)
    if distribution.kind == "log_uniform":
        return np.where(inside, 1 / (np.maximum(x, low) * math.log(high / low)), 0.0)
    return np.where(inside, 1 / (high - low), 0.0)


def _bell(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def compare(distribution: Distribution, values: np.ndarray, positions: np.ndarray) -> Fit:
    """How drawn values fit the distribution.

    values: (n,) numbers, or str of a category, one for each independent draw. positions: (n,)
    int64, the running index of each draw at its level, which picks a grid's point.
    """
    count = len(values)
    if count == 0:
        return Fit(0)
    if distribution.kind == "grid":
        return _compare_grid(distribution, values, positions)
    fault = _find_fault(distribution, values)
    if fault or count < LEAST_DRAWS:
        return Fit(count, fault=fault)
    if is_discrete(distribution):
        expected = probabilities(distribution)
        if len(expected) < 2:
            return Fit(count)
        observed = count_classes(values, list(expected))[:-1]
        return _test_classes(observed, np.array(list(expected.values())))
    if distribution.kind == "normal" and distribution.clip:
        edges = _clipped_classes(distribution)
        places = np.searchsorted(edges, values, side="left")
        observed_in = np.bincount(places, minlength=len(edges) + 1)
        steps = np.diff(cumulative(distribution, edges), prepend=0.0, append=1.0)
        return _test_classes(observed_in, steps)
    return _test_continuous(cumulative(distribution, values), count)


def _compare_grid(distribution: Distribution, values: np.ndarray, positions: np.ndarray) -> Fit:
    points = np.array(distribution.values)[positions % len(distribution.values)]
    if distribution.std == 0:
        same = points == values
        if values.dtype.kind not in "US":
            same = np.isclose(values, points, rtol=1e-12, atol=0)
        wrong = int(np.count_nonzero(~same))
        fault = (
            f"{wrong:,} of {len(values):,} values are not the grid's at their place"
            if wrong
            else ""
        )
        return Fit(len(values), fault=fault)
    if len(values) < LEAST_DRAWS:
        return Fit(len(values))
    spread = Distribution("normal", parameters=(0.0, distribution.std))
    return _test_continuous(cumulative(spread, values - points), len(values))


def _find_fault(distribution: Distribution, values: np.ndarray) -> str:
    """Values that cannot have been drawn."""
    if is_discrete(distribution):
        wrong = int(count_classes(values, list(probabilities(distribution)))[-1])
    else:
        low, high = distribution.parameters
        if distribution.kind == "normal":
            low, high = distribution.bounds
        # Exponentials and conversions of units move a bound by a few units in the last place.
        slack = 1e-12 * max(abs(low), abs(high)) if math.isfinite(low + high) else 0.0
        wrong = int(np.count_nonzero(~((values >= low - slack) & (values <= high + slack))))
    return f"{wrong:,} of {len(values):,} values cannot come from it" if wrong else ""


def count_classes(values: np.ndarray, known: Sequence[Value]) -> np.ndarray:
    """How many values are each of the known ones, and last how many are none: (len + 1,) int64.

    Numbers may differ by the rounding that a conversion of units leaves.
    """
    if any(isinstance(value, str) for value in known):
        counts = [int(np.count_nonzero(values == value)) for value in known]
        return np.array([*counts, len(values) - sum(counts)])
    order = np.argsort(np.array(known, dtype=np.float64))
    points = np.array(known, dtype=np.float64)[order]
    place = np.searchsorted((points[1:] + points[:-1]) / 2, values)
    near = np.isclose(values, points[place], rtol=1e-12, atol=0)
    found = np.bincount(place[near], minlength=len(points))
    result = np.empty(len(points) + 1, dtype=np.int64)
    result[order] = found
    result[-1] = len(values) - found.sum()
    return result


def _clipped_classes(distribution: Distribution) -> np.ndarray:
    """Edges that put each bound into a class of its own and the rest into classes alike."""
    from statistics import NormalDist

    low, high = distribution.bounds
    mean, std = distribution.parameters
    inner = [mean + std * NormalDist().inv_cdf(k / 12) for k in range(1, 12)]
    least = [low] if math.isfinite(low) else []
    most = [math.nextafter(high, -math.inf)] if math.isfinite(high) else []
    return np.array([*least, *(x for x in inner if low < x < high), *most])


def _test_continuous(levels: np.ndarray, count: int) -> Fit:
    """Kolmogorov and Smirnov: `levels` are the distribution's cumulative at the draws."""
    from scipy.stats import kstwo

    levels = np.sort(levels)
    steps = np.arange(count + 1) / count
    distance = float(max((steps[1:] - levels).max(), (levels - steps[:-1]).max()))
    probability = float(kstwo.sf(distance, count))
    return Fit(count, f"Kolmogorov–Smirnov D = {distance:.3g}", probability)


def _test_classes(observed: np.ndarray, expected: np.ndarray) -> Fit:
    """Pearson's chi-square; neighbouring classes are joined until each expects five draws."""
    from scipy.stats import chi2

    count = int(observed.sum())
    joined: list[list[float]] = []
    for seen, share in zip(observed, expected * count, strict=True):
        if joined and (joined[-1][1] < LEAST_EXPECTED or share == 0):
            joined[-1][0] += seen
            joined[-1][1] += share
        else:
            joined.append([float(seen), float(share)])
    if len(joined) > 1 and joined[-1][1] < LEAST_EXPECTED:
        seen, share = joined.pop()
        joined[-1][0] += seen
        joined[-1][1] += share
    freedom = len(joined) - 1
    if freedom < 1:
        return Fit(count)
    statistic = sum((seen - share) ** 2 / share for seen, share in joined)
    degrees = "1 degree" if freedom == 1 else f"{freedom} degrees"
    size = f"{statistic:.3g}" if statistic < 1000 else f"{statistic:,.0f}"
    text = f"χ² = {size}, {degrees} of freedom"
    return Fit(count, text, float(chi2.sf(statistic, freedom)))
