"""Where things are: positions of defects, atoms or particles from maps of probabilities.

Positions are in pixels, x the column and y the row; 0 is the centre of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hpctem.errors import ConfigError

Way = Literal["peaks", "components"]
WAYS: tuple[Way, ...] = ("peaks", "components")
# Khan et al. 2023 take what lies within 9 px of 21 nm / 1024 for one defect.
RADIUS = 1.85  # A
RADIUS_PIXELS = 9.0  # the same, where nobody knows how large a pixel is
THRESHOLD = 0.5
# Gaussian under which maxima are looked for, in radii: noise makes no maxima of its own, two things
# that are a radius apart keep theirs.
SMOOTHING = 0.3
RIM = 1e-3  # what a pixel weighs that just reaches the threshold
LEAST = 1e-6  # of the smoothed map: below it there is only rounding
TURNS, STILL = 20, 1e-3  # of the centring: at most so often, until it moves less (pixels)


@dataclass(frozen=True)
class Found:
    """What was found in an image, the surest first; arrays (n,).

    x, y    float64, column and row in pixels, 0 the centre of the first
    kind    int64, number of the class from 1: the map probabilities[kind]
    score   float64, the largest probability in it, threshold...1
    area    float64, pixels of it above the threshold
    """

    x: np.ndarray
    y: np.ndarray
    kind: np.ndarray
    score: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> Found:
        """Those of an index or a mask."""
        return Found(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def shift(self, x: float, y: float) -> Found:
        """The same, seen in an image that begins so many columns and rows earlier."""
        return replace(self, x=self.x + x, y=self.y + y)


@dataclass(frozen=True)
class Owned:
    """Pixels (rows, columns) and which of `count` things each belongs to, from 0."""

    rows: np.ndarray
    columns: np.ndarray
    owner: np.ndarray
    count: int


def find_positions(
    probabilities: np.ndarray,
    *,
    pixel_size: float | None = None,
    radius: float = RADIUS,
    threshold: float = THRESHOLD,
    border: float = 0.0,
    least_area: int = 1,
    way: Way = "peaks",
) -> Found:
    """Find what maps of probabilities show, class by class, with sub-pixel positions.

    probabilities   float (classes + 1, ny, nx), the background first
    pixel_size      A; unknown, lengths in A are taken as if a pixel were 0.2056 A: the default
                    radius is then the 9 px of Khan et al. 2023
    radius          A within which there is one thing of a class only, and within half of which
                    one of any class: that with more probability stays. Of atoms, less than
                    their distance (0.7 A in graphene)
    threshold       probability from which on pixels count
    border          pixels at each edge of the image whose positions are left out
    least_area      pixels that a thing needs
    way             'peaks': maxima, each centred on the mass within `radius` that is nearest to it:
                    defects and atoms, also where they touch. 'components': connected areas of any
                    size: particles

    Positions are centres of mass of what the probability has above the threshold, so that a rim of
    pixels that just reach it, here one more and there one less, does not pull them.

    Raises ConfigError for lengths, threshold or way that cannot be meant.
    """
    _check(pixel_size, radius, threshold, border, least_area, way)
    reach = radius_in_pixels(radius, pixel_size)
    parts = []
    for kind, one in enumerate(probabilities[1:], 1):
        above = np.where(one >= threshold, one - threshold + RIM, 0).astype(np.float32)
        owned = _own_peaks(above, reach) if way == "peaks" else _own_components(above)
        found = _weigh(one, above, owned, kind)
        if way == "peaks":
            found = found.take(_stand_alone(found.x, found.y, found.area * found.score, reach))
        parts.append(found.take(found.area >= least_area))
    found = _join(parts)
    if way == "peaks":
        mass = found.area * found.score
        found = found.take(_stand_alone(found.x, found.y, mass, reach / 2))
    found = found.take(is_inside(found.x, found.y, probabilities.shape[1:], border))
    return found.take(np.lexsort((found.x, found.y, found.kind, -found.score)))


def radius_in_pixels(radius: float, pixel_size: float | None) -> float:
    """A length in A as pixels; see `find_positions` for an unknown pixel size."""
    return radius * RADIUS_PIXELS / RADIUS if pixel_size is None else radius / pixel_size


def is_inside(
    x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], border: float = 0.0
) -> np.ndarray:
    """Which positions (n,) lie in an image (ny, nx) and not in its outer `border` pixels: bool.

    An image reaches from -0.5 to nx - 0.5, for 0 is the centre of its first pixel.
    """
    ny, nx = shape
    low = border - 0.5
    return (x >= low) & (x < nx - 1 - low) & (y >= low) & (y < ny - 1 - low)


def _check(
    pixel_size: float | None,
    radius: float,
    threshold: float,
    border: float,
    least_area: int,
    way: str,
) -> None:
    if pixel_size is not None and not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ConfigError(f"pixel size {pixel_size} A is not above zero")
    if not (math.isfinite(radius) and radius > 0):
        raise ConfigError(f"radius {radius} A is not above zero")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold {threshold} is no probability above 0 and up to 1")
    if not border >= 0:
        raise ConfigError(f"border {border} is below zero")
    if least_area < 1:
        raise ConfigError(f"least area {least_area}: at least 1 pixel is needed")
    if way not in WAYS:
        raise ConfigError(f"positions are found by {' or '.join(WAYS)}, not by {way!r}")


def _own_components(mass: np.ndarray) -> Owned:
    """Connected areas (also over corners) of what a map (ny, nx) leaves above zero."""
    from scipy.ndimage import label

    areas, count = label(mass > 0, structure=np.ones((3, 3)))
    rows, columns = np.nonzero(areas)
    return Owned(rows, columns, areas[rows, columns] - 1, count)


def _own_peaks(mass: np.ndarray, reach: float) -> Owned:
    """What lies within `reach` pixels of the centres of a map (ny, nx), and to which is nearest.

    Each centre begins at a maximum and moves to the mass that it owns until it stays.
    """
    from scipy.spatial import cKDTree

    rows, columns = np.nonzero(mass)
    points = np.stack([columns, rows], axis=1).astype(np.float64)
    weights = mass[rows, columns].astype(np.float64)
    centres = _find_maxima(mass, reach)
    count = len(centres)
    if not count:
        return Owned(rows[:0], columns[:0], rows[:0], 0)
    for _ in range(TURNS):
        distance, owner = cKDTree(centres).query(points)
        near = distance <= reach
        held = np.bincount(owner[near], weights[near], count)[:, None]
        sums = np.stack(
            [np.bincount(owner[near], (weights * of)[near], count) for of in points.T], axis=1
        )
        moved = np.divide(sums, held, out=centres.copy(), where=held > 0)
        still = np.abs(moved - centres).max() < STILL
        centres = moved
        if still:
            break
    return Owned(rows[near], columns[near], owner[near], count)


def _find_maxima(mass: np.ndarray, reach: float) -> np.ndarray:
    """Columns and rows (n, 2) of the maxima of a smoothed map, none within `reach` of a higher."""
    from scipy.ndimage import gaussian_filter, label, maximum_filter, maximum_position

    smooth = gaussian_filter(mass, SMOOTHING * reach, mode="constant")
    top = (smooth == maximum_filter(smooth, 3, mode="constant")) & (smooth > LEAST)
    # Neighbours of the same height are one maximum.
    areas, count = label(top, structure=np.ones((3, 3)))
    places = maximum_position(smooth, areas, np.arange(1, count + 1))
    points = np.array([(x, y) for y, x in places], dtype=np.float64).reshape(-1, 2)
    heights = np.array([smooth[place] for place in places])
    return points[_stand_alone(points[:, 0], points[:, 1], heights, reach)]


def _stand_alone(x: np.ndarray, y: np.ndarray, weight: np.ndarray, reach: float) -> np.ndarray:
    """Which points (n,) stay when each, from the heaviest on, drives out those within `reach`."""
    from scipy.spatial import cKDTree

    stays = np.ones(len(x), bool)
    if len(x) > 1:
        neighbours = cKDTree(np.stack([x, y], axis=1)).query_ball_point(
            np.stack([x, y], axis=1), reach
        )
        for one in np.argsort(-weight, kind="stable"):
            if stays[one]:
                stays[neighbours[one]] = False
                stays[one] = True
    return stays


def _weigh(probability: np.ndarray, mass: np.ndarray, owned: Owned, kind: int) -> Found:
    """Centre of mass, largest probability and area of each owner that has pixels."""
    weights = mass[owned.rows, owned.columns].astype(np.float64)
    held = np.bincount(owned.owner, weights, owned.count)
    area = np.bincount(owned.owner, minlength=owned.count).astype(np.float64)
    score = np.zeros(owned.count)
    np.maximum.at(score, owned.owner, probability[owned.rows, owned.columns])
    has = area > 0
    x, y = (
        np.bincount(owned.owner, weights * place, owned.count)[has] / held[has]
        for place in (owned.columns, owned.rows)
    )
    return Found(x, y, np.full(len(x), kind, np.int64), score[has], area[has])


def _join(parts: list[Found]) -> Found:
    if not parts:
        nothing = np.zeros(0)
        return Found(nothing, nothing, np.zeros(0, np.int64), nothing, nothing)
    names = Found.__dataclass_fields__
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
