"""How right predictions are: counts of right and wrong, scores of them, and their intervals.

Everything is counted per part of an image (a part is the whole image, or one of its blocks), so
that sums over any images are exact and intervals come from drawing parts anew. A tally is
(..., 3): true positives, false positives, false negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

SCORES = ("precision", "recall", "f1", "iou")
LEVEL = 0.95
REPEATS = 1000
# With so many independent images an interval needs no blocks within them.
ENOUGH = 20
# Random numbers drawn at once by the bootstrap.
AT_ONCE = 2_000_000


def count_confusion(
    truth: np.ndarray, found: np.ndarray, classes: int, blocks: int = 1
) -> np.ndarray:
    """How many pixels of each true class were taken for which: int64 (blocks^2, K + 1, K + 1).

    truth, found: (ny, nx) of whole numbers, 0 background, k class k of K = `classes`. The image is
    cut into blocks x blocks parts, row by row.

    Raises ValueError for maps of different shapes or values beyond the classes.
    """
    if truth.shape != found.shape:
        raise ValueError(f"the truth is {truth.shape}, the prediction {found.shape}")
    if max(int(truth.max(initial=0)), int(found.max(initial=0))) > classes:
        raise ValueError(f"a map holds more than {classes} classes")
    size = classes + 1
    pairs = truth.astype(np.int64) * size + found
    rows, columns = (np.arange(n) * blocks // n for n in truth.shape)
    part = rows[:, None] * blocks + columns[None, :]
    counts = np.bincount((part * size**2 + pairs).ravel(), minlength=blocks**2 * size**2)
    return counts.reshape(blocks**2, size, size)


def tally_pixels(confusion: np.ndarray) -> np.ndarray:
    """Tallies (..., K + 1, 3) of a confusion (..., K + 1, K + 1).

    The first K are those of the classes, the last that of all classes as one: a pixel of any class
    is right where any class was found.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)[..., 1:]
    false = confusion[..., :, 1:].sum(axis=-2) - right
    missed = confusion[..., 1:, :].sum(axis=-1) - right
    classes = np.stack([right, false, missed], axis=-1)
    together = np.stack(
        [
            confusion[..., 1:, 1:].sum(axis=(-2, -1)),
            confusion[..., 0, 1:].sum(axis=-1),
            confusion[..., 1:, 0].sum(axis=-1),
        ],
        axis=-1,
    )
    return np.concatenate([classes, together[..., None, :]], axis=-2)


def score(tallies: np.ndarray) -> np.ndarray:
    """Precision, recall, F1 and IoU of tallies (..., 3): float64 (..., 4).

    F1 = TP / (TP + (FP + FN) / 2) (Rangel DaCosta et al. 2024, Methods), IoU = TP / (TP + FP + FN).
    NaN where there is nothing to be right about: precision where nothing was found, recall where
    nothing is there, F1 and IoU where both.
    """
    right, false, missed = np.moveaxis(np.asarray(tallies, dtype=np.float64), -1, 0)
    wholes = (right + false, right + missed, right + (false + missed) / 2, right + false + missed)
    with np.errstate(invalid="ignore"):
        return np.stack([right / whole for whole in wholes], axis=-1)


def score_each(tallies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each tally, 0 where they do not apply, and whether they do: float64 (..., 4)."""
    scores = score(tallies)
    return np.nan_to_num(scores, nan=0.0), np.isfinite(scores).astype(np.float64)


def choose_blocks(units: int) -> int:
    """Into how many parts a side images are cut so that about 40 parts can be drawn.

    units: independent images or structures; from 20 on whole images suffice.
    """
    return 1 if units >= ENOUGH else math.ceil(math.sqrt(2 * ENOUGH / max(units, 1)))


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: np.ndarray | None = None,
    seed: int = 0,
    repeats: int = REPEATS,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the percentile interval of a statistic of sums, groups being drawn with replacement.

    values      (n, ...) what is summed, one for each part
    statistic   of sums (r, ...), r drawings at once, gives (r, ...)
    groups      (n,) int, parts of one group are drawn together; without it each part by itself

    Both ends are NaN where there are fewer than two groups: they say nothing of the spread.
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.)
    """
    values = np.asarray(values, dtype=np.float64)
    if groups is not None:
        kinds, codes = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(kinds), *values.shape[1:]))
        np.add.at(sums, codes, values)
        values = sums
    count = len(values)
    if count < 2:
        nothing = np.full(statistic(values.sum(axis=0, keepdims=True)).shape[1:], np.nan)
        return nothing, nothing
    generator = np.random.default_rng(seed)
    step = max(1, AT_ONCE // count)
    drawn = []
    for start in range(0, repeats, step):
        size = min(step, repeats - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=size)
        drawn.append(statistic(np.tensordot(weights.astype(np.float64), values, axes=1)))
    results = np.concatenate(drawn)
    ends = np.full((2, *results.shape[1:]), np.nan)
    known = np.isfinite(results).any(axis=0)
    tails = (50 * (1 - level), 50 * (1 + level))
    ends[:, known] = np.nanpercentile(results[:, known], tails, axis=0)
    return ends[0], ends[1]


def summarise(
    tallies: np.ndarray, groups: np.ndarray, images: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Scores of all parts together, their mean over images, and the intervals of both.

    tallies   (n, 3) of parts
    groups    (n,) int, which parts are drawn together by the bootstrap
    images    (n,) int, the image that a part is of

    Returns 'true_positives', 'false_positives', 'false_negatives'; 'precision' ... as value, low,
    high of the sums over all parts; 'images' with the same of the mean over images of each image's
    score, and the number of images that have one. None stands for what does not apply.
    """
    total = tallies.sum(axis=0)
    low, high = bootstrap(tallies, score, groups, seed)
    right, false, missed = (int(value) for value in total)
    found: dict[str, Any] = {
        "true_positives": right,
        "false_positives": false,
        "false_negatives": missed,
    }
    found |= _tell(score(total), low, high)
    each, of = np.unique(images, return_inverse=True)
    whole = np.zeros((len(each), 3))
    np.add.at(whole, of, tallies)
    scores = np.stack(score_each(whole), axis=1)
    means = _tell(_mean(scores.sum(axis=0)[None])[0], *_interval_of_mean(scores, groups, of, seed))
    counts = scores[:, 1].sum(axis=0).astype(int).tolist()
    for name, count in zip(SCORES, counts, strict=True):
        means[name]["images"] = count
    return found | {"images": means}


def _interval_of_mean(
    scores: np.ndarray, groups: np.ndarray, of: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean over images (n, 2, 4); images of one group are drawn together.

    Where groups are parts of images, images are drawn.
    """
    first = np.zeros(len(scores), np.int64)
    first[of[::-1]] = groups[::-1]
    parts = len(np.unique(groups)) > len(scores)
    return bootstrap(scores, _mean, None if parts else first, seed)


def _mean(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _tell(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": plain(value[k]), "low": plain(low[k]), "high": plain(high[k])}
        for k, name in enumerate(SCORES)
    }


def plain(value: Any) -> float | None:
    """A number for JSON; None where it is not finite."""
    return float(value) if np.isfinite(value) else None
