"""What a segmentation reaches without learning: everything a particle; a threshold of grey."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpctem.learning.judging.metrics import count_confusion, score, tally_pixels

# Standard deviations of the blur, in angstrom: they take away lattice fringes, then noise.
BLURS = (1.0, 2.0, 4.0, 8.0)
BINS = 256
ALL = "all particle"


def find_otsu_threshold(values: np.ndarray) -> float:
    """The value that parts an array into two classes of the largest variance between them.

    Of a histogram of 256 bins over the range (Otsu, IEEE Trans. Syst. Man Cybern. 9, 62, 1979);
    values above it are of the upper class. Of a flat array that value.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * difference**2, 0.0)
    # Empty bins between two classes part them equally well: the middle of those.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def name_baselines() -> tuple[str, ...]:
    """The names of what `tally_baselines` gives, in its order."""
    sides = ("dark", "bright")
    return (ALL, *(f"Otsu, blurred by {blur:g} A, {side}" for blur in BLURS for side in sides))


def tally_baselines(
    image: np.ndarray, truth: np.ndarray, pixel_size: float, blocks: int = 1
) -> np.ndarray:
    """Tallies of the baselines on one image, all classes as one: int64 (b, blocks^2, 3).

    image: (ny, nx) as stored; truth: (ny, nx), 0 background; pixel_size: A. Otsu's threshold of the
    image under a Gaussian of each of four widths, particles dark or bright.
    """
    particles = (truth > 0).astype(np.uint8)
    tallies = [
        tally_pixels(count_confusion(particles, mask.astype(np.uint8), 1, blocks))[:, 0]
        for mask in _predict(image, pixel_size)
    ]
    return np.stack(tallies)


def _predict(image: np.ndarray, pixel_size: float) -> Iterator[np.ndarray]:
    from scipy.ndimage import gaussian_filter

    yield np.ones(image.shape, bool)
    for blur in BLURS:
        smooth = gaussian_filter(image.astype(np.float32), blur / pixel_size, mode="nearest")
        bright = smooth > find_otsu_threshold(smooth)
        yield ~bright
        yield bright


def choose_baselines(tallies: np.ndarray) -> dict[str, int]:
    """The two that are reported, 'all particle' and the best Otsu: name -> number.

    tallies: (b, n, 3) of a whole set. That Otsu is taken which has the best F1 of this very set,
    in its favour.
    """
    f1 = np.nan_to_num(score(tallies.sum(axis=1))[:, 2], nan=-1.0)
    best = 1 + int(np.argmax(f1[1:]))
    return {ALL: 0, name_baselines()[best]: best}
