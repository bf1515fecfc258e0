"""What is done to an image before a network sees it: the same in training and ever after.

Papers scale each image to 0...1 by its own minimum and maximum, after a 3 x 3 median (Rangel
DaCosta et al. 2024), or all images of a group to -1...1, saturated at 3.5 standard deviations from
its mean (Khan et al. 2023).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.database.reader import Database
from hpctem.detection.filters import MEDIAN_VIEW, filter_median
from hpctem.errors import ConfigError
from hpctem.learning.data.windows import Window, extend, read_window, shift
from hpctem.sections.training import Preparation

T = TypeVar("T")
# What the median is compiled for; other numbers become float32 before.
EXACT = ("uint8", "uint16", "uint32", "float32", "float64")
# What prepared images span: low and high of each scale.
SPANS = {"image": (0.0, 1.0), "group": (-1.0, 1.0)}


@dataclass(frozen=True)
class Prepare:
    """How images are prepared; made from training images, kept with the model.

    median   networks see the 3 x 3 median of what was recorded: because the training file asks for
             it (`preparation.median`), or because the campaign says that its images are to be
             looked at so (`imaging.median: view`). It is applied once, also where both ask
    scale    'image': each by its own minimum and maximum to 0...1; 'group': low...high to -1...1,
             what lies outside is cut to it
    low      of a group: value that becomes -1, in the units of the images
    high     of a group: value that becomes 1
    """

    median: bool
    scale: str
    low: float = 0.0
    high: float = 1.0

    @property
    def span(self) -> float:
        """Length of the range that prepared values have: 1 or 2."""
        least, most = SPANS[self.scale]
        return most - least

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def from_dict(data: Mapping[str, Any]) -> Prepare:
    """The preparation that `as_dict` gave.

    Raises ConfigError for anything else.
    """
    try:
        how = Prepare(
            bool(data["median"]), str(data["scale"]), float(data["low"]), float(data["high"])
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"the preparation of images is damaged ({error!r}): {data!r}") from error
    if how.scale not in SPANS or not _is_range(how.low, how.high):
        raise ConfigError(f"the preparation of images is damaged: {how}")
    return how


def prepare(image: np.ndarray, how: Prepare) -> np.ndarray:
    """An image as networks see it: the median if it is wanted, then scaled.

    image     (ny, nx) of any real dtype, as recorded
    returns   float32 (ny, nx): 0...1 by its own limits (a constant image becomes 0), or -1...1 by
              those of the group
    """
    recorded = filter_recorded(image, how)
    return rescale(recorded, find_limits(recorded, how), how)


def filter_recorded(image: np.ndarray, how: Prepare) -> np.ndarray:
    """The image, or its median: what limits are found in and what is scaled."""
    if not how.median:
        return image
    return filter_median(image if image.dtype.name in EXACT else image.astype(np.float32))


def find_limits(image: np.ndarray, how: Prepare) -> tuple[float, float]:
    """The two values of an image that become the ends of the range."""
    if how.scale == "group":
        return how.low, how.high
    return float(image.min()), float(image.max())


def rescale(image: np.ndarray, limits: tuple[float, float], how: Prepare) -> np.ndarray:
    """Values from low to high linearly to the range of the scale, others cut to it.

    image     of any shape and real dtype, the whole image or part of it
    returns   float32 of the same shape; limits that are NaN make all of it NaN, so that an image
              that holds no number is never taken for an empty one
    """
    low, high = limits
    least, most = SPANS[how.scale]
    if low == high:
        return np.zeros(image.shape, np.float32)
    # Subtracted first: values far from zero that differ by little keep their digits.
    values = image.astype(np.float32)
    with np.errstate(invalid="ignore"):  # of infinite pixels, which become NaN
        values -= np.float32(low)
        values *= np.float32((most - least) / (high - low))
    if least:
        values += np.float32(least)
    return np.clip(values, least, most, out=values)


def measure_preparation(images: Iterable[np.ndarray], section: Preparation) -> Prepare:
    """How images are prepared as a section says: of a group the limits are measured.

    images    arrays (ny, nx), as recorded; of a group they give mean and standard deviation of all
              pixels together, and the limits are mean -+ saturation * standard deviation. Images
              scaled one by one are not read

    Raises ConfigError where a group has no images, or pixels that are all equal or not finite.
    """
    if section.scale == "image":
        return Prepare(section.median, "image")
    recorded = Prepare(section.median, "group")
    count, mean, squares = 0, 0.0, 0.0
    for image in images:
        values = filter_recorded(image, recorded).astype(np.float64)
        # Means and squares about them are joined (Chan, Golub, LeVeque 1983, equation 2.1): sums
        # of squares of large counts would lose the digits of the deviation.
        own, part = float(values.mean()), values.size
        total = count + part
        squares += float(((values - own) ** 2).sum()) + (own - mean) ** 2 * count * part / total
        mean += (own - mean) * part / total
        count = total
    if not count:
        raise ConfigError("preparation: there are no images whose mean and deviation to measure")
    deviation = math.sqrt(squares / count)
    low, high = mean - section.saturation * deviation, mean + section.saturation * deviation
    if not _is_range(low, high):
        raise ConfigError(
            f"preparation: the images have mean {mean:g} and standard deviation {deviation:g}, so "
            "that nothing can be scaled by them"
        )
    return Prepare(section.median, "group", low, high)


def tell_range(prepared: np.ndarray) -> str:
    """What is to be said where prepared images do not fit the limits of the training's, else ''.

    prepared  float32, -1...1, by the limits of a group
    """
    cut = float(np.mean(np.abs(prepared) >= 1))
    if cut < 0.05 and np.std(prepared) > 0.05:
        return ""
    return (
        f"{cut:.0%} of the pixels lie outside the range of the images that were learnt from, all "
        f"spread over {np.std(prepared):.2g} of it: --own-scale takes the image's own range"
    )


def remember(tell: Callable[[Database], T]) -> Callable[[Database], T]:
    """The same function of a database, which works it out once for each that is open."""
    known: WeakKeyDictionary[Database, T] = WeakKeyDictionary()

    def recall(database: Database) -> T:
        if database not in known:
            known[database] = tell(database)
        return known[database]

    return functools.wraps(tell)(recall)


@remember
def is_median(database: Database) -> bool:
    """Whether the stored images are medians already (`imaging.median: stored`)."""
    try:
        resolved = json.loads(database.campaign["resolved_config"])
        return json.loads(resolved["imaging.median"]) == "stored"
    except (LookupError, ValueError, TypeError):
        return False


def asks_for_median(database: Database) -> bool:
    """Whether networks are to see medians of the images: stored so, or recorded as their view."""
    item = database.field(database.image_path)
    return item.attributes.get("view") == MEDIAN_VIEW or is_median(database)


def filter_row(collection: Collection, place: int, how: Prepare) -> np.ndarray:
    """Image number `place` of a collection, (ny, nx), or its median where that is wanted.

    A stored median is not filtered again. Raises DatabaseError and MachineError as reading does.
    """
    database = collection.databases[collection.sources[place]]
    ny, nx = database.field(database.image_path).shape
    return filter_window(collection, place, how, (slice(0, ny), slice(0, nx)))


def filter_window(collection: Collection, place: int, how: Prepare, window: Window) -> np.ndarray:
    """A window of what `filter_row` gives, of which no more is read than it needs."""
    database = collection.databases[collection.sources[place]]
    item, row = database.field(database.image_path), int(collection.rows[place])
    if not how.median or is_median(database):
        return read_window(database, item, row, window)
    # A median needs the neighbours; at the edges of the image those that the whole image has.
    around = extend(window, 1, item.shape)
    filtered = filter_recorded(read_window(database, item, row, around), how)
    return filtered[shift(window, around)]


def prepare_row(collection: Collection, place: int, how: Prepare) -> np.ndarray:
    """Image number `place` of a collection as networks see it: float32 (ny, nx), see `prepare`.

    A stored median is not filtered again.
    """
    recorded = filter_row(collection, place, how)
    return rescale(recorded, find_limits(recorded, how), how)


def _is_range(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and low < high
