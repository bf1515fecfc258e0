"""Whether images repeat what a network learnt from: the highest correlation with any part of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Learnt:
    """An image (ny, nx) that was learnt from; every patch of it is a patch of training."""

    image: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """The image without its mean, float64: smaller numbers lose less in the sums."""
        values = np.asarray(self.image, dtype=np.float64)
        return values - values.mean()

    @cached_property
    def spectrum(self) -> np.ndarray:
        """Its transform, that of a real image."""
        return np.fft.rfft2(self.values)

    def spread(self, shape: tuple[int, ...]) -> np.ndarray:
        """Root of the sum of squares about the mean of each patch of that shape, by its corner."""
        sums, squares = (_sum_boxes(values, shape) for values in (self.values, self.values**2))
        return np.sqrt(np.maximum(squares - sums**2 / (shape[0] * shape[1]), 0))


def list_symmetries(patch: np.ndarray) -> list[np.ndarray]:
    """A square patch (n, n) turned by 0, 90, 180 and 270 degrees, and mirrored: 8 of them."""
    mirrored = patch[:, ::-1]
    return [np.rot90(one, turns) for one in (patch, mirrored) for turns in range(4)]


def find_highest_correlation(patch: np.ndarray, learnt: Learnt) -> float:
    """The largest Pearson correlation of a patch (n, n) with any patch of a larger image.

    Over all places where the patch lies within the image, and the 8 symmetries of the square, by
    which training patches are varied. Brightness and contrast play no part: 1 is a copy. Of a
    crystal the lattice alone correlates; what patches of an image nobody learnt from reach is what
    to compare with. -1 where one of them is flat everywhere.

    Raises ValueError for a patch that is larger than the image.
    """
    ny, nx = learnt.image.shape
    rows, columns = patch.shape
    if rows > ny or columns > nx:
        raise ValueError(f"a patch of {patch.shape} is larger than the image of {(ny, nx)}")
    values = np.asarray(patch, dtype=np.float64)
    values = values - values.mean()
    size = float(np.sqrt((values**2).sum()))
    spread = learnt.spread(patch.shape)
    usable = spread > 1e-6 * spread.max(initial=0)
    if not (size > 0 and usable.any()):
        return -1.0
    best = -1.0
    for one in list_symmetries(values):
        spectrum = np.fft.rfft2(one, (ny, nx))
        products = np.fft.irfft2(learnt.spectrum * spectrum.conj(), (ny, nx))
        # Places from which the patch would reach over the edge wrap around: they are left out.
        inside = products[: ny - rows + 1, : nx - columns + 1]
        best = max(best, float((inside[usable] / spread[usable]).max()) / size)
    return min(best, 1.0)


def _sum_boxes(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    rows, columns = shape
    return (
        sums[rows:, columns:]
        - sums[:-rows, columns:]
        - sums[rows:, :-columns]
        + sums[:-rows, :-columns]
    )
