"""Images brought to the pixel size that a network has learnt from, and what it says brought back.

Pixels are squares whose centres have whole numbers; images agree in their upper left corner, the
place (-1/2, -1/2), so that pixel u of an image lies at (u + 1/2) f - 1/2 of one with f times as
many pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError

AS_IT_IS = 0.02  # relative: by so much an image may leave the range that was learnt
FARTHEST = 4.0  # by no larger factor is an image resampled
# Gaussian blur (standard deviation in pixels) that an image has by its own pixels, and is given for
# larger ones.
OWN_BLUR = 0.5

PixelSize = float | tuple[float, float]


@dataclass(frozen=True)
class Match:
    """How an image comes to the pixels of a network.

    factor  new pixels for each of its own along (y, x); 1 leaves it as it is
    note    what a user should know, or nothing
    """

    factor: tuple[float, float]
    note: str = ""


def find_sizes(pixel_size: PixelSize | None) -> tuple[float, float] | None:
    """A pixel size along (y, x), A; None where it is unknown."""
    if pixel_size is None:
        return None
    y, x = pixel_size if isinstance(pixel_size, tuple) else (pixel_size, pixel_size)
    return float(y), float(x)


def find_mean_size(pixel_size: PixelSize | None) -> float | None:
    """The side of a square pixel of the same area, A; None where it is unknown."""
    sizes = find_sizes(pixel_size)
    return None if sizes is None else math.sqrt(sizes[0] * sizes[1])


def match_pixels(pixel_size: PixelSize | None, learnt: tuple[float, float] | None) -> Match:
    """Say by how much an image is resampled for a network.

    pixel_size  A, of the image: one for both directions, along (y, x), or None where it is unknown
    learnt      A, smallest and largest that the network learnt from; None where it is unknown

    Within 2 % of that range, and of each other, pixels stay as they are; others become those of the
    range that are nearest. What is unknown stays as it is.

    Raises ConfigError for a pixel size that is not above zero or asks for a factor above 4.
    """
    sizes = find_sizes(pixel_size)
    if sizes is None or learnt is None:
        whose = "the image" if sizes is None else "the model's images"
        at = f": the model has learnt pixels of {_range(learnt)}" if learnt else ""
        return Match((1.0, 1.0), f"the pixel size of {whose} is not known: used as it is{at}")
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ConfigError(f"pixel size {pixel_size} A is not above zero")
    low, high = learnt
    fits = all(low * (1 - AS_IT_IS) <= size <= high * (1 + AS_IT_IS) for size in sizes)
    if fits and max(sizes) <= min(sizes) * (1 + AS_IT_IS):
        return Match((1.0, 1.0))
    target = min(max(math.sqrt(sizes[0] * sizes[1]), low), high)
    factor = sizes[0] / target, sizes[1] / target
    own = " x ".join(dict.fromkeys(_pm(size) for size in sizes))
    if (times := max(*factor, 1 / min(factor))) > FARTHEST:
        raise ConfigError(
            f"pixels of {own} are too far from those that the model has learnt, {_range(learnt)}: "
            f"a factor of {times:.3g}, and at most {FARTHEST:g} is resampled; check the pixel size"
        )
    note = f"pixels of {own} are resampled to {_pm(target)}; the model has learnt {_range(learnt)}"
    return Match(factor, note)


def count_pixels(shape: tuple[int, ...], factor: tuple[float, float]) -> tuple[int, int]:
    """Size (ny, nx) of an image of `shape` after resampling."""
    ny, nx = (max(1, round(n * f)) for n, f in zip(shape, factor, strict=True))
    return ny, nx


def resample(
    images: np.ndarray,
    factor: tuple[float, float],
    shape: tuple[int, ...] | None = None,
    order: int = 3,
) -> np.ndarray:
    """Images with `factor` times as many pixels along (y, x): float32 (..., *shape).

    images  (..., ny, nx), any real dtype
    shape   of the results; by default the whole image
    order   of the splines between pixels; 1 keeps values within those that there were

    Where pixels grow, a Gaussian first blurs by what the larger pixels cannot tell:
    sigma^2 = (f^-2 - 1) / 4 in pixels of the image, as if each pixel had a blur of half its size.
    At the edges the image goes on as its mirror image.
    """
    images = np.asarray(images, dtype=np.float32)
    if factor == (1.0, 1.0) and shape in (None, images.shape[-2:]):
        return images
    from scipy.ndimage import affine_transform, gaussian_filter

    shape = shape or count_pixels(images.shape[-2:], factor)
    blur = [OWN_BLUR * math.sqrt(max(f**-2 - 1, 0.0)) for f in factor]
    matrix = [1 / f for f in factor]
    offset = [0.5 / f - 0.5 for f in factor]
    results = np.empty((*images.shape[:-2], *shape), dtype=np.float32)
    for place in np.ndindex(images.shape[:-2]):
        image = images[place].astype(np.float64)
        if any(blur):
            image = gaussian_filter(image, blur, mode="reflect")
        results[place] = affine_transform(
            image, matrix, offset, output_shape=shape, order=order, mode="reflect"
        )
    return results


def _pm(size: float) -> str:
    return f"{100 * size:.4g} pm"


def _range(learnt: tuple[float, float]) -> str:
    low, high = learnt
    return _pm(low) if high <= low * (1 + AS_IT_IS) else f"{_pm(low)} to {_pm(high)}"
