"""Which images of databases a network learns from, as numbered samples.

A sample is an image, or one of several squares of it. Everything random is a pure function of
(seed, epoch, position in the epoch): which sample stands there, where its square lies, how it is
varied. Which rank reads it, when, and beside what never matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np

from hpctem.collection.collection import Collection, open_collection
from hpctem.database.reader import Database
from hpctem.errors import ConfigError
from hpctem.learning.data.accepted import take_accepted
from hpctem.learning.data.preparation import (
    Prepare,
    asks_for_median,
    filter_row,
    filter_window,
    find_limits,
    measure_preparation,
    rescale,
)
from hpctem.learning.data.targets import Classes, find_classes
from hpctem.learning.data.windows import Window, find_window, shift, surround
from hpctem.learning.training_file import TrainingFile
from hpctem.sections.training import CycleganConfig, Preparation, Source
from hpctem.subsets.draws import random_bits
from hpctem.subsets.file import digest_named, read_subset
from hpctem.subsets.subset import TRAIN, VALIDATION, draw_subset

# Of a group that is scaled together at most so many images are measured.
MOST_MEASURED = 256
Taken = tuple[np.ndarray, np.ndarray | None]


class Feedable(Protocol):
    """What `feed` can feed: numbered samples of one size, cut from images when asked for."""

    @property
    def seed(self) -> int:
        """Of the order, the squares and the variations."""

    @property
    def classes(self) -> Classes | None:
        """What goes with each image, None where nothing does."""

    @property
    def prepare(self) -> Prepare:
        """How the images are prepared."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what a network sees."""

    @property
    def room(self) -> tuple[int, int]:
        """Rows and columns that every image has: the most that can be cut."""

    def __len__(self) -> int: ...

    def cut(self, numbers: np.ndarray, bits: np.ndarray, shape: tuple[int, int]) -> Taken:
        """Read samples: images float32 (n, *shape), prepared, and classes uint8 (n, *shape).

        numbers   (n,) of the samples
        bits      (n, 2) uint64 random numbers that place the windows along y and x
        shape     of the windows, `shape` or more, at most `room`
        """


@dataclass(frozen=True, eq=False)
class Samples:
    """Images of databases, or squares of them, as numbered samples.

    collection          the images
    classes             of their pixels; None where images alone are learnt from
    prepare             how they are prepared
    patch               side of the squares in pixels; None for whole images
    patches_per_image   squares of each image in an epoch: sample k is of image k // this
    seed                of the order, the squares and the variations
    rejected            images that were asked for too, but had failed the check of a translation
    """

    collection: Collection
    classes: Classes | None
    prepare: Prepare
    patch: int | None
    patches_per_image: int
    seed: int
    rejected: int = 0

    def __len__(self) -> int:
        return len(self.collection) * self.patches_per_image

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what a network sees."""
        return self.room if self.patch is None else (self.patch, self.patch)

    @cached_property
    def room(self) -> tuple[int, int]:
        """Rows and columns that every image has."""
        shapes = [shape for _, shape in list_shapes(self.collection)]
        return min(ny for ny, _ in shapes), min(nx for _, nx in shapes)

    @cached_property
    def digest(self) -> str:
        """What is learnt from, as hex: the databases, the rows and the bytes that they had."""
        state = hashlib.blake2b(digest_size=16)
        for number, database in enumerate(self.collection.databases):
            rows = self.collection.rows[self.collection.sources == number]
            if len(rows):
                state.update(database.key + np.ascontiguousarray(rows, "<i8").tobytes())
                state.update(bytes.fromhex(digest_named(database, rows)))
        return state.hexdigest()

    @cached_property
    def pixel_sizes(self) -> tuple[float, float]:
        """The smallest and the largest side of a pixel, in angstrom."""
        if "pixel_size" in self.collection.columns:
            sizes = self.collection.column("pixel_size").astype(np.float64)
        else:
            stacks = [d.layout.stacks[0].axes for d in list_used(self.collection)]
            sizes = np.array([axis.step for axes in stacks for axis in axes if axis.units])
        sizes = sizes[np.isfinite(sizes)]
        if not len(sizes):
            files = ", ".join(str(d.path) for d in list_used(self.collection))
            raise ConfigError(f"{files}: nothing says how large the pixels of these images are")
        return float(sizes.min()), float(sizes.max())

    @cached_property
    def _limits(self) -> np.ndarray:
        """(images, 2) limits of the images that have been read whole; NaN of the others."""
        return np.full((len(self.collection), 2), np.nan)

    def _look(self, place: int, window: Window) -> tuple[np.ndarray, tuple[float, float]]:
        """A window of an image, or of its median, and the limits that it is scaled by.

        An image scaled by all of its own pixels is read whole once, later on no more than is seen.
        """
        if self.prepare.scale == "group":
            limits = self.prepare.low, self.prepare.high
        else:
            limits = tuple(self._limits[place].tolist())
        if np.isfinite(limits).all():
            return filter_window(self.collection, place, self.prepare, window), limits
        recorded = filter_row(self.collection, place, self.prepare)
        limits = find_limits(recorded, self.prepare)
        self._limits[place] = limits
        return recorded[window], limits

    def cut(self, numbers: np.ndarray, bits: np.ndarray, shape: tuple[int, int]) -> Taken:
        """Read samples; see `Feedable.cut`. An image of several of them is read once."""
        images = np.empty((len(numbers), *shape), np.float32)
        classes = None if self.classes is None else np.empty((len(numbers), *shape), np.uint8)
        places = np.asarray(numbers) // self.patches_per_image
        for place in np.unique(places).tolist():
            database = self.collection.databases[self.collection.sources[place]]
            whole = database.field(database.image_path).shape
            wanted = np.flatnonzero(places == place).tolist()
            windows = {k: find_window(whole, shape, bits[k]) for k in wanted}
            around = surround(windows.values())
            seen, limits = self._look(place, around)
            for k, window in windows.items():
                images[k] = rescale(seen[shift(window, around)], limits, self.prepare)
            if self.classes is not None and classes is not None:
                truth = self.classes.read(self.collection, [place], around)[0]
                for k, window in windows.items():
                    classes[k] = truth[shift(window, around)]
        return images, classes


def open_sources(file: TrainingFile) -> tuple[Samples, Samples | None]:
    """The samples that a training file names: those learnt from, and those held out if any are.

    Those held out share no structure with the others. Of a translated database the images that
    were not accepted are left out.

    Raises ConfigError for what the training file asks wrongly: images that do not exist, are
    smaller than a square or of different shapes without one, labels that are missing; DatabaseError
    for databases and subsets that are not what they were.
    """
    config = file.config
    cyclegan = isinstance(config, CycleganConfig)
    place = "simulation" if isinstance(config, CycleganConfig) else "data"
    section = config.simulation if isinstance(config, CycleganConfig) else config.data
    seed = config.training.seed
    if section.patch is None and section.patches_per_image > 1:
        raise ConfigError(f"{place}.patches_per_image: {section.patches_per_image} of whole images")
    try:
        asked = _find_rows(section, file)
        accepted = [take_accepted(part) for part in asked]
        training, validation = _divide(accepted, section, seed)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    used = _join([part for part in (training, validation) if part is not None])
    check_shapes(used, section.patch, place)
    classes = None if isinstance(config, CycleganConfig) else find_classes(config.target, used)
    prepare = _settle_preparation(section.preparation, used, training, place)

    rejected = sum(map(len, asked)) - sum(map(len, accepted))

    def make(rows: Collection) -> Samples:
        each = section.patches_per_image
        return Samples(rows, classes, prepare, section.patch, each, seed, rejected)

    if not cyclegan and validation is None and section.subset is None and section.validation > 0:
        raise ConfigError(f"{place}.validation: no image is held out")
    return make(training), None if validation is None else make(validation)


def _find_rows(section: Source, file: TrainingFile) -> list[Collection]:
    """The images asked for: two parts of a subset, or all that fulfil the condition."""
    paths = [file.locate(name) for name in section.databases]
    if section.subset is not None:
        parts = (section.training_part, section.validation_part)
        if parts[0] == parts[1]:
            raise ConfigError(f"training_part and validation_part are both {parts[0]!r}")
        subset = read_subset(file.locate(section.subset), paths or None)
        return [subset.select(part, section.draw) for part in parts]
    everything = open_collection(paths)
    if section.where is not None:
        everything = everything.where(section.where)
        if not len(everything):
            raise ConfigError(f"where: no image fulfils {section.where!r}")
    return [everything]


def _divide(
    found: list[Collection], section: Source, seed: int
) -> tuple[Collection, Collection | None]:
    """The images that are learnt from, and those held out; at most `most` of them together."""
    if len(found) == 2:
        return _thin(found[0], found[1], section.most, seed)
    share = Fraction(section.validation).limit_denominator(10**6)
    if share == 1:
        raise ConfigError("validation: 1 leaves nothing to learn from")
    rows = _thin(found[0], None, section.most, seed)[0]
    if share == 0:
        return rows, None
    try:
        subset = draw_subset(rows, split={TRAIN: 1 - share, VALIDATION: share}, seed=seed)
    except ConfigError as error:
        raise ConfigError(f"validation: {error}; 'validation: 0' holds nothing out") from error
    return subset.select(TRAIN), subset.select(VALIDATION)


def _thin(
    training: Collection, validation: Collection | None, most: int | None, seed: int
) -> tuple[Collection, Collection | None]:
    """At most so many images, drawn from all of both."""
    held = 0 if validation is None else len(validation)
    count = len(training) + held
    if most is None or count <= most:
        return training, validation
    bits = random_bits(f"hpctem/learning/{seed}/most", np.arange(count))
    kept = np.sort(np.argsort(bits, kind="stable")[:most])
    parts = kept[kept < len(training)], kept[kept >= len(training)] - len(training)
    if not len(parts[0]) or (validation is not None and not len(parts[1])):
        raise ConfigError(f"most: {most} of {count} images leave a part without any")
    return training.take(parts[0]), None if validation is None else validation.take(parts[1])


def _join(parts: list[Collection]) -> Collection:
    """All images of collections of the same databases."""
    sources = np.concatenate([part.sources for part in parts])
    return Collection(parts[0].databases, sources, np.concatenate([part.rows for part in parts]))


def list_used(images: Collection) -> list[Database]:
    """The databases that give images of a collection."""
    return [images.databases[number] for number in np.unique(images.sources)]


def list_shapes(images: Collection) -> Iterator[tuple[Database, tuple[int, ...]]]:
    """The shape of the images of each database that gives some."""
    for database in list_used(images):
        yield database, database.field(database.image_path).shape


def check_shapes(images: Collection, patch: int | None, place: str) -> None:
    """Raise ConfigError where squares do not fit, or whole images have different shapes."""
    shapes: dict[tuple[int, ...], Database] = {}
    for database, shape in list_shapes(images):
        if patch is not None and min(shape) < patch:
            raise ConfigError(
                f"{place}.patch: {patch} px do not fit in the images of {database.path}, which "
                f"have {shape[0]} x {shape[1]} px; take at most {min(shape)}"
            )
        shapes[shape] = database
    if patch is None and len(shapes) > 1:
        told = " and ".join(f"{ny} x {nx} px ({d.path})" for (ny, nx), d in shapes.items())
        side = min(min(shape) for shape in shapes)
        raise ConfigError(
            f"{place}: images of {told} cannot be learnt from side by side: give {place}.patch, "
            f"the side of squares of at most {side} px"
        )


def _settle_preparation(
    section: Preparation, used: Collection, training: Collection, place: str
) -> Prepare:
    """How all images are prepared; the limits of a group are measured on what is learnt from."""
    asking = {asks_for_median(database): database for database in list_used(used)}
    if len(asking) > 1 and not section.median:
        raise ConfigError(
            f"{place}.preparation.median: images of {asking[True].path} are looked at through a "
            f"3 x 3 median, those of {asking[False].path} are not; 'median: true' applies it to all"
        )
    median = section.median or True in asking
    how = Prepare(median, section.scale)
    # Evenly over the images, the same on every rank.
    places = np.unique(np.linspace(0, len(training) - 1, MOST_MEASURED).astype(np.int64))
    images = (filter_row(training, place, how) for place in places.tolist())
    measured = measure_preparation(images, section.model_copy(update={"median": False}))
    return replace(measured, median=median)
