"""How far one set of images is from another: histograms, local texture, features of a network.

Sets are patches (n, side, side), each set prepared as a group: saturated at 3.5 standard deviations
from its mean, then scaled to -1...1 (Khan et al. 2023, Methods).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpctem.sampling import Streams

BINS = 256
EVEN = 1e-3
DESCRIPTOR = 7  # pixels a side, as Karras et al. 2018
EACH = 64
PROJECTIONS = 128
LEAST_LEVEL = 32  # pixels a side of a patch's smallest level
KERNEL = np.array([1, 4, 6, 4, 1]) / 16


def count_intensities(patches: np.ndarray) -> np.ndarray:
    """Share of pixels in 256 bins of equal width from -1 to 1: float64 (256,), smoothed.

    A thousandth of all is spread evenly over the bins, so that none is empty and the divergence
    from a set that lacks a grey altogether is large but finite, whatever the number of pixels.
    """
    counts, _ = np.histogram(np.clip(patches, -1, 1), bins=BINS, range=(-1, 1))
    return (1 - EVEN) * counts / counts.sum() + EVEN / BINS


def measure_divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Kullback-Leibler divergence sum P log(P / Q) in nats of shares P (n,) and Q (n,), none zero.

    P is the reference, the experiment (Khan et al. 2023, figure 3).
    """
    return float(np.sum(reference * np.log(reference / other)))


def split_scales(patches: np.ndarray) -> list[np.ndarray]:
    """What patches (n, side, side) show at each scale, fine to coarse: (n, s, s), float32 each.

    Each level is the difference of an image from itself under a binomial blur of 5 x 5, which then,
    at every second pixel, is the image of the next level, until 32 pixels a side are left; the last
    level is what remains (Burt and Adelson, IEEE Trans. Commun. 31, 532, 1983).
    """
    from scipy.ndimage import convolve1d

    levels = []
    rest = np.asarray(patches, dtype=np.float32)
    while rest.shape[-1] >= 2 * LEAST_LEVEL:
        smooth = convolve1d(convolve1d(rest, KERNEL, 1, mode="mirror"), KERNEL, 2, mode="mirror")
        levels.append(rest - smooth)
        rest = smooth[:, ::2, ::2]
    return [*levels, rest]


def take_descriptors(level: np.ndarray, seed: int) -> np.ndarray:
    """Squares of 7 x 7 pixels, 64 at random places of each image (n, s, s): float32 (n 64, 49)."""
    generator = Streams(seed)("realism/descriptors", 0)
    count, side = len(level), level.shape[-1]
    rows, columns = generator.integers(0, side - DESCRIPTOR + 1, (2, count, EACH))
    span = np.arange(DESCRIPTOR)
    image = np.arange(count)[:, None, None, None]
    squares = level[
        image,
        rows[:, :, None, None] + span[:, None],
        columns[:, :, None, None] + span,
    ]
    return squares.reshape(count * EACH, DESCRIPTOR**2)


def measure_sliced(one: np.ndarray, other: np.ndarray, seed: int = 0) -> float:
    """Sliced Wasserstein distance of order 1 of two clouds of points (n, d) and (m, d).

    The mean over 128 random directions of the mean distance between the sorted projections (Rabin
    et al., Scale Space and Variational Methods 2011; Karras et al., ICLR 2018). Of the larger cloud
    as many points as the smaller one has are drawn.
    """
    streams = Streams(seed)
    count = min(len(one), len(other))
    clouds = []
    for number, cloud in enumerate((one, other)):
        if len(cloud) > count:
            chosen = streams("realism/points", number).permutation(len(cloud))[:count]
            cloud = cloud[np.sort(chosen)]
        clouds.append(np.asarray(cloud, dtype=np.float32))
    directions = streams("realism/directions", 0).normal(size=(one.shape[1], PROJECTIONS))
    directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
    first, second = (np.sort(cloud @ directions, axis=0) for cloud in clouds)
    return float(np.abs(first - second).mean(dtype=np.float64))


def measure_texture(
    reference: Sequence[np.ndarray], other: Sequence[np.ndarray], seed: int = 0
) -> list[float]:
    """Sliced Wasserstein distances of 7 x 7 squares at each scale, fine to coarse.

    reference, other: levels of `split_scales`. In units of the standard deviation of the
    reference's squares at that scale, so that scales of little contrast count as well.
    """
    found = []
    for number, (mine, theirs) in enumerate(zip(reference, other, strict=True)):
        squares = take_descriptors(mine, seed + number), take_descriptors(theirs, seed + number)
        spread = float(squares[0].std(dtype=np.float64))
        found.append(measure_sliced(*squares, seed=seed) / max(spread, 1e-12))
    return found


def measure_frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of the Gaussians of two sets of features (n, d) and (m, d).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, J. Multivariate Anal. 12, 450,
    1982; Heusel et al., NIPS 2017, equation 6), float64. The covariances have n - 1 below.
    """
    means = one.mean(axis=0, dtype=np.float64), other.mean(axis=0, dtype=np.float64)
    first, second = (np.atleast_2d(np.cov(set_, rowvar=False)) for set_ in (one, other))
    # tr (C1 C2)^(1/2) = tr (R C2 R)^(1/2) with R = C1^(1/2), all of them symmetric.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.maximum(middle, 0)).sum()
    apart = float(((means[0] - means[1]) ** 2).sum())
    return max(apart + float(np.trace(first) + np.trace(second) - 2 * shared), 0.0)


def measure_closing(raw: float, other: float, floor: float) -> float | None:
    """Which part of the gap between a raw set and the floor another set has closed.

    1 - (d - floor) / (d_raw - floor), of distances from the experiment: 1 at the floor, which two
    halves of the experiment have between them, 0 where nothing was gained, below that where it got
    worse, above 1 where it is nearer than the halves are. None where the raw set is as near as the
    floor: there is no gap.
    """
    if not raw > floor:
        return None
    return 1 - (other - floor) / (raw - floor)
