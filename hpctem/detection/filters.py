"""What is done to a recorded image: the 3 x 3 median and the crop."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.detection.kernels import PIXEL_TYPES, median_pixels
from hpctem.errors import ConfigError

# How images are to be looked at and learned from: an attribute of the stored images.
RAW_VIEW, MEDIAN_VIEW = "raw", "median 3x3"


def apply_view(image: Any, view: str) -> Any:
    """The image as its database says that it is to be looked at and learned from.

    image: (..., ny, nx) as stored; view: the attribute `view` of the stored images, 'raw' or
    'median 3x3'. Returns the same shape and dtype. Raises ConfigError for another view.
    """
    if view == RAW_VIEW:
        return image
    if view == MEDIAN_VIEW:
        return filter_median(image)
    raise ConfigError(f"the view {view!r} is unknown: {RAW_VIEW!r} or {MEDIAN_VIEW!r}")


def filter_median(image: Any) -> Any:
    """Replace each pixel by the median of its 3 x 3 neighbourhood, the edge rows repeated.

    image: (..., ny, nx) of uint8, uint16, uint32, float32 or float64, on CPU or GPU. Returns the
    same shape, dtype and device; equal to scipy.ndimage.median_filter(size=3, mode="nearest").

    A Poisson distribution is skewed, so the median lies below the mean: -3.6 % at 4 counts per
    pixel, -0.9 % at 16, -0.3 % at 48. Hence raw counts are stored and this is a view of them.

    Raises ConfigError for another dtype.
    """
    if image.dtype.name not in PIXEL_TYPES:
        raise ConfigError(
            f"the median filter has no {image.dtype.name} images: use one of "
            + ", ".join(PIXEL_TYPES)
        )
    if image.ndim == 2:
        return median_pixels(image)
    filtered = image.copy()
    for index in np.ndindex(image.shape[:-2]):
        filtered[index] = median_pixels(image[index])
    return filtered


def integrate_pixels(intensity: Any, binning: int) -> Any:
    """Average the intensity over the area of each detector pixel, about the pixel's centre.

    intensity: (ny, nx) float32 on a grid `binning` times finer than the detector's, periodic, CPU
    or GPU. Pixel (0, 0) stays at the origin: an even binning takes binning + 1 samples a side, the
    outer ones by half (trapezoid). Returns float32 (ny / binning, nx / binning); the mean and the
    sign of the intensity are kept.
    """
    if binning == 1:
        return intensity
    reach = binning // 2
    weights = [1.0] * (2 * reach + 1)
    if binning % 2 == 0:
        weights[0] = weights[-1] = 0.5
    for axis in (0, 1):
        samples = (
            np.roll(intensity, -step, axis)[_every(binning, axis)] * np.float32(weight / binning)
            for step, weight in zip(range(-reach, reach + 1), weights, strict=True)
        )
        intensity = sum(samples)
    return intensity


def _every(binning: int, axis: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(None, None, binning),)


def draw_crop(
    shape: tuple[int, int], size: tuple[int, int], generator: np.random.Generator
) -> tuple[int, int]:
    """Where a window of `size` (rows, columns) begins in an image of `shape`, uniform over all.

    Returns (row, column) of its first pixel. Raises ConfigError when the window does not fit.
    """
    if not (0 < size[0] <= shape[0] and 0 < size[1] <= shape[1]):
        raise ConfigError(
            f"a crop of {size[0]} x {size[1]} px does not fit in an image of "
            f"{shape[0]} x {shape[1]} px"
        )
    row = int(generator.integers(shape[0] - size[0] + 1))
    column = int(generator.integers(shape[1] - size[1] + 1))
    return row, column


def crop(image: Any, first: tuple[int, int], size: tuple[int, int]) -> Any:
    """The window of `size` (rows, columns) from pixel `first` (row, column) on: a contiguous copy.

    image: (..., ny, nx), CPU or GPU; the same window is cut from an image and its labels.
    Raises ConfigError when the window does not lie inside.
    """
    (row, column), (ny, nx) = first, size
    if row < 0 or column < 0 or row + ny > image.shape[-2] or column + nx > image.shape[-1]:
        raise ConfigError(
            f"a crop of {ny} x {nx} px from row {row}, column {column} leaves the image of "
            f"{image.shape[-2]} x {image.shape[-1]} px"
        )
    return image[..., row : row + ny, column : column + nx].copy()
