"""Which image goes into which file, and what is made of it: fixed before anything is written.

Nothing here depends on the number of ranks: the rows, their order and the length of a shard fix
every file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.collection.stacks import DETECTORS, LABELS
from hpctem.detection.filters import RAW_VIEW
from hpctem.errors import ConfigError
from hpctem.export.maps import ALL, NONE, Map, list_left, plan_maps

if TYPE_CHECKING:
    from hpctem.database.reader import Database

# What stands in a shard by default; TensorFlow and WebDataset advise 100 MB to 1 GB.
SHARD_BYTES = 128 * 2**20
STORED, CAMPAIGN = VIEWS = ("stored", "campaign")
LEVEL = 4
# Folders and files of an export that a part may not be named as.
RESERVED = ("images", "labels", "detectors", "campaigns", "lock")


@dataclass(frozen=True)
class Format:
    """One kind of file.

    suffix         of its files
    kind           'stack' one file of many images in HDF5; 'shard' a stream of records; 'file' one
                   file for each image
    compressions   that it offers; the first is the default
    integers       images are stored with 16 bits, so that others have to be scaled
    reals          labels of real numbers, such as distances, can be stored
    segments       several images can be stored as one
    """

    suffix: str
    kind: str
    compressions: tuple[str, ...]
    integers: bool = False
    reals: bool = True
    segments: bool = True


FORMATS: Mapping[str, Format] = {
    "hdf5": Format(".hdf5", "stack", ("none", "gzip", "lzf")),
    "tfrecord": Format(".tfrecord", "shard", ("none", "gzip")),
    "webdataset": Format(".tar", "shard", ("none", "gzip")),
    "tiff": Format(".tif", "file", ("none", "gzip"), integers=True),
    "png": Format(".png", "file", ("gzip",), integers=True, reals=False, segments=False),
    "emd": Format(".emd", "stack", ("none", "gzip", "lzf")),
}


@dataclass(frozen=True)
class Choice:
    """What the user asks for.

    format     one of FORMATS
    view       'stored': the images as they are; 'campaign': seen through the view that each
               database records (the 3 x 3 median or none)
    compress   'none', 'gzip' or 'lzf'; '' for the format's default
    shard      images in one file (TFRecord, WebDataset, HDF5, EMD) or folder (TIFF, PNG)
    scale      (low, high) that become 0 and 65535 in TIFF and PNG; None: counts stay as they are
    labels     names of label maps, or 'all' that every database has, or 'none'
    detectors  of further detectors, likewise
    """

    format: str
    view: str = STORED
    compress: str = ""
    shard: int | None = None
    scale: tuple[float, float] | None = None
    labels: tuple[str, ...] = (ALL,)
    detectors: tuple[str, ...] = (NONE,)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            near = difflib.get_close_matches(self.format, FORMATS, n=1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ConfigError(
                f"there is no format {self.format!r}{hint}; choose one of {', '.join(FORMATS)}"
            )
        offered = FORMATS[self.format].compressions
        object.__setattr__(self, "compress", self.compress or offered[0])
        if self.compress not in offered:
            raise ConfigError(
                f"{self.format} has no compression {self.compress!r}; choose one of "
                + ", ".join(offered)
            )
        if self.view not in VIEWS:
            raise ConfigError(f"there is no view {self.view!r}; choose one of {', '.join(VIEWS)}")
        if self.shard is not None and self.shard < 1:
            raise ConfigError(f"a shard holds at least 1 image, not {self.shard}")
        if self.scale is not None:
            low, high = self.scale
            if not (np.isfinite([low, high]).all() and low < high):
                raise ConfigError(f"the scale {low:g}:{high:g} has to be LOW:HIGH with LOW < HIGH")
            if not FORMATS[self.format].integers:
                raise ConfigError(
                    f"a scale is for tiff and png; {self.format} keeps the stored values"
                )


@dataclass(frozen=True)
class Part:
    """Images that belong together, such as those to train with; '' where there is one part."""

    name: str
    collection: Collection

    @cached_property
    def databases(self) -> list[Database]:
        """Those of the collection that give images."""
        return [self.collection.databases[k] for k in np.unique(self.collection.sources)]

    @cached_property
    def pixel_sizes(self) -> list[float]:
        """Sizes of the pixels in angstrom, each once, as the images' own column says."""
        return np.unique(self.collection.column("pixel_size")).tolist()


@dataclass(frozen=True)
class Form:
    """What every image of the export is.

    dtype    of the written pixels
    shape    (ny, nx) of all images, None where they differ
    scale    (low, high) of stored values that became 0 and 65535; None: values as they were
    labels   the label maps that go with every image
    detectors  images of further detectors, likewise
    left_out names of label maps that some database has and that are not exported
    left_detectors  names of detectors, likewise
    names    path of a database -> its name in keys: the campaign, and the file where two share it;
             also of those that give no image, so that the names do not depend on what is chosen
    views    path of a database -> view that is applied to its images
    left     path of a database -> view through which its exported images are still to be seen
    steps    path of a database -> (height, width) of its pixels in angstrom; None where they differ
             from image to image, as the column pixel_size says
    """

    dtype: np.dtype
    shape: tuple[int, int] | None
    scale: tuple[float, float] | None
    labels: tuple[Map, ...]
    detectors: tuple[Map, ...]
    left_out: tuple[str, ...]
    left_detectors: tuple[str, ...]
    names: Mapping[str, str]
    views: Mapping[str, str]
    left: Mapping[str, str]
    steps: Mapping[str, tuple[float, float] | None]

    @property
    def maps(self) -> tuple[Map, ...]:
        """All that goes with every image: the labels, then the detectors."""
        return self.labels + self.detectors

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel, in the image and in all that goes with it."""
        return self.dtype.itemsize + sum(each.pixel_bytes for each in self.maps)


@dataclass(frozen=True)
class Shard:
    """Rows start ... stop - 1 of a part and the file (or folder) that they go to."""

    part: Part
    start: int
    stop: int
    path: PurePosixPath

    def __len__(self) -> int:
        return self.stop - self.start


def plan_form(parts: Sequence[Part], choice: Choice) -> Form:
    """What the images become.

    Raises ConfigError for parts without images or with one image twice, and where a format cannot
    hold what the databases hold.
    """
    _check_parts(parts)
    databases = {str(d.path): d for part in parts for d in part.databases}
    fields = {path: database.field(database.image_path) for path, database in databases.items()}
    shapes = {(item.shape[0], item.shape[1]) for item in fields.values()}
    form = FORMATS[choice.format]
    if len(shapes) > 1 and form.kind == "stack":
        sizes = " and ".join(f"{nx} x {ny}" for ny, nx in sorted(shapes))
        raise ConfigError(
            f"{choice.format} holds images of one size, not of {sizes} pixels: export the "
            "databases one by one, or as tfrecord, webdataset, tiff or png"
        )
    dtype = np.result_type(*(item.dtype for item in fields.values()))
    raw = dict.fromkeys(databases, RAW_VIEW)
    views = {path: str(item.attributes.get("view", RAW_VIEW)) for path, item in fields.items()}
    applied = choice.view == CAMPAIGN
    scale = choice.scale
    if form.integers and scale is None and dtype != np.uint16:
        scale = _find_range(parts)
    used = list(databases.values())
    held = (choice.format, form.reals, form.segments)
    labels = plan_maps(used, LABELS, choice.labels, *held)
    detectors = plan_maps(used, DETECTORS, choice.detectors, *held)
    return Form(
        dtype=np.dtype(np.uint16) if form.integers else dtype,
        shape=shapes.pop() if len(shapes) == 1 else None,
        scale=scale,
        labels=labels,
        detectors=detectors,
        left_out=list_left(used, LABELS, labels),
        left_detectors=list_left(used, DETECTORS, detectors),
        names=name_databases(_all_databases(parts)),
        views=views if applied else raw,
        left=raw if applied else views,
        steps={path: _find_steps(database) for path, database in databases.items()},
    )


def plan_shards(parts: Sequence[Part], choice: Choice, form: Form) -> list[Shard]:
    """All files of images (for TIFF and PNG: folders) in the order of parts and rows."""
    kind = FORMATS[choice.format].kind
    shards = []
    for part in parts:
        total = len(part.collection)
        length = choice.shard or (_shard_length(form) if kind == "shard" else total)
        count = -(-total // length)
        for number in range(count):
            path = _shard_path(part.name, number, count, choice)
            start = number * length
            shards.append(Shard(part, start, min(start + length, total), path))
    return shards


def name_databases(databases: Sequence[Database]) -> dict[str, str]:
    """Path of a database -> the name that stands in keys and file names.

    The campaign where only one database is of that campaign, else the file's name; of letters,
    digits, '-' and '_' only.
    """
    campaigns = [database.name for database in databases]
    names: dict[str, str] = {}
    for database in databases:
        alone = campaigns.count(database.name) == 1
        wanted = re.sub(r"[^A-Za-z0-9_-]+", "_", database.name if alone else database.path.stem)
        name, number = wanted or "database", 1
        while name in names.values():
            number += 1
            name = f"{wanted}-{number}"
        names[str(database.path)] = name
    return names


def make_keys(part: Part, form: Form, start: int, stop: int) -> list[str]:
    """'gold_00001234' for rows of a part: name of the database and file row."""
    collection = part.collection
    names = [form.names.get(str(database.path), "") for database in collection.databases]
    pairs = zip(collection.sources[start:stop], collection.rows[start:stop], strict=True)
    return [f"{names[source]}_{row:08d}" for source, row in pairs]


def common_steps(part: Part, form: Form) -> tuple[float, float] | None:
    """(height, width) of the pixels in angstrom where all of a part's are alike, else None."""
    found = {form.steps[str(d.path)] for d in part.databases}
    if None in found and "pixel_size" in part.collection.columns:
        found = {(size, size) for size in part.pixel_sizes}
    return found.pop() if len(found) == 1 else None


def describe_scale(form: Form) -> dict[str, Any] | None:
    """How stored values were turned into 16 bits, None where they are as they were."""
    if form.scale is None:
        return None
    low, high = form.scale
    return {"low": low, "high": high, "stored": "round(65535 (value - low) / (high - low)), cut"}


def count_cut(parts: Sequence[Part], form: Form) -> int:
    """Images with stored pixels outside of the scale; 0 without a scale or without statistics."""
    if form.scale is None:
        return 0
    low, high = form.scale
    found = 0
    for collection in (part.collection for part in parts):
        if {"minimum", "maximum"} <= set(collection.columns):
            outside = (collection.column("minimum") < low) | (collection.column("maximum") > high)
            found += int(np.count_nonzero(outside))
    return found


def _check_parts(parts: Sequence[Part]) -> None:
    for part in parts:
        collection = part.collection
        name = f"the part {part.name!r}" if part.name else "what was chosen"
        if not re.fullmatch(r"|[A-Za-z0-9_-]+", part.name) or part.name in RESERVED:
            raise ConfigError(
                f"{name} cannot become a folder: it needs letters a to z, digits, '-' and '_', and "
                f"is not {', '.join(RESERVED)}"
            )
        if not len(collection):
            raise ConfigError(f"{name} holds no images, so there is nothing to export")
        pairs = np.stack([collection.sources.astype(np.int64), collection.rows])
        if np.unique(pairs, axis=1).shape[1] < pairs.shape[1]:
            raise ConfigError(f"{name} names an image twice; files are named by their images")


def _all_databases(parts: Sequence[Part]) -> list[Database]:
    return list({str(d.path): d for part in parts for d in part.collection.databases}.values())


def _find_steps(database: Database) -> tuple[float, float] | None:
    y, x = database.layout.stacks[0].axes
    return (y.step, x.step) if x.units else None


def _find_range(parts: Sequence[Part]) -> tuple[float, float]:
    """Smallest and largest stored pixel of the whole export, from the statistics of the images."""
    limits = [np.nan]
    if all({"minimum", "maximum"} <= set(part.collection.columns) for part in parts):
        limits = [float(part.collection.column("minimum").min()) for part in parts]
        limits += [float(part.collection.column("maximum").max()) for part in parts]
    low, high = min(limits), max(limits)
    if not np.isfinite(limits).all():
        raise ConfigError(
            "16 bits need the range of these images, and not all of them have the columns minimum "
            "and maximum: give it, as in --scale 0:4000"
        )
    return (low, high) if high > low else (low, low + 1.0)


def _shard_length(form: Form) -> int:
    if form.shape is None:
        return 256
    return max(1, SHARD_BYTES // (int(np.prod(form.shape)) * form.pixel_bytes))


def _shard_path(part: str, number: int, count: int, choice: Choice) -> PurePosixPath:
    folder = PurePosixPath(part)
    form = FORMATS[choice.format]
    if form.kind == "file":
        return folder / f"{number:05d}" if choice.shard else folder
    packed = ".gz" if choice.compress == "gzip" and form.kind == "shard" else ""
    if form.kind == "stack" and count == 1:
        return folder / f"images{form.suffix}"
    if choice.format == "webdataset":
        return folder / f"images-{number:05d}{form.suffix}{packed}"
    return folder / f"images-{number:05d}-of-{count:05d}{form.suffix}{packed}"
