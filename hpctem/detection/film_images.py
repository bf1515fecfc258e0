"""Contamination taken from experimental images: their low frequencies, kept as a short text.

The text goes into the database, so that its images can be made again without the micrographs.
"""

from __future__ import annotations

import base64
import json
import math
from functools import lru_cache

import numpy as np

from hpctem.detection.film_spline import NODES, ROLL_OFF, fit_spline
from hpctem.errors import ConfigError
from hpctem.optics.grid import fast_size

FEWEST = 4
"""Shortest wavelengths that an image must hold along each side."""

MOST = 512
"""Points kept along each side; of a larger image, the middle part is taken."""

UNIT = 1e-3
"""The values are kept as 16-bit integers in this unit, which reaches 32 deviations."""


def extract_contamination(
    image: np.ndarray, pixel_size: float | tuple[float, float], shortest: float
) -> str:
    """What varies slowly in a micrograph, normalised, as a text of some kilobytes.

    image: (ny, nx) real, any unit; pixel_size: A, or (y, x); shortest: A, the wavelength below
    which nothing is kept, longer than the lattice's. The image is continued as in a mirror (its
    cosine transform, type II), so that its edges make no cross in the spectrum, and sampled again
    with 2.4 points to the shortest wavelength or more. The text is a pure function of the
    arguments: JSON with shortest and spacing (y, x) in A, shape, and the values (mean 0, standard
    deviation 1) as base64 of little-endian 16-bit integers, in thousandths.

    Raises ConfigError for an image that is no picture, holds NaN, is uniform or shows fewer than
    four of the shortest wavelengths along a side, and for lengths that are not positive.
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "buif":
        raise ConfigError(
            f"contamination is taken from a real image of two axes; this one is {image.dtype} with "
            f"{image.ndim}"
        )
    if not np.isfinite(image).all():
        raise ConfigError("the image that contamination is taken from holds NaN or infinity")
    sizes = (pixel_size, pixel_size) if isinstance(pixel_size, int | float) else pixel_size
    if not all(math.isfinite(length) and length > 0 for length in (*sizes, shortest)):
        raise ConfigError(
            f"pixel size {pixel_size} A and shortest wavelength {shortest} A must be above 0"
        )
    field = image.astype(np.float64)
    for axis, size in enumerate(sizes):
        most = int((MOST - 2) * shortest / (2 + 2 * ROLL_OFF) / size)
        field = _cut_middle(field, axis, max(MOST, most))
        side = field.shape[axis] * size
        if side < FEWEST * shortest:
            raise ConfigError(
                f"the image that contamination is taken from is {side:.4g} A wide, less than "
                f"{FEWEST} times 'shortest', {shortest:g} A: take a larger image or a smaller value"
            )
    sides = [n * size for n, size in zip(field.shape, sizes, strict=True)]
    slow = _lower_band(field, sides, shortest)
    deviation = slow.std()
    if deviation <= 1e-9 * max(1e-300, np.abs(image).max()):
        raise ConfigError(
            f"the image that contamination is taken from does not vary on scales above {shortest:g}"
            " A"
        )
    values = np.clip(np.rint((slow - slow.mean()) / deviation / UNIT), -32767, 32767)
    kept = {
        "shortest": float(shortest),
        "spacing": [side / n for side, n in zip(sides, values.shape, strict=True)],
        "shape": list(values.shape),
        "values": base64.b64encode(values.astype("<i2").tobytes()).decode(),
    }
    return json.dumps(kept)


def read_contamination(text: str) -> tuple[np.ndarray, tuple[float, float]]:
    """The values of `extract_contamination`, float64 (my, mx), and their spacing (dy, dx) in A.

    Point (0, 0) lies half a spacing inside the image's corner. Raises ConfigError for another text.
    """
    try:
        kept = json.loads(text)
        values = np.frombuffer(base64.b64decode(kept["values"], validate=True), dtype="<i2")
        dy, dx = (float(step) for step in kept["spacing"])
        rows, columns = kept["shape"]
        return values.reshape(rows, columns) * UNIT, (dy, dx)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"this is no contamination extracted from an image: {error!r}; extract it again"
        ) from None


@lru_cache(maxsize=64)
def spline_of_image(
    text: str, shortest: float
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """The periodic spline of an extracted image and its reflections, for `draw_film`.

    Returns (coefficients float32 (my, mx) over twice the image along each axis, spacing (dy, dx) of
    its nodes in A, grid coordinates (row, column) of the image's corner). Standard deviation 1;
    wavelengths below `shortest` A are taken away.
    """
    values, spacing = read_contamination(text)
    sides = [n * step for n, step in zip(values.shape, spacing, strict=True)]
    values = _lower_band(values, sides, shortest)
    values = (values - values.mean()) / values.std()
    mirrored = np.concatenate([values, values[::-1]])
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
    # From the finest wavelength that the values hold, whichever of the two bands is narrower.
    nodes = [fast_size(NODES / 2 / (1 + ROLL_OFF) * n) for n in mirrored.shape]
    spectrum = np.fft.rfft2(mirrored) / mirrored.size
    coefficients = fit_spline(spectrum, mirrored.shape, nodes)
    steps = [2 * side / n for side, n in zip(sides, nodes, strict=True)]
    corner = [-0.5 * coarse / step for coarse, step in zip(spacing, steps, strict=True)]
    return coefficients, (steps[0], steps[1]), (corner[0], corner[1])


def _cut_middle(field: np.ndarray, axis: int, most: int) -> np.ndarray:
    excess = max(0, field.shape[axis] - most)
    return field.take(range(excess // 2, field.shape[axis] - (excess - excess // 2)), axis)


def _lower_band(field: np.ndarray, sides: list[float], shortest: float) -> np.ndarray:
    """The field without wavelengths below `shortest`, on as few points as hold the rest.

    field: (ny, nx) float64, each value the middle of a pixel; sides: (y, x) A. Amplitudes fall by a
    half cosine between 0.8 and 1.2 of the highest frequency. The scale of the result is not that
    of the field: it is normalised where it is used.
    """
    from scipy.fft import dctn, idctn

    few = [
        min(n, math.ceil(2 * (1 + ROLL_OFF) * side / shortest) + 1)
        for n, side in zip(field.shape, sides, strict=True)
    ]
    spectrum = dctn(field, type=2, norm="ortho")[: few[0], : few[1]]
    fy, fx = (np.arange(n) / (2 * side) for n, side in zip(few, sides, strict=True))
    beyond = np.clip((np.hypot(fy[:, None], fx) * shortest - 1) / ROLL_OFF, -1, 1)
    spectrum = spectrum * (0.5 * (1 - np.sin(0.5 * np.pi * beyond)))
    return idctn(spectrum, type=2, norm="ortho")
