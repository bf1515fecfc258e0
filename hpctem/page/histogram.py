"""Histograms of a column, beside what its distribution lets expect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.page.agreement import count_classes, density, is_discrete, probabilities
from hpctem.page.settings import choose_common_unit
from hpctem.sampling import Distribution

LEAST_BINS, MOST_BINS = 8, 32
MOST_CLASSES, MOST_WHOLE = 101, 24


@dataclass(frozen=True)
class Histogram:
    """Numbers of values in bins or classes.

    unit       in which edges and curve are
    edges      (n + 1,) of the bins; empty for classes
    labels     names of the classes; empty for bins
    counts     (n,) values found
    expected   (n,) values expected of each class; empty for bins
    curve      x and the number expected of a bin there, (2, m); empty where nothing was asked
    log        bins are equal in the logarithm
    draws      values in all
    """

    unit: str
    edges: np.ndarray
    labels: tuple[str, ...]
    counts: np.ndarray
    expected: np.ndarray
    curve: np.ndarray
    log: bool
    draws: int


def count_draws(distribution: Distribution, values: np.ndarray, unit: str) -> Histogram:
    """The histogram of draws over their distribution; values in the internal `unit`."""
    if is_discrete(distribution):
        shares = probabilities(distribution)
        if len(shares) <= MOST_CLASSES:
            return _count_classes(shares, values, unit)
        return count_values(values.astype(np.float64), unit)
    log = distribution.kind == "log_uniform" and _spans_much(*distribution.parameters)
    low, high = _reach(distribution, values)
    bins = _choose_bins(len(values))
    if distribution.std > 0:  # each point of a grid has a peak of its own
        bins = min(4 * MOST_BINS, max(bins, round((high - low) / distribution.std)))
    edges = _place_edges(low, high, bins, log)
    counts = np.histogram(values, edges)[0]
    x = _place_edges(low, high, 240, log)
    widths = x * math.log(edges[1] / edges[0]) if log else edges[1] - edges[0]
    curve = np.stack([x, len(values) * density(distribution, x) * widths])
    return _scale(Histogram(unit, edges, (), counts, np.zeros(0), curve, log, len(values)))


def count_values(values: np.ndarray, unit: str) -> Histogram:
    """The histogram of numbers for which nothing was asked; values in the file's `unit`."""
    none = np.zeros((2, 0))
    finite = values[np.isfinite(values)].astype(np.float64)
    few = np.unique(finite)
    whole = (few == np.round(few)).all() and np.ptp(few) < MOST_WHOLE if few.size else False
    if whole:
        counts = count_classes(finite, few.tolist())[:-1]
        labels = tuple(f"{value:g}" for value in few)
        return Histogram("", np.zeros(0), labels, counts, np.zeros(0), none, False, len(finite))
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:
        low, high = low - max(abs(low), 1) * 0.05, high + max(abs(high), 1) * 0.05
    edges = np.linspace(low, high, _choose_bins(len(finite)) + 1)
    counts = np.histogram(finite, edges)[0]
    return _scale(Histogram(unit, edges, (), counts, np.zeros(0), none, False, len(finite)))


def _count_classes(shares: dict, values: np.ndarray, unit: str) -> Histogram:
    texts = any(isinstance(value, str) for value in shares)
    factor, shown = (1.0, "") if texts else choose_common_unit(list(shares), unit)
    labels = tuple(
        value.replace("_", " ") if isinstance(value, str) else f"{value * factor:.6g}"
        for value in shares
    )
    counts = count_classes(values, list(shares))[:-1]
    expected = np.array(list(shares.values())) * len(values)
    none = np.zeros((2, 0))
    return Histogram(shown, np.zeros(0), labels, counts, expected, none, False, len(values))


def _scale(found: Histogram) -> Histogram:
    """The same in the unit that a microscopist reads."""
    factor, shown = choose_common_unit(found.edges.tolist(), found.unit)
    curve = found.curve * np.array([[factor], [1.0]])
    return Histogram(
        shown,
        found.edges * factor,
        found.labels,
        found.counts,
        found.expected,
        curve,
        found.log,
        found.draws,
    )


def _reach(distribution: Distribution, values: np.ndarray) -> tuple[float, float]:
    """The range that is shown: the support, four deviations where it has no end, and all draws."""
    low, high = distribution.parameters
    if distribution.kind == "grid":
        points = [float(value) for value in distribution.values]
        low, high = min(points) - 4 * distribution.std, max(points) + 4 * distribution.std
    elif distribution.kind == "normal":
        mean, std = distribution.parameters
        least, most = distribution.bounds
        low = max(least, mean - 4 * std)
        high = min(most, mean + 4 * std)
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def _choose_bins(count: int) -> int:
    return int(np.clip(round(1.5 * math.sqrt(count)), LEAST_BINS, MOST_BINS))


def _spans_much(low: float, high: float) -> bool:
    return high >= 4 * low


def _place_edges(low: float, high: float, bins: int, log: bool) -> np.ndarray:
    return np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
