"""The images of an export one by one: pixels, labels and all columns, as they will be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctem.detection.filters import apply_view
from hpctem.export.maps import Map
from hpctem.export.plan import Form, Part, make_keys

if TYPE_CHECKING:
    import pyarrow

# Columns are read for so many images at once.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Record:
    """One image.

    key      unique in the export, safe as a file name
    image    (ny, nx) of the form's dtype
    maps     labels (ny, nx), images of further detectors (ny, nx) or (segments, ny, nx)
    steps    (height, width) of a pixel in angstrom
    columns  name -> number or text, None where the image's campaign has no such column, a list of
             numbers for a column of vectors
    """

    key: str
    image: np.ndarray
    maps: dict[Map, np.ndarray]
    steps: tuple[float, float]
    columns: dict[str, Any]


def read_records(part: Part, start: int, stop: int, form: Form) -> Iterator[Record]:
    """Images start ... stop - 1 of a part with their columns."""
    for first in range(start, stop, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, stop)
        rows = read_columns(part, first, last).to_pylist()
        keys = make_keys(part, form, first, last)
        for index, key, columns in zip(range(first, last), keys, rows, strict=True):
            image, maps = read_image(part, index, form), read_maps(part, index, form)
            steps = form.steps[source_of(part, index)] or (columns.get("pixel_size") or 1.0,) * 2
            yield Record(key, image, maps, steps, columns)


def read_columns(part: Part, start: int, stop: int) -> pyarrow.Table:
    """All columns of images start ... stop - 1 of a part, one row each, in their order."""
    collection = part.collection
    return collection[start:stop].table(columns=list(collection.columns))


def read_image(part: Part, index: int, form: Form) -> np.ndarray:
    """Image number `index` of a part as it will be written: (ny, nx) of the form's dtype."""
    image = apply_view(part.collection.images[index], form.views[source_of(part, index)])
    if form.scale is not None:
        image = scale_to_16_bits(image, *form.scale)
    return np.ascontiguousarray(image, form.dtype)


def read_maps(part: Part, index: int, form: Form) -> dict[Map, np.ndarray]:
    """What goes with image number `index` of a part, in the order of the form."""
    # Of its own database: others of the collection, which give no image, may hold no labels.
    image = part.collection[index]
    row = np.array([image.row])
    stored = {each: image.database.stored(each.path, row)[0] for each in form.maps}
    return {each: np.ascontiguousarray(values, each.dtype) for each, values in stored.items()}


def source_of(part: Part, index: int) -> str:
    """Path of the database that holds image number `index` of a part."""
    return str(part.collection.databases[part.collection.sources[index]].path)


def scale_to_16_bits(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """low ... high become 0 ... 65535, rounded; what lies outside is cut. Returns uint16."""
    scaled = (image.astype(np.float64) - low) * (65535.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 65535).astype(np.uint16)
